// Max and average pooling, and the parameter-free shortcut of residual networks.
//
// A thread handles eight channels of one pixel of what it writes. `whole`: channels come in aligned groups of eight. The
// backward kernels gather: each pixel of dx asks the windows that hold it, in row order, so that windows may overlap.
// Types: TX of x, TY of y or dy, TDX of dx.
#include "lanes.cuh"

#define THREADS 128

// A thread's pixel of [images, h, w] and the first of its channels.
struct Place {
    int image, row, column, channel;
};

__device__ __forceinline__ Place place_of(int at, int h, int w, int lanes) {
    int pixel = at / lanes, row = pixel / w;
    return Place{row / h, row % h, pixel % w, 8 * (at % lanes)};
}

// The part of a window that lies in the image, along one axis.
struct Span {
    int start, end;
};

__device__ __forceinline__ Span window_of(int out, int window, int stride, int pad, int side) {
    int start = out * stride - pad;
    return Span{max(start, 0), min(start + window, side)};
}

// The windows that hold a pixel, along one axis.
__device__ __forceinline__ Span windows_over(int at, int window, int stride, int pad, int outs) {
    int reach = at + pad - window + stride;
    return Span{reach < 0 ? 0 : reach / stride, min((at + pad) / stride + 1, outs)};
}

// y [n, out_h, out_w, c] = the largest value of each window of x [n, h, w, c]; NaN if the window holds one.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
max_pool(const TX *x, TY *y, int n, int h, int w, int c, int out_h, int out_w, int window_h, int window_w, int stride, int pad,
         int whole) {
    int lanes = (c + 7) / 8, at = thread_number();
    if (at >= n * out_h * out_w * lanes) return;
    Place to = place_of(at, out_h, out_w, lanes);
    Span rows = window_of(to.row, window_h, stride, pad, h), columns = window_of(to.column, window_w, stride, pad, w);
    int left = c - to.channel;
    float best[8];
#pragma unroll
    for (int k = 0; k < 8; k++) best[k] = lowest();
    for (int row = rows.start; row < rows.end; row++)
        for (int column = columns.start; column < columns.end; column++) {
            float v[8];
            take(x + ((size_t)(to.image * h + row) * w + column) * c + to.channel, left, whole, v);
#pragma unroll
            for (int k = 0; k < 8; k++) best[k] = v[k] > best[k] || v[k] != v[k] ? v[k] : best[k];
        }
    put(y + ((size_t)(to.image * out_h + to.row) * out_w + to.column) * c + to.channel, left, whole, best);
}

// dx [n, h, w, c] = (or +=) each dy [n, out_h, out_w, c] at the first largest x of its window, in row order.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
max_pool_backward(const TX *x, const TY *dy, TDX *dx, int n, int h, int w, int c, int out_h, int out_w, int window_h,
                  int window_w, int stride, int pad, int whole, int add) {
    int lanes = (c + 7) / 8, at = thread_number();
    if (at >= n * h * w * lanes) return;
    Place to = place_of(at, h, w, lanes);
    Span rows = windows_over(to.row, window_h, stride, pad, out_h), columns = windows_over(to.column, window_w, stride, pad, out_w);
    int left = c - to.channel, own = to.row * w + to.column;
    TDX *target = dx + ((size_t)to.image * h * w + own) * c + to.channel;
    float sum[8] = {};
    if (add) take(target, left, whole, sum);
    for (int out_row = rows.start; out_row < rows.end; out_row++)
        for (int out_column = columns.start; out_column < columns.end; out_column++) {
            Span tall = window_of(out_row, window_h, stride, pad, h), wide = window_of(out_column, window_w, stride, pad, w);
            float best[8];
            int winner[8];
#pragma unroll
            for (int k = 0; k < 8; k++) {
                best[k] = lowest();
                winner[k] = tall.start * w + wide.start;
            }
            for (int row = tall.start; row < tall.end; row++)
                for (int column = wide.start; column < wide.end; column++) {
                    float v[8];
                    take(x + ((size_t)(to.image * h + row) * w + column) * c + to.channel, left, whole, v);
#pragma unroll
                    for (int k = 0; k < 8; k++) {
                        bool wins = v[k] > best[k] || v[k] != v[k];
                        best[k] = wins ? v[k] : best[k];
                        winner[k] = wins ? row * w + column : winner[k];
                    }
                }
            float d[8];
            take(dy + ((size_t)(to.image * out_h + out_row) * out_w + out_column) * c + to.channel, left, whole, d);
#pragma unroll
            for (int k = 0; k < 8; k++) sum[k] += winner[k] == own ? d[k] : 0.f;
        }
    put(target, left, whole, sum);
}

// y [n, out_h, out_w, c] = the mean of each window of x [n, h, w, c]; share is one over its pixels.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
avg_pool(const TX *x, TY *y, int n, int h, int w, int c, int out_h, int out_w, int window_h, int window_w, int stride, int pad,
         int whole, float share) {
    int lanes = (c + 7) / 8, at = thread_number();
    if (at >= n * out_h * out_w * lanes) return;
    Place to = place_of(at, out_h, out_w, lanes);
    Span rows = window_of(to.row, window_h, stride, pad, h), columns = window_of(to.column, window_w, stride, pad, w);
    int left = c - to.channel;
    float sum[8] = {};
    for (int row = rows.start; row < rows.end; row++) {
        const TX *from = x + ((size_t)(to.image * h + row) * w + columns.start) * c + to.channel;
        // Unrolled, so that four loads are under way: few threads share the work where a window is the whole image.
#pragma unroll 2
        for (int column = columns.start; column < columns.end; column++, from += c) {
            float v[8];
            take(from, left, whole, v);
#pragma unroll
            for (int k = 0; k < 8; k++) sum[k] += v[k];
        }
    }
#pragma unroll
    for (int k = 0; k < 8; k++) sum[k] *= share;
    put(y + ((size_t)(to.image * out_h + to.row) * out_w + to.column) * c + to.channel, left, whole, sum);
}

// dx [n, h, w, c] = (or +=) each dy [n, out_h, out_w, c] spread evenly over its window; share as above.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
avg_pool_backward(const TY *dy, TDX *dx, int n, int h, int w, int c, int out_h, int out_w, int window_h, int window_w,
                  int stride, int pad, int whole, float share, int add) {
    int lanes = (c + 7) / 8, at = thread_number();
    if (at >= n * h * w * lanes) return;
    Place to = place_of(at, h, w, lanes);
    Span rows = windows_over(to.row, window_h, stride, pad, out_h), columns = windows_over(to.column, window_w, stride, pad, out_w);
    int left = c - to.channel;
    float sum[8] = {};
    for (int row = rows.start; row < rows.end; row++)
        for (int column = columns.start; column < columns.end; column++) {
            float d[8];
            take(dy + ((size_t)(to.image * out_h + row) * out_w + column) * c + to.channel, left, whole, d);
#pragma unroll
            for (int k = 0; k < 8; k++) sum[k] = fmaf(share, d[k], sum[k]);
        }
    put(add, dx + ((size_t)(to.image * h + to.row) * w + to.column) * c + to.channel, left, whole, sum);
}

// y [n, out_h, out_w, before + c + after] = every stride-th pixel of x [n, h, w, c], moved right and down by `shift` with zeros
// behind it, between channels of zeros.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
pad_shortcut(const TX *x, TY *y, int n, int h, int w, int c, int stride, int shift, int before, int after, int whole) {
    int out_h = (h + stride - 1) / stride, out_w = (w + stride - 1) / stride, out_c = before + c + after;
    int lanes = (out_c + 7) / 8, at = thread_number();
    if (at >= n * out_h * out_w * lanes) return;
    Place to = place_of(at, out_h, out_w, lanes);
    int row = to.row * stride - shift, column = to.column * stride - shift;
    bool inside = row >= 0 && column >= 0;
    const TX *from = x + (inside ? ((size_t)(to.image * h + row) * w + column) * c : 0);
    int first = to.channel - before;
    float v[8] = {};
    if (inside && whole) {
        if (first >= 0 && first < c) take(from + first, c - first, true, v);
    } else if (inside) {
#pragma unroll
        for (int k = 0; k < 8; k++)
            if (first + k >= 0 && first + k < c) v[k] = load(from + first + k);
    }
    put(y + ((size_t)(to.image * out_h + to.row) * out_w + to.column) * out_c + to.channel, out_c - to.channel, whole, v);
}

// dx [n, h, w, c] = (or +=) dy [n, out_h, out_w, before + c + after] at the pixels that were copied, 0 at the others.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
pad_shortcut_backward(const TY *dy, TDX *dx, int n, int h, int w, int c, int stride, int shift, int before, int after, int whole,
                      int add) {
    int out_h = (h + stride - 1) / stride, out_w = (w + stride - 1) / stride, out_c = before + c + after;
    int lanes = (c + 7) / 8, at = thread_number();
    if (at >= n * h * w * lanes) return;
    Place to = place_of(at, h, w, lanes);
    int row = (to.row + shift) / stride, column = (to.column + shift) / stride;
    bool copied = (to.row + shift) % stride == 0 && (to.column + shift) % stride == 0 && row < out_h && column < out_w;
    if (add && !copied) return;
    int left = c - to.channel;
    float d[8] = {};
    if (copied) {
        size_t pixel = (size_t)(to.image * out_h + row) * out_w + column;
        take(dy + pixel * out_c + before + to.channel, left, whole, d);
    }
    put(add, dx + ((size_t)(to.image * h + to.row) * w + to.column) * c + to.channel, left, whole, d);
}
