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

// The model's own prediction as part of the targets (Reed et al., 2015): beta of the smoothed target, and the rest of the
// softmax q (through which the gradient goes: an entropy in the loss) or of the first largest logit's class.
#define SOFT 1
#define HARD 2

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

// The first largest logit of a row, negated (0 at most), lowest() where the largest is NaN. Class numbers are exact as floats;
// the smallest one is the largest of their negatives.
__device__ __forceinline__ float first_largest(const TX *z, float largest, int classes, int lane) {
    float first = lowest();
    for (int k = lane; k < classes; k += 32) {
        if (load(z + k) == largest) first = fmaxf(first, -(float)k);
    }
    return warp_max(first);
}

// q log q; a class of probability 0 has no part in an entropy.
__device__ __forceinline__ float q_log_q(float log_q) {
    float q = expf(log_q);
    return q > 0.f ? q * log_q : q;
}

// losses [n] = sum over classes of target * -log(softmax), see SOFT and HARD; hits [n] = 1 where the first largest logit is at a
// largest target. A row with NaN is no hit.
extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy(const TX *logits, const f32 *targets, f32 *losses, f32 *hits, int n, int classes, float smoothing,
              int bootstrap, float beta) {
    int lane = (int)threadIdx.x % 32, row = (int)blockIdx.x * ROWS + (int)threadIdx.x / 32;
    if (row >= n) return;
    const TX *z = logits + (size_t)row * classes;
    const f32 *t = targets + (size_t)row * classes;
    Softmax s = softmax_of(z, classes, lane);
    float loss = 0.f, top = lowest(), first = first_largest(z, s.largest, classes, lane);
    for (int k = lane; k < classes; k += 32) {
        float v = load(z + k), target = beta * smoothed(t[k], smoothing, classes);
        if (bootstrap == HARD && (float)k == -first) target += 1.f - beta;
        // A class without target adds nothing, even if its logit is minus infinity.
        if (target != 0.f) loss += target * (s.log_sum - (v - s.largest));
        if (bootstrap == SOFT) loss -= (1.f - beta) * q_log_q(v - s.largest - s.log_sum);
        top = fmaxf(top, t[k]);
    }
    loss = warp_sum(loss);
    top = warp_max(top);
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
// `scaled`; zeros where sum(weights) is 0. Each block adds up the weights by itself. With SOFT comes the gradient
// - q (log q + H) of the entropy H of the softmax q, by its weight.
extern "C" __global__ void __launch_bounds__(THREADS)
cross_entropy_backward(const TX *logits, const f32 *targets, const f32 *weights, const f32 *scale, TDX *dlogits, int n,
                       int classes, float smoothing, int bootstrap, float beta, int scaled) {
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
    float own = 1.f - beta, predicted = bootstrap == HARD ? -first_largest(z, s.largest, classes, lane) : -1.f;
    float mass = 0.f, entropy = 0.f;
    for (int k = lane; k < classes; k += 32) {
        mass += beta * smoothed(t[k], smoothing, classes);
        if ((float)k == predicted) mass += own;
        if (bootstrap == SOFT) entropy -= q_log_q(load(z + k) - s.largest - s.log_sum);
    }
    mass = warp_sum(mass);
    entropy = warp_sum(entropy);
    for (int k = lane; k < classes; k += 32) {
        float log_q = load(z + k) - s.largest - s.log_sum, softmax = expf(log_q);
        float by = softmax * mass - beta * smoothed(t[k], smoothing, classes);
        if ((float)k == predicted) by -= own;
        if (bootstrap == SOFT && softmax > 0.f) by -= own * softmax * (log_q + entropy);
        store(d + k, share * by);
    }
}
