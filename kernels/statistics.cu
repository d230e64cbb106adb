// Batch-norm's statistics and sums from partial ones, and the running statistics.
//
// A block of 1,024 threads merges eight channels: thread t takes channel t % 8 of every 128th group, so that a warp reads four
// groups of 32 bytes; then the 128 rows are added up in a fixed order.
#include "lanes.cuh"

#define THREADS 1024
#define CHANNELS 8
#define ROWS (THREADS / CHANNELS)
#define WARPS (THREADS / 32)

// v[i] of all threads of a channel, added up: threads below CHANNELS get the sums.
template <int N> __device__ __forceinline__ void sum_rows(float (&v)[N]) {
    SHARED_ARRAY(f32, space, [N][WARPS][CHANNELS]);
    int thread = (int)threadIdx.x;
#pragma unroll
    for (int i = 0; i < N; i++) {
#pragma unroll
        for (int offset = 16; offset >= CHANNELS; offset /= 2) v[i] += __shfl_xor_sync(0xffffffffu, v[i], offset);
        if (thread % 32 < CHANNELS) space[i][thread / 32][thread % 32] = v[i];
    }
    __syncthreads();
    if (thread >= CHANNELS) return;
#pragma unroll
    for (int i = 0; i < N; i++) {
        v[i] = 0.f;
#pragma unroll 8
        for (int warp = 0; warp < WARPS; warp++) v[i] += space[i][warp][thread];
    }
}

// stats [3, c] (count, mean, M2) from partials [groups, 2, c] (mean, M2), of `pixels` values each, `last` in the last.
//
// Differences from the first group's mean, as sum and sum of squares would cancel (Chan, Golub and LeVeque, 1979).
extern "C" __global__ void __launch_bounds__(THREADS)
merge_stats(const f32 *__restrict__ partials, f32 *__restrict__ stats, int groups, int pixels, int last, int c) {
    int channel = (int)blockIdx.x * CHANNELS + (int)threadIdx.x % CHANNELS;
    bool works = channel < c;
    float shift = works ? partials[channel] : 0.f;
    float sums[3] = {};  // of n d, n d^2 and M2
    if (works) {
#pragma unroll 4
        for (int g = (int)threadIdx.x / CHANNELS; g < groups; g += ROWS) {
            const f32 *from = partials + (size_t)g * 2 * c + channel;
            float d = from[0] - shift, n = (float)(g == groups - 1 ? last : pixels);
            sums[0] = fmaf(n, d, sums[0]);
            sums[1] = fmaf(n * d, d, sums[1]);
            sums[2] += from[c];
        }
    }
    sum_rows(sums);
    if ((int)threadIdx.x >= CHANNELS || !works) return;
    float count = (float)(groups - 1) * (float)pixels + (float)last, moved = sums[0] / count;
    stats[channel] = count;
    stats[c + channel] = shift + moved;
    stats[2 * c + channel] = sums[2] + fmaxf(sums[1] - sums[0] * moved, 0.f);
}

// dweight [c] and dbias [c] from partial sums [groups, 2, c].
extern "C" __global__ void __launch_bounds__(THREADS)
merge_sums(const f32 *__restrict__ partials, f32 *__restrict__ dweight, f32 *__restrict__ dbias, int groups, int c) {
    int channel = (int)blockIdx.x * CHANNELS + (int)threadIdx.x % CHANNELS;
    bool works = channel < c;
    float sums[2] = {};
    if (works) {
#pragma unroll 4
        for (int g = (int)threadIdx.x / CHANNELS; g < groups; g += ROWS) {
            const f32 *from = partials + (size_t)g * 2 * c + channel;
            sums[0] += from[0];
            sums[1] += from[c];
        }
    }
    sum_rows(sums);
    if ((int)threadIdx.x >= CHANNELS || !works) return;
    dweight[channel] = sums[0];
    dbias[channel] = sums[1];
}

// Moves running [3, c] (batches, mean, variance) by `momentum` towards a batch's stats [3, c] (count, mean, M2), with the
// unbiased variance M2 / (count - 1); nothing where *fault is not 0. A thread a channel.
extern "C" __global__ void __launch_bounds__(256)
fold_stats(const f32 *stats, const f32 *fault, f32 *running, int c, float momentum) {
    int k = thread_number();
    if (k >= c || *fault != 0.f) return;
    // A single value per channel has no variance; the estimate is then 0, not 0 / 0.
    float mean = stats[c + k], variance = stats[2 * c + k] / fmaxf(stats[k] - 1.f, 1.f);
    running[k] += 1.f;
    running[c + k] += momentum * (mean - running[c + k]);
    running[2 * c + k] += momentum * (variance - running[2 * c + k]);
}
