// Batch-norm's arithmetic, the same wherever a value is normalised: backward computes again which values the ReLU let
// through, so the last bit must agree.
#pragma once
#include "prelude.cuh"

// 1 / sqrt(variance + eps) of channel k. Statistics are [3, c]: count, mean, M2, or batches, mean, variance where `running`.
__device__ __forceinline__ float inverse_deviation(const f32 *stats, int c, int k, float eps, bool running) {
    float spread = stats[2 * c + k];
    return 1.f / sqrtf((running ? spread : spread / stats[k]) + eps);
}

// scale = weight * inverse deviation. Not x * scale + shift: with a mean of 1000 and a deviation of 1 that would lose three
// digits.
__device__ __forceinline__ float normalised(float x, float mean, float scale, float bias) {
    return fmaf(x - mean, scale, bias);
}
