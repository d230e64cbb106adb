// Cross-entropy with soft targets, its mean over the batch, and its gradient.
//
// One warp a row, eight warps a block; the mean is one block. Types: TX of the logits, TDX of their gradient; targets, weights
// and losses are f32.
#include "lanes.cuh"

#define THREADS 256
#define ROWS (THREADS / 32)

// Label smoothing (Szegedy et al., 2016): (1 - s) t + s / classes.
__device__ __forceinline__ float smoothed(float target, float smoothing, int classes) {
    return (1.f - smoothing) * target + smoothing / (float)classes;
}

// A row's largest logit and log(sum(exp(z - largest))). Largest is not NaN where another logit is not; the sum then is.
struct Softmax {
    float largest, log_sum;
};

__device__ __forceinline__ Softmax softmax_of(const TX *z, int classes, int lane) {
    float largest = lowest(), sum = 0.f;
    for (int k = lane; k < classes; k += 32) largest = fmaxf(largest, load(z + k));
    largest = warp_max(largest);
    for (int k = lane; k < classes; k += 32) sum += expf(load(z + k) - largest);
    return Softmax{largest, logf(warp_sum(sum))};
}

// losses [n] = sum over classes of smoothed target * -log(softmax); hits [n] = 1 where the first largest logit stands at a
// largest target. A row with NaN is no hit.
extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy(const TX *logits, const f32 *targets, f32 *losses, f32 *hits, int n, int classes, float smoothing) {
    int lane = (int)threadIdx.x % 32, row = (int)blockIdx.x * ROWS + (int)threadIdx.x / 32;
    if (row >= n) return;
    const TX *z = logits + (size_t)row * classes;
    const f32 *t = targets + (size_t)row * classes;
    Softmax s = softmax_of(z, classes, lane);
    // Class numbers are exact as floats; the smallest one is the largest of their negatives.
    float loss = 0.f, top = lowest(), first = lowest();
    for (int k = lane; k < classes; k += 32) {
        float v = load(z + k), target = smoothed(t[k], smoothing, classes);
        // A class without target adds nothing, even if its logit is minus infinity.
        if (target != 0.f) loss += target * (s.log_sum - (v - s.largest));
        top = fmaxf(top, t[k]);
        if (v == s.largest) first = fmaxf(first, -(float)k);
    }
    loss = warp_sum(loss);
    top = warp_max(top);
    first = warp_max(first);
    if (lane == 0) {
        losses[row] = loss;
        hits[row] = isfinite(s.log_sum) && isfinite(first) && t[(int)-first] == top ? 1.f : 0.f;
    }
}

// out = [sum(w loss) / sum(w), sum(w hit), sum(w)], zeros where sum(w) is 0. Rows of weight 0 do not count, whatever their
// value.
extern "C" __global__ void __launch_bounds__(THREADS)
mean_loss(const f32 *losses, const f32 *hits, const f32 *weights, f32 *out, int n) {
    float loss = 0.f, hit = 0.f, total = 0.f;
    for (int i = (int)threadIdx.x; i < n; i += THREADS) {
        float w = weights[i];
        total += w;
        if (w != 0.f) {
            loss += w * losses[i];
            hit += w * hits[i];
        }
    }
    loss = block_sum<THREADS>(loss);
    hit = block_sum<THREADS>(hit);
    total = block_sum<THREADS>(total);
    if (threadIdx.x == 0) {
        out[0] = total == 0.f ? 0.f : loss / total;
        out[1] = hit;
        out[2] = total;
    }
}

// dlogits [n, classes] = weight / sum(weights) * (softmax * sum(smoothed targets) - smoothed targets), times *scale where
// `scaled`; zeros where sum(weights) is 0. Each block adds up the weights by itself.
extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy_backward(const TX *logits, const f32 *targets, const f32 *weights, const f32 *scale, TDX *dlogits, int n,
                       int classes, float smoothing, int scaled) {
    float total = 0.f;
    for (int i = (int)threadIdx.x; i < n; i += THREADS) total += weights[i];
    total = block_sum<THREADS>(total);
    int lane = (int)threadIdx.x % 32, row = (int)blockIdx.x * ROWS + (int)threadIdx.x / 32;
    if (row >= n) return;
    const TX *z = logits + (size_t)row * classes;
    const f32 *t = targets + (size_t)row * classes;
    TDX *d = dlogits + (size_t)row * classes;
    float share = total == 0.f ? 0.f : weights[row] / total;
    if (share == 0.f) {
        for (int k = lane; k < classes; k += 32) store(d + k, 0.f);
        return;
    }
    if (scaled) share *= *scale;
    Softmax s = softmax_of(z, classes, lane);
    float mass = 0.f;
    for (int k = lane; k < classes; k += 32) mass += smoothed(t[k], smoothing, classes);
    mass = warp_sum(mass);
    for (int k = lane; k < classes; k += 32) {
        float softmax = expf(load(z + k) - s.largest - s.log_sum);
        store(d + k, share * (softmax * mass - smoothed(t[k], smoothing, classes)));
    }
}
