// From bytes and an order of samples to a batch: augmented, normalised, channels last, with the CPU's very draws.
//
// A block an image of the batch; a thread every 256th value of it, in the order in which they are written.
// Types: TX of the images; targets and weights are f32.
#include "lanes.cuh"
#include "philox.cuh"

#define THREADS 256

// The format that all images share.
struct Format {
    int h, w, c;
    float mean[4], std[4];
    int crop, reflect, flip, cutout;
};

#define FORMAT_PARAMETERS \
    int h, int w, int c, int classes, float mean0, float mean1, float mean2, float mean3, float std0, float std1, float std2, \
        float std3, int crop, int reflect, int flip, int cutout, u32 stream
#define FORMAT \
    Format { h, w, c, {mean0, mean1, mean2, mean3}, {std0, std1, std2, std3}, crop, reflect, flip, cutout }

// One image of a data set with its random draws.
struct Picture {
    const u8 *bytes;
    int dx, dy, label;
    bool mirrored;
    u32 hole;
};

__device__ __forceinline__ Picture picture(const Format &f, const Counters &now, const Dataset &data, u32 position, u32 stream) {
    u32 sample = data.order[now.first + position];
    Words words = draw(now.seed_lo, now.seed_hi, stream, now.epoch, sample, 0);
    int dx = (int)below(words.at[0], 2 * (u32)f.crop + 1) - f.crop, dy = (int)below(words.at[1], 2 * (u32)f.crop + 1) - f.crop;
    bool mirrored = f.flip && words.at[2] >> 31 == 1;
    return Picture{data.images + (size_t)sample * data.image_len, dx, dy, data.labels[sample], mirrored, words.at[3]};
}

// The row (or column) of the image, of `len`, that a coordinate of the padded one shows; -1 where that is zero.
__device__ __forceinline__ int source(int at, int len, bool reflect) {
    if (at >= 0 && at < len) return at;
    if (!reflect) return -1;
    return at < 0 ? -at : 2 * (len - 1) - at;
}

// Returns true if a coordinate lies in the square that is cut out; its centre is drawn by 16 bits.
__device__ __forceinline__ bool cut(int at, u32 half, int len, int side) {
    int first = (int)below(half << 16, (u32)len) - side / 2;
    return at >= first && at < first + side;
}

// Value i of the picture as the model sees it.
__device__ __forceinline__ float value(const Format &f, const Picture &p, int i) {
    int channel = i % f.c, column = i / f.c % f.w, line = i / f.c / f.w;
    int from_line = source(line + p.dy, f.h, f.reflect);
    int from_column = source((p.mirrored ? f.w - 1 - column : column) + p.dx, f.w, f.reflect);
    // Rows by the lower half of the fourth word, columns by the upper one.
    bool hole = cut(line, p.hole, f.h, f.cutout) && cut(column, p.hole >> 16, f.w, f.cutout);
    if (hole || from_line < 0 || from_column < 0) return 0.f;
    float mean = channel == 0 ? f.mean[0] : channel == 1 ? f.mean[1] : channel == 2 ? f.mean[2] : f.mean[3];
    float std = channel == 0 ? f.std[0] : channel == 1 ? f.std[1] : channel == 2 ? f.std[2] : f.std[3];
    // Two divisions and a difference, each rounded, as on the CPU: no bit differs.
    return ((float)p.bytes[(channel * f.h + from_line) * f.w + from_column] / 255.f - mean) / std;
}

// x [n, h, w, c], targets [n, classes] (one-hot), weights [n]. Row i is the sample at position first + offset + i of the data
// set's order; rows behind the last real one repeat it with weight 0.
extern "C" __global__ void __launch_bounds__(THREADS)
ingest(const Counters *counters, const Dataset *datasets, TX *x, f32 *targets, f32 *weights, int offset, FORMAT_PARAMETERS) {
    Counters now = *counters;
    Dataset data = datasets[now.dataset];
    Format format = FORMAT;
    u32 row = (u32)offset + blockIdx.x, last = now.rows > 0 ? now.rows - 1 : 0;
    Picture p = picture(format, now, data, min(row, last), stream);
    int len = h * w * c;
    for (int i = (int)threadIdx.x; i < len; i += THREADS) store(x + (size_t)blockIdx.x * len + i, value(format, p, i));
    for (int k = (int)threadIdx.x; k < classes; k += THREADS) targets[(size_t)blockIdx.x * classes + k] = k == p.label ? 1.f : 0.f;
    if (threadIdx.x == 0) weights[blockIdx.x] = row < now.rows ? 1.f : 0.f;
}

// The same, each image and its target mixed with those of the row that lies as far from the end of the whole batch as its own
// from the beginning: `share` of the own one. Products and sums are rounded one by one, as on the CPU.
extern "C" __global__ void __launch_bounds__(THREADS)
ingest_mixed(const Counters *counters, const Dataset *datasets, const f32 *share, TX *x, f32 *targets, f32 *weights, int offset,
             FORMAT_PARAMETERS) {
    Counters now = *counters;
    Dataset data = datasets[now.dataset];
    Format format = FORMAT;
    u32 row = (u32)offset + blockIdx.x, last = now.rows > 0 ? now.rows - 1 : 0, position = min(row, last);
    Picture p = picture(format, now, data, position, stream), q = picture(format, now, data, last - position, stream);
    float own = *share, rest = __fsub_rn(1.f, own);
    int len = h * w * c;
    for (int i = (int)threadIdx.x; i < len; i += THREADS) {
        float mixed = __fadd_rn(__fmul_rn(own, value(format, p, i)), __fmul_rn(rest, value(format, q, i)));
        store(x + (size_t)blockIdx.x * len + i, mixed);
    }
    for (int k = (int)threadIdx.x; k < classes; k += THREADS) {
        float mixed = __fadd_rn(k == p.label ? own : 0.f, k == q.label ? rest : 0.f);
        targets[(size_t)blockIdx.x * classes + k] = mixed;
    }
    if (threadIdx.x == 0) weights[blockIdx.x] = row < now.rows ? 1.f : 0.f;
}
