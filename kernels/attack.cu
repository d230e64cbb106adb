// A step of projected gradient descent on normalised images.
#include "prelude.cuh"

// delta [n, h, w, c] moves by rate / std in the sign of g, stays within radius / std, and x + delta stays the image of pixels
// from 0 to 1. A thread an element.
extern "C" __global__ void __launch_bounds__(256)
pgd_step(const f32 *x, const f32 *g, const f32 *radius, const f32 *rate, f32 *delta, int count, int c, float mean0,
         float mean1, float mean2, float mean3, float std0, float std1, float std2, float std3) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= count) return;
    int channel = i % c;
    float mean = channel == 0 ? mean0 : channel == 1 ? mean1 : channel == 2 ? mean2 : mean3;
    float std = channel == 0 ? std0 : channel == 1 ? std1 : channel == 2 ? std2 : std3;
    float slope = g[i], sign = slope > 0.f ? 1.f : slope < 0.f ? -1.f : 0.f;
    float most = *radius / std, moved = fminf(fmaxf(delta[i] + *rate / std * sign, -most), most);
    float pixel = x[i];
    delta[i] = fminf(fmaxf(moved, (0.f - mean) / std - pixel), (1.f - mean) / std - pixel);
}
