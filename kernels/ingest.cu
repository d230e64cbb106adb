// From bytes and an order of samples to a batch: augmented, normalised, channels last, with the CPU's very draws.
//
// A block an image of the batch; a thread every 256th value of it, in the order in which they are written.
// Types: TX of the images; targets and weights are f32.
#include "lanes.cuh"
#include "philox.cuh"

#define THREADS 256

// The row (or column) of the image, of `len`, that a coordinate of the padded one shows; -1 where that is zero.
__device__ __forceinline__ int source(int at, int len, bool reflect) {
    if (at >= 0 && at < len) return at;
    if (!reflect) return -1;
    return at < 0 ? -at : 2 * (len - 1) - at;
}

// Whether a coordinate lies in the square that is cut out; its centre is drawn by 16 bits.
__device__ __forceinline__ bool cut(int at, u32 half, int len, int side) {
    int first = (int)below(half << 16, (u32)len) - side / 2;
    return at >= first && at < first + side;
}

// x [n, h, w, c], targets [n, classes] (one-hot), weights [n]. Row i is the sample at position first + offset + i of the data
// set's order; rows behind the last real one repeat it with weight 0.
extern "C" __global__ void __launch_bounds__(THREADS)
ingest(const Counters *counters, const Dataset *datasets, TX *x, f32 *targets, f32 *weights, int offset, int h, int w, int c,
       int classes, float mean0, float mean1, float mean2, float mean3, float std0, float std1, float std2, float std3, int crop,
       int reflect, int flip, int cutout, u32 stream) {
    Counters now = *counters;
    Dataset data = datasets[now.dataset];
    u32 row = (u32)offset + blockIdx.x, last = now.rows > 0 ? now.rows - 1 : 0;
    u32 sample = data.order[now.first + min(row, last)];
    const u8 *bytes = data.images + (size_t)sample * data.image_len;
    Words words = draw(now.seed_lo, now.seed_hi, stream, now.epoch, sample, 0);
    int dx = (int)below(words.at[0], 2 * (u32)crop + 1) - crop, dy = (int)below(words.at[1], 2 * (u32)crop + 1) - crop;
    bool mirrored = flip && words.at[2] >> 31 == 1;
    int len = h * w * c;
    for (int i = (int)threadIdx.x; i < len; i += THREADS) {
        int channel = i % c, column = i / c % w, line = i / c / w;
        int from_line = source(line + dy, h, reflect);
        int from_column = source((mirrored ? w - 1 - column : column) + dx, w, reflect);
        // Rows by the lower half of the fourth word, columns by the upper one.
        bool hole = cut(line, words.at[3], h, cutout) && cut(column, words.at[3] >> 16, w, cutout);
        float value = 0.f;
        if (!hole && from_line >= 0 && from_column >= 0) {
            float mean = channel == 0 ? mean0 : channel == 1 ? mean1 : channel == 2 ? mean2 : mean3;
            float std = channel == 0 ? std0 : channel == 1 ? std1 : channel == 2 ? std2 : std3;
            // Two divisions and a difference, each rounded, as on the CPU: no bit differs.
            value = ((float)bytes[(channel * h + from_line) * w + from_column] / 255.f - mean) / std;
        }
        store(x + (size_t)blockIdx.x * len + i, value);
    }
    int label = data.labels[sample];
    for (int k = (int)threadIdx.x; k < classes; k += THREADS) targets[(size_t)blockIdx.x * classes + k] = k == label ? 1.f : 0.f;
    if (threadIdx.x == 0) weights[blockIdx.x] = row < now.rows ? 1.f : 0.f;
}
