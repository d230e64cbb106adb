// Elementwise kernels, and taps.
//
// A thread handles eight neighbouring elements; a tap's row has a block of its own. `whole`: all groups of eight are aligned.
// Types: TX of the first operand, TD of the gradient beside it or the second summand, TY of the result. Perturbations of taps
// and their gradients are f32.
#include "lanes.cuh"
#include "philox.cuh"

#define THREADS 256

extern "C" __global__ void __launch_bounds__(THREADS) relu(const TX *x, TY *y, int count, int whole) {
    int i = 8 * thread_number();
    if (i >= count) return;
    float v[8];
    take(x + i, count - i, whole, v);
    // NaN stays NaN, so that a fault is not hidden.
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = v[k] < 0.f ? 0.f : v[k];
    put(y + i, count - i, whole, v);
}

// dx = (or +=) dy where y > 0, y being the ReLU's output.
extern "C" __global__ void __launch_bounds__(THREADS)
relu_backward(const TX *y, const TD *dy, TY *dx, int count, int whole, int add) {
    int i = 8 * thread_number();
    if (i >= count) return;
    float v[8], d[8];
    take(y + i, count - i, whole, v);
    take(dy + i, count - i, whole, d);
#pragma unroll
    for (int k = 0; k < 8; k++) d[k] = v[k] > 0.f ? d[k] : 0.f;
    put(add, dx + i, count - i, whole, d);
}

extern "C" __global__ void __launch_bounds__(THREADS) add(const TX *a, const TD *b, TY *y, int count, int whole) {
    int i = 8 * thread_number();
    if (i >= count) return;
    float v[8], w[8];
    take(a + i, count - i, whole, v);
    take(b + i, count - i, whole, w);
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] += w[k];
    put(y + i, count - i, whole, v);
}

// y = (or +=) x; also the cast between types.
extern "C" __global__ void __launch_bounds__(THREADS) copy(const TX *x, TY *y, int count, int whole, int add) {
    int i = 8 * thread_number();
    if (i >= count) return;
    float v[8];
    take(x + i, count - i, whole, v);
    put(add, y + i, count - i, whole, v);
}

// y = (or +=) x / (1 - p) where the element's draw is at least p, else 0. Draws are keyed by the row's place in the epoch
// (first + offset + row). A thread has eight elements of one row: two blocks of draws.
extern "C" __global__ void __launch_bounds__(THREADS)
dropout(const TX *x, TY *y, const Counters *counters, int rows, int len, int offset, float p, u32 stream, int whole, int add) {
    int groups = (len + 7) / 8, at = thread_number();
    if (at >= rows * groups) return;
    int row = at / groups, i = 8 * (at % groups);
    float v[8];
    take(x + (size_t)row * len + i, len - i, whole, v);
    float scale = 1.f / (1.f - p);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        Words words = draw(counters->seed_lo, counters->seed_hi, stream, counters->epoch, counters->first + (u32)(offset + row),
                       (u32)(i / 4 + half));
        // Rounded before it is added to anything, as on the CPU.
#pragma unroll
        for (int k = 0; k < 4; k++) v[4 * half + k] = unit(words.at[k]) >= p ? __fmul_rn(v[4 * half + k], scale) : 0.f;
    }
    put(add, y + (size_t)row * len + i, len - i, whole, v);
}

// The factor of a row: 1 at probability `one`, else base + slope u, by words of the row's draws. See RowFactors in call.rs.
__device__ __forceinline__ float row_factor(const Counters *counters, int row, u32 stream, int word, float base, float slope,
                                            float one) {
    Words words = draw(counters->seed_lo, counters->seed_hi, stream, counters->epoch, counters->first + (u32)row, 0);
    float u = unit(word == 0 ? words.at[0] : words.at[1]);
    return unit(words.at[2]) < one ? 1.f : fmaf(slope, u, base);
}

// y = f a + (1 - f) b with rows [rows, len] and f the row's factor. A thread has eight elements of one row.
extern "C" __global__ void __launch_bounds__(THREADS)
mix_rows(const TX *a, const TD *b, TY *y, const Counters *counters, int rows, int len, int offset, u32 stream, int word, float base,
         float slope, float one, int whole) {
    int groups = (len + 7) / 8, at = thread_number();
    if (at >= rows * groups) return;
    int row = at / groups, i = 8 * (at % groups);
    size_t from = (size_t)row * len + i;
    float f = row_factor(counters, offset + row, stream, word, base, slope, one), rest = 1.f - f;
    float v[8], w[8];
    take(a + from, len - i, whole, v);
    take(b + from, len - i, whole, w);
    // Each product is rounded, as on the CPU.
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = __fmul_rn(f, v[k]) + __fmul_rn(rest, w[k]);
    put(y + from, len - i, whole, v);
}

// y = (or +=) f x with rows [rows, len] and f the row's factor.
extern "C" __global__ void __launch_bounds__(THREADS)
scale_rows(const TX *x, TY *y, const Counters *counters, int rows, int len, int offset, u32 stream, int word, float base, float slope,
           float one, int whole, int add) {
    int groups = (len + 7) / 8, at = thread_number();
    if (at >= rows * groups) return;
    int row = at / groups, i = 8 * (at % groups);
    size_t from = (size_t)row * len + i;
    float f = row_factor(counters, offset + row, stream, word, base, slope, one);
    float v[8];
    take(x + from, len - i, whole, v);
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = __fmul_rn(f, v[k]);
    put(add, y + from, len - i, whole, v);
}

// a . b over this block's row; every thread gets it.
template <class A, class B> __device__ __forceinline__ float row_dot(const A *a, const B *b, int len, bool whole) {
    float sum = 0.f;
    for (int i = 8 * (int)threadIdx.x; i < len; i += 8 * THREADS) {
        float v[8], w[8];
        take(a + i, len - i, whole, v);
        take(b + i, len - i, whole, w);
#pragma unroll
        for (int k = 0; k < 8; k++) sum = fmaf(v[k], w[k], sum);
    }
    return block_sum<THREADS>(sum);
}

// y = h + |h| delta, |h| being the 2-norm of the row.
extern "C" __global__ void __launch_bounds__(THREADS) tap(const TX *h, const f32 *delta, TY *y, int len, int whole) {
    size_t row = (size_t)blockIdx.x * len;
    float norm = sqrtf(row_dot(h + row, h + row, len, whole));
    for (int i = 8 * (int)threadIdx.x; i < len; i += 8 * THREADS) {
        float v[8], d[8];
        take(h + row + i, len - i, whole, v);
        take(delta + row + i, len - i, whole, d);
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = fmaf(norm, d[k], v[k]);
        put(y + row + i, len - i, whole, v);
    }
}

// dh = (or +=) dy + (dy . delta) h / |h|, without the second term where |h| is 0.
extern "C" __global__ void __launch_bounds__(THREADS)
tap_backward(const TX *h, const f32 *delta, const TD *dy, TY *dh, int len, int whole, int add) {
    size_t row = (size_t)blockIdx.x * len;
    float norm = sqrtf(row_dot(h + row, h + row, len, whole));
    float dot = row_dot(dy + row, delta + row, len, whole);
    float pull = norm > 0.f ? dot / norm : 0.f;
    for (int i = 8 * (int)threadIdx.x; i < len; i += 8 * THREADS) {
        float v[8], d[8];
        take(h + row + i, len - i, whole, v);
        take(dy + row + i, len - i, whole, d);
#pragma unroll
        for (int k = 0; k < 8; k++) d[k] = fmaf(pull, v[k], d[k]);
        put(add, dh + row + i, len - i, whole, d);
    }
}

// ddelta = |h| dy.
extern "C" __global__ void __launch_bounds__(THREADS) tap_delta(const TX *h, const TD *dy, f32 *ddelta, int len, int whole) {
    size_t row = (size_t)blockIdx.x * len;
    float norm = sqrtf(row_dot(h + row, h + row, len, whole));
    for (int i = 8 * (int)threadIdx.x; i < len; i += 8 * THREADS) {
        float d[8];
        take(dy + row + i, len - i, whole, d);
#pragma unroll
        for (int k = 0; k < 8; k++) d[k] *= norm;
        put(ddelta + row + i, len - i, whole, d);
    }
}
