// Batch-norm (Ioffe and Szegedy, 2015) with ReLU and max pool behind it, forward and backward, and its statistics.
//
// A thread handles V neighbouring channels (8, 4 or 1, a divisor of C) of every ROWS-th pixel that falls to its block: COLS
// threads side by side cover up to 256 V channels, so that a warp reads one run of memory. blockIdx.x says which pixels,
// blockIdx.y which channels. Values that depend on the channel alone are computed once a block, in shared memory, and then
// held in registers.
//
// With WINDOW > 1 a thread's pixels are those of a pool window; the values before the pool are never stored.
// Types: TX of x, TY of y or dy, TDX of dx.
#include "lanes.cuh"
#include "norm.cuh"

#define THREADS 256
#define LANES (C / V)
#define COLS (LANES < THREADS ? LANES : THREADS)
#define ROWS (THREADS / COLS)
// Channels of a block.
#define SLAB (COLS * V)
// Pixels whose loads are under way at once.
#define UNROLL (WINDOW == 1 ? 2 : 1)

template <class T> __device__ __forceinline__ void take_channels(const T *p, float (&v)[V]) {
    if constexpr (V == 1) v[0] = load(p);
    else load_group(p, v);
}

template <class T> __device__ __forceinline__ void put_channels(T *p, const float (&v)[V]) {
    if constexpr (V == 1) store(p, v[0]);
    else store_group(p, v);
}

// A thread's place: its row of pixels and the first of its channels, in the slab and in all. Threads behind the last row or
// channel only help to fill shared memory.
struct Thread {
    int row, local, channel;
    bool works;
};

__device__ __forceinline__ Thread this_thread() {
    int row = (int)threadIdx.x / COLS, local = V * ((int)threadIdx.x % COLS), channel = (int)blockIdx.y * SLAB + local;
    return Thread{row, local, channel, row < ROWS && channel < C};
}

// Coefficients that normalise a slab's channels, and the comparison of values.
struct Coefficients {
    float mean[V], scale[V], bias[V];

    __device__ __forceinline__ float value(int k, float x) const { return normalised(x, mean[k], scale[k], bias[k]); }
};

// A table of N values for each channel of the slab.
template <int N> __device__ __forceinline__ void read_table(const f32 (&table)[SLAB], int local, float (&v)[N]) {
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = table[local + k];
}

// Fills the tables of the slab; a barrier must follow.
__device__ __forceinline__ void fill_tables(f32 (&means)[SLAB], f32 (&scales)[SLAB], f32 (&biases)[SLAB], const f32 *stats,
                                            const f32 *weight, const f32 *bias, float eps, bool running) {
    for (int i = (int)threadIdx.x; i < SLAB; i += THREADS) {
        int k = (int)blockIdx.y * SLAB + i;
        if (k >= C) break;
        means[i] = stats[C + k];
        scales[i] = weight[k] * inverse_deviation(stats, C, k, eps, running);
        biases[i] = bias[k];
    }
}

// First pixel of window number `at` of [n, rows, columns], in images of h * w.
__device__ __forceinline__ int first_pixel(int at, int rows, int columns, int h, int w) {
    if (WINDOW == 1) return at;
    int row = at / columns;
    return (row / rows * h + row % rows * WINDOW) * w + at % columns * WINDOW;
}

// For each channel of a window of x: the number of the first pixel with the largest value, and its x - mean; -1 and 0 where no
// value is above `floor`. Values are compared as they would be stored, so that a pool of stored values has the same winners.
__device__ __forceinline__ void winners(const TX *x, int w, const Coefficients &co, float floor, int (&winner)[V],
                                        float (&centred)[V]) {
    float best[V];
#pragma unroll
    for (int k = 0; k < V; k++) {
        best[k] = floor;
        winner[k] = -1;
        centred[k] = 0.f;
    }
#pragma unroll
    for (int at = 0; at < WINDOW * WINDOW; at++) {
        float v[V];
        take_channels(x + (size_t)(at / WINDOW * w + at % WINDOW) * C, v);
#pragma unroll
        for (int k = 0; k < V; k++) {
            float value = to_float(from_float<TX>(co.value(k, v[k])));
            bool wins = value > best[k];
            winner[k] = wins ? at : winner[k];
            centred[k] = wins ? v[k] - co.mean[k] : centred[k];
            best[k] = wins ? value : best[k];
        }
    }
}

// y [n, h / WINDOW, w / WINDOW, C] = maxpool(max(weight * (x - mean) / sqrt(variance + eps) + bias, floor)); `outs` pixels of
// y. NaN comes out, so that a fault is not hidden.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
norm_apply(const TX *__restrict__ x, const f32 *__restrict__ stats, const f32 *__restrict__ weight, const f32 *__restrict__ bias,
           TY *__restrict__ y, int outs, int h, int w, float eps, float floor, int running) {
    SHARED_ARRAY(f32, means, [SLAB]);
    SHARED_ARRAY(f32, scales, [SLAB]);
    SHARED_ARRAY(f32, biases, [SLAB]);
    fill_tables(means, scales, biases, stats, weight, bias, eps, running);
    __syncthreads();
    Thread t = this_thread();
    if (!t.works) return;
    Coefficients co;
    read_table(means, t.local, co.mean);
    read_table(scales, t.local, co.scale);
    read_table(biases, t.local, co.bias);
#pragma unroll UNROLL
    for (int at = (int)blockIdx.x * ROWS + t.row; at < outs; at += (int)gridDim.x * ROWS) {
        const TX *from = x + (size_t)first_pixel(at, h / WINDOW, w / WINDOW, h, w) * C + t.channel;
        float best[V];
#pragma unroll
        for (int k = 0; k < V; k++) best[k] = floor;
#pragma unroll
        for (int i = 0; i < WINDOW * WINDOW; i++) {
            float v[V];
            take_channels(from + (size_t)(i / WINDOW * w + i % WINDOW) * C, v);
#pragma unroll
            for (int k = 0; k < V; k++) {
                float value = co.value(k, v[k]);
                best[k] = value > best[k] || value != value ? value : best[k];
            }
        }
        put_channels(y + (size_t)at * C + t.channel, best);
    }
}

// Threads that hold sums of the same channels, after the warp has added up its own where whole rows fit in it.
#define FOLDED (COLS < 32 && 32 % COLS == 0)
#define PARTS (FOLDED ? THREADS / 32 : ROWS)

// Sums of each channel over the rows of the block, in a fixed order: v[k] of the threads of row 0 becomes the sum; what the
// others get is of no use. `space` is scratch of PARTS * SLAB values. All threads must call it; threads without work bring 0.
__device__ __forceinline__ void sum_rows(f32 (&space)[PARTS][SLAB], const Thread &t, float (&v)[V]) {
    int part = t.row;
    bool writes = t.works;
    if (FOLDED) {
#pragma unroll
        for (int k = 0; k < V; k++)
#pragma unroll
            for (int offset = 16; offset >= COLS; offset /= 2) v[k] += __shfl_xor_sync(0xffffffffu, v[k], offset);
        part = (int)threadIdx.x / 32;
        writes = (int)threadIdx.x % 32 < COLS;
    }
    if (writes) {
        // Channels of a thread lie COLS apart, so that neighbours write to neighbouring banks.
#pragma unroll
        for (int k = 0; k < V; k++) space[part][k * COLS + t.local / V] = v[k];
    }
    __syncthreads();
    if (t.works && t.row == 0) {
#pragma unroll
        for (int k = 0; k < V; k++) {
            v[k] = space[0][k * COLS + t.local / V];
            for (int i = 1; i < PARTS; i++) v[k] += space[i][k * COLS + t.local / V];
        }
    }
    __syncthreads();
}

// partials [blocks, 2, C]: mean and M2 of each block's `size` pixels (fewer in the last), of `pixels` in all.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
batch_stats(const TX *__restrict__ x, f32 *__restrict__ partials, int pixels, int size) {
    SHARED_ARRAY(f32, space, [PARTS][SLAB]);
    Thread t = this_thread();
    int begin = (int)blockIdx.x * size, end = min(begin + size, pixels);
    float shift[V] = {}, sum[V] = {}, squares[V] = {};
    if (t.works) {
        // Differences from a value of the block itself stay small where the mean is large.
        take_channels(x + (size_t)begin * C + t.channel, shift);
#pragma unroll 4
        for (int p = begin + t.row; p < end; p += ROWS) {
            float v[V];
            take_channels(x + (size_t)p * C + t.channel, v);
#pragma unroll
            for (int k = 0; k < V; k++) {
                float d = v[k] - shift[k];
                sum[k] += d;
                squares[k] = fmaf(d, d, squares[k]);
            }
        }
    }
    sum_rows(space, t, sum);
    sum_rows(space, t, squares);
    if (!t.works || t.row > 0) return;
    f32 *to = partials + (size_t)blockIdx.x * 2 * C + t.channel;
    float share = 1.f / (float)(end - begin);
#pragma unroll
    for (int k = 0; k < V; k++) {
        to[k] = fmaf(sum[k], share, shift[k]);
        to[C + k] = fmaxf(squares[k] - sum[k] * sum[k] * share, 0.f);
    }
}

// partials [blocks, 2, C]: sums over each block's `size` pixels of dy, brought back through pool and ReLU, times xhat, and of
// the same without xhat. `outs` pixels of dy in all.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
norm_backward_sums(const TX *__restrict__ x, const f32 *__restrict__ stats, const f32 *__restrict__ weight,
                   const f32 *__restrict__ bias, const TY *__restrict__ dy, f32 *__restrict__ partials, int outs, int size, int h,
                   int w, float eps, float floor, int running) {
    SHARED_ARRAY(f32, means, [SLAB]);
    SHARED_ARRAY(f32, scales, [SLAB]);
    SHARED_ARRAY(f32, biases, [SLAB]);
    SHARED_ARRAY(f32, space, [PARTS][SLAB]);
    fill_tables(means, scales, biases, stats, weight, bias, eps, running);
    __syncthreads();
    Thread t = this_thread();
    float sum[V] = {}, product[V] = {};
    if (t.works) {
        Coefficients co;
        read_table(means, t.local, co.mean);
        read_table(scales, t.local, co.scale);
        read_table(biases, t.local, co.bias);
        int begin = (int)blockIdx.x * size, end = min(begin + size, outs);
#pragma unroll UNROLL
        for (int at = begin + t.row; at < end; at += ROWS) {
            const TX *from = x + (size_t)first_pixel(at, h / WINDOW, w / WINDOW, h, w) * C + t.channel;
            float d[V];
            take_channels(dy + (size_t)at * C + t.channel, d);
            if (WINDOW == 1) {
                float v[V];
                take_channels(from, v);
#pragma unroll
                for (int k = 0; k < V; k++) {
                    float kept = co.value(k, v[k]) > floor ? d[k] : 0.f;
                    sum[k] += kept;
                    product[k] = fmaf(kept, v[k] - co.mean[k], product[k]);
                }
                continue;
            }
            float centred[V];
            int winner[V];
            winners(from, w, co, floor, winner, centred);
#pragma unroll
            for (int k = 0; k < V; k++) {
                float kept = winner[k] >= 0 ? d[k] : 0.f;
                sum[k] += kept;
                product[k] = fmaf(kept, centred[k], product[k]);
            }
        }
    }
    sum_rows(space, t, sum);
    sum_rows(space, t, product);
    if (!t.works || t.row > 0) return;
    f32 *to = partials + (size_t)blockIdx.x * 2 * C + t.channel;
#pragma unroll
    for (int k = 0; k < V; k++) {
        to[k] = product[k] * inverse_deviation(stats, C, t.channel + k, eps, running);
        to[C + k] = sum[k];
    }
}

// dx [n, h, w, C] = (or +=) scale * (d - dbias / count - xhat * dweight / count), or scale * d where the statistics are
// running ones and so do not depend on x; d is dy brought back through pool and ReLU, 0 at pixels that no window covers.
// `windows` counts those that are cut at the border too.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
norm_backward_data(const TX *__restrict__ x, const f32 *__restrict__ stats, const f32 *__restrict__ weight,
                   const f32 *__restrict__ bias, const TY *__restrict__ dy, const f32 *__restrict__ dweight,
                   const f32 *__restrict__ dbias, TDX *__restrict__ dx, int windows, int h, int w, float eps, float floor,
                   int running, int add) {
    SHARED_ARRAY(f32, means, [SLAB]);
    SHARED_ARRAY(f32, scales, [SLAB]);
    SHARED_ARRAY(f32, biases, [SLAB]);
    SHARED_ARRAY(f32, levels, [SLAB]);
    SHARED_ARRAY(f32, leans, [SLAB]);
    fill_tables(means, scales, biases, stats, weight, bias, eps, running);
    // dx = scale * d + level + lean * (x - mean)
    for (int i = (int)threadIdx.x; i < SLAB; i += THREADS) {
        int k = (int)blockIdx.y * SLAB + i;
        if (k >= C) break;
        float share = running ? 0.f : scales[i] / stats[k];
        levels[i] = running ? 0.f : -share * dbias[k];
        leans[i] = running ? 0.f : -share * inverse_deviation(stats, C, k, eps, running) * dweight[k];
    }
    __syncthreads();
    Thread t = this_thread();
    if (!t.works) return;
    Coefficients co;
    float level[V], lean[V];
    read_table(means, t.local, co.mean);
    read_table(scales, t.local, co.scale);
    read_table(biases, t.local, co.bias);
    read_table(levels, t.local, level);
    read_table(leans, t.local, lean);
    int rows = (h + WINDOW - 1) / WINDOW, columns = (w + WINDOW - 1) / WINDOW, out_h = h / WINDOW, out_w = w / WINDOW;
#pragma unroll UNROLL
    for (int at = (int)blockIdx.x * ROWS + t.row; at < windows; at += (int)gridDim.x * ROWS) {
        size_t start = (size_t)first_pixel(at, rows, columns, h, w) * C + t.channel;
        int row = at / columns % rows, column = at % columns;
        float d[V] = {}, centred[V];
        int winner[V];
        bool whole = WINDOW == 1 || (row < out_h && column < out_w);
        if (whole) {
            size_t out = WINDOW == 1 ? at : (size_t)(at / columns / rows * out_h + row) * out_w + column;
            take_channels(dy + out * C + t.channel, d);
            if (WINDOW > 1) winners(x + start, w, co, floor, winner, centred);
        }
#pragma unroll
        for (int i = 0; i < WINDOW * WINDOW; i++) {
            if (WINDOW > 1 && (row * WINDOW + i / WINDOW >= h || column * WINDOW + i % WINDOW >= w)) continue;
            size_t place = start + (size_t)(i / WINDOW * w + i % WINDOW) * C;
            float v[V], result[V];
            take_channels(x + place, v);
#pragma unroll
            for (int k = 0; k < V; k++) {
                bool passes = WINDOW == 1 ? co.value(k, v[k]) > floor : whole && winner[k] == i;
                result[k] = fmaf(co.scale[k], passes ? d[k] : 0.f, fmaf(lean[k], v[k] - co.mean[k], level[k]));
            }
            if (add) {
                float before[V];
                take_channels(dx + place, before);
#pragma unroll
                for (int k = 0; k < V; k++) result[k] += before[k];
            }
            put_channels(dx + place, result);
        }
    }
}
