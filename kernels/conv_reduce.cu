// Helpers of convolutions and linear layers beside their matrix product. One thread an element (or four), blocks of 256.
#include "prelude.cuh"

#ifndef TX
#define TX f32
#endif
#ifndef TC
#define TC f32
#endif

// out [len] = sum over slices of work [slices, len], from the first slice on, plus bias [columns] of the element's column where
// columns > 0. A thread has four elements where len is a multiple of 4, else one.
extern "C" __global__ void __launch_bounds__(256)
    merge_slices(const float *work, TC *out, const float *bias, int slices, int len, int columns) {
    const int thread = (int)blockIdx.x * 256 + (int)threadIdx.x;
    if (len % 4 == 0) {
        const int at = 4 * thread;
        if (at >= len) return;
        float sum[4], next[4];
        load4(work + at, sum);
#pragma unroll 4
        for (int s = 1; s < slices; s++) {
            load4(work + (size_t)s * len + at, next);
#pragma unroll
            for (int i = 0; i < 4; i++) sum[i] += next[i];
        }
        if (columns > 0) {
#pragma unroll
            for (int i = 0; i < 4; i++) sum[i] += bias[(at + i) % columns];
        }
        store4(out + at, sum);
        return;
    }
    if (thread >= len) return;
    float sum = work[thread];
    for (int s = 1; s < slices; s++) sum += work[(size_t)s * len + thread];
    if (columns > 0) sum += bias[thread % columns];
    store(out + thread, sum);
}

// out [len] = x [len] in another type.
extern "C" __global__ void __launch_bounds__(256) convert(const TX *x, TC *out, int len) {
    const int at = (int)blockIdx.x * 256 + (int)threadIdx.x;
    if (at < len) store(out + at, load(x + at));
}

// sums [columns] of x [rows, columns] over its rows. A block has 32 columns; each of its 8 warps sums every eighth row, then
// the warps' sums are added from the first on.
extern "C" __global__ void __launch_bounds__(256) column_sums(const TX *x, float *sums, int rows, int columns) {
    SHARED_ARRAY(float, parts, [8][32]);
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, column = (int)blockIdx.x * 32 + lane;
    float sum = 0.f;
    if (column < columns) {
#pragma unroll 4
        for (int row = warp; row < rows; row += 8) sum += load(x + row * columns + column);
    }
    parts[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || column >= columns) return;
    for (int w = 1; w < 8; w++) sum += parts[w][lane];
    sums[column] = sum;
}
