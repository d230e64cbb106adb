// The kernels of a rung that defines `tile`, TILE_M, TILE_N, DEEP, CHUNK and BLOCK: which tile of C a block computes, and
// from where to where in K.
//
// blockIdx.x counts the tiles of C, columns first, so that neighbours share their rows of pixels in the cache; blockIdx.z is
// the slice of K (`span` tiles each), or of BACKWARD_DATA the parity of the pixels.
#pragma once

#if PASS == FORWARD
// x, w -> y; n images. Grid: (row tiles * column tiles, 1, slices).
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS)
        conv_forward(const TA *x, const TB *w, TC *y, const TR *residual, const float *bias, float *partials, int n, int span) {
    const int group = (int)blockIdx.x / COLUMN_TILES, m0 = group * TILE_M, n0 = (int)blockIdx.x % COLUMN_TILES * TILE_N;
    const int rows = n * OUT_PIXELS, begin = (int)blockIdx.z * span;
    const int tiles = min(span, (DEPTH + DEEP - 1) / DEEP - begin);
    const Parity parity(0);
    const Epilogue e = {y, bias, residual, partials, nullptr, nullptr, nullptr, nullptr};
    tile<true, true>(x, w, PixelRows<TILE_M, DEEP, CHUNK, BLOCK>(parity, m0, rows, begin * DEEP),
                   WeightRows<TILE_N, DEEP, CHUNK, BLOCK>(n0, begin * DEEP), tiles, e, parity, m0, n0, rows, group);
}
#elif PASS == BACKWARD_DATA
// dy, w -> dx; n images. Grid: (row tiles of the largest parity * column tiles, 1, STRIDE * STRIDE).
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS)
        conv_backward_data(const TA *dy, const TB *w, TC *dx, const TN *norm_x, const float *norm_stats,
                       const float *norm_weight, const float *norm_bias, float *partials, int n) {
    const int row_tile = (int)blockIdx.x / COLUMN_TILES, m0 = row_tile * TILE_M;
    const int n0 = (int)blockIdx.x % COLUMN_TILES * TILE_N;
    const Parity parity((int)blockIdx.z);
    const int rows = n * parity.height * parity.width;
#if defined(ADD) && !defined(NORM)
    if (parity.depth() == 0) return;  // no tap reaches these pixels: of a 1x1 convolution of stride 2 three quarters
#endif
    const int group = (int)blockIdx.z * ((int)gridDim.x / COLUMN_TILES) + row_tile;
    const Epilogue e = {dx, nullptr, nullptr, partials, norm_x, norm_stats, norm_weight, norm_bias};
    tile<true, false>(dy, w, PixelRows<TILE_M, DEEP, CHUNK, BLOCK>(parity, m0, rows, 0),
                    WeightColumns<TILE_N, DEEP, CHUNK, BLOCK>(parity, n0), ceil_div(parity.depth(), DEEP), e, parity, m0, n0,
                    rows, group);
}
#else
// x, dy -> dw; n images. Grid: (row tiles * column tiles, 1, slices).
extern "C" __global__ void __launch_bounds__(BLOCK, BLOCKS)
        conv_backward_weight(const TA *dy, const TB *x, TC *dw, int n, int span) {
    const int m0 = (int)blockIdx.x / COLUMN_TILES * TILE_M, n0 = (int)blockIdx.x % COLUMN_TILES * TILE_N;
    const int pixels = n * OUT_PIXELS, begin = (int)blockIdx.z * span * DEEP, end = min(pixels, begin + span * DEEP);
    const Parity parity(0);
    const Epilogue e = {dw, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
    tile<false, false>(dy, x, GradColumns<TILE_M, DEEP, CHUNK, BLOCK>(m0, begin, end),
                     PixelColumns<TILE_N, DEEP, CHUNK, BLOCK>(n0, begin, end), ceil_div(end - begin, DEEP), e, parity, m0, n0,
                     CO, 0);
}
#endif
