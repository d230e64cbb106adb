// The epilogue of a tile of sums, the same for every rung: it adds a bias, a residual or the gradient that is there already,
// rounds the values to the type they are stored as, and takes the sums over pixels that a batch-norm needs. Every tile has
// partial sums of its own, which a second kernel merges in order.
//
// A rung puts its sums into shared memory, a band of rows at a time. A thread has VEC neighbouring columns and every
// LANES-th row, so that global accesses are wide and in a row, and the sums over a column merge in the order of lanes.
//
// Macros: SLICED (the sums are one slice of K: stored as they are), BIAS, RESIDUAL, ADD, STATISTICS, NORM with RELU, RUNNING
// and EPS_BITS; types TC (what is stored), TR (the residual), TN (the batch-norm's input).
#pragma once
#include "conv_gather.cuh"
#include "norm.cuh"

#ifndef FINISH_SYNC  // a barrier of the threads that finish a tile
#define FINISH_SYNC() __syncthreads()
#endif
#ifndef TR
#define TR f32
#endif
#ifndef TN
#define TN f32
#endif

struct Epilogue {
    TC *out;
    const float *bias;      // BIAS: [N]
    const TR *residual;     // RESIDUAL: as out
    float *partials;        // STATISTICS, NORM: [groups, 2, N]
    const TN *norm_x;       // NORM: x, statistics [3, N], weight [N], bias [N] of the batch-norm before this convolution
    const float *norm_stats, *norm_weight, *norm_bias;
};

// Padding of a row of sums: fragments of mma, rows eight apart in banks, are written without conflicts.
constexpr int BAND_PAD = 8;

template <class T> __device__ __forceinline__ void read(const T *p, float (&v)[1]) { v[0] = load(p); }
template <class T> __device__ __forceinline__ void read(const T *p, float (&v)[4]) { load4(p, v); }
template <class T> __device__ __forceinline__ void read(const T *p, float (&v)[8]) { load8(p, v); }
template <class T> __device__ __forceinline__ void write(T *p, const float (&v)[1]) { store(p, v[0]); }
template <class T> __device__ __forceinline__ void write(T *p, const float (&v)[4]) { store4(p, v); }
template <class T> __device__ __forceinline__ void write(T *p, const float (&v)[8]) { store8(p, v); }

template <int ROWS, int COLS, int THREADS> struct Finish {
#ifdef UNALIGNED
    static constexpr int VEC = 1;
#else
    // Eight only where a row has chunks for many threads (fewer rows for each, but more lanes to merge) and registers are free.
    static constexpr bool WIDE = COLUMNS % 8 == 0 && sizeof(TC) == 2 && COLS >= 128 && ROWS == TILE_M;
    static constexpr int VEC = WIDE ? 8 : COLUMNS % 4 == 0 ? 4 : 1;
#endif
    // Rows whose operands are fetched together, as far as registers go: those of sums that wait for another band are taken.
#if defined(NORM) && defined(ADD)
    static constexpr int BATCH = 4;
#else
    static constexpr int BATCH = ROWS < TILE_M ? 4 : 8;
#endif
    static constexpr int LD = COLS + BAND_PAD;
    // The lanes' partial sums fit into a band's place: with few columns some threads have nothing to do.
    static constexpr int ACROSS = COLS / VEC, LANES = THREADS / ACROSS * 3 <= ROWS ? THREADS / ACROSS : ROWS / 3;
    static_assert(LANES >= 1, "a thread for every group of columns");
    const Epilogue &e;
    const Parity &parity;
    int column, lane, rows;      // first column of this thread in C; its lane; rows of C
    float count;                 // rows summed so far
    float first[VEC], second[VEC];  // STATISTICS: mean and M2; NORM: sums of dz xhat and of dz
    float mean[VEC], inverse[VEC], scale[VEC], shift[VEC];

    __device__ __forceinline__ Finish(const Epilogue &e, const Parity &parity, int n0, int rows)
            : e(e), parity(parity), rows(rows), count(0.f) {
        const int t = (int)threadIdx.x;
        column = n0 + t % ACROSS * VEC;
        lane = t / ACROSS;
        if (column >= COLUMNS) lane = LANES;  // nothing to do
#pragma unroll
        for (int v = 0; v < VEC; v++) first[v] = second[v] = 0.f;
#ifdef NORM
#pragma unroll
        for (int v = 0; v < VEC; v++) {
            if (lane >= LANES) break;
            const int c = column + v;
#ifdef RUNNING
            inverse[v] = inverse_deviation(e.norm_stats, COLUMNS, c, __uint_as_float(EPS_BITS), true);
#else
            inverse[v] = inverse_deviation(e.norm_stats, COLUMNS, c, __uint_as_float(EPS_BITS), false);
#endif
            mean[v] = e.norm_stats[COLUMNS + c];
            scale[v] = e.norm_weight[c] * inverse[v];
            shift[v] = e.norm_bias[c];
        }
#endif
    }

    // Returns the offset of row `row` of C.
    __device__ __forceinline__ int place(int row) const {
#if PASS == BACKWARD_DATA
        if constexpr (STRIDE > 1) {
            const int area = parity.height * parity.width, image = row / area, pixel = row - image * area;
            const int y = parity.y + pixel / parity.width * STRIDE, x = parity.x + pixel % parity.width * STRIDE;
            return ((image * HEIGHT + y) * WIDTH + x) * CI;
        }
#endif
        return row * COLUMNS;
    }

    // Takes the band that begins at row m0 of C. All threads of the block have written their sums and passed a barrier.
    __device__ __forceinline__ void band(float *tile, int m0) {
        float *mine = tile + (int)threadIdx.x % ACROSS * VEC;
        const int end = min(ROWS, rows - m0);
        [[maybe_unused]] float sum[VEC] = {};
        [[maybe_unused]] int taken = 0;
#if defined(SLICED) || PASS == BACKWARD_WEIGHT
        // A slice of C for each z, where there are several; another kernel merges them, and does all else.
        TC *out = e.out + (size_t)blockIdx.z * (size_t)rows * COLUMNS;
#else
        TC *out = e.out;
#endif
        for (int begin = lane; lane < LANES && begin < end; begin += LANES * BATCH) {
            // All that is read of global memory first: a load behind a store would wait for the store before it.
            [[maybe_unused]] float old[BATCH][VEC], x[BATCH][VEC];
#pragma unroll
            for (int j = 0; j < BATCH; j++) {
                const int r = begin + j * LANES, at = place(m0 + r) + column;
                if (r >= end) break;
#ifdef RESIDUAL
                read(e.residual + at, old[j]);
#endif
#ifdef ADD
                read(out + at, old[j]);
#endif
#ifdef NORM
                read(e.norm_x + at, x[j]);
#endif
            }
#pragma unroll
            for (int j = 0; j < BATCH; j++) {
                const int r = begin + j * LANES, at = place(m0 + r) + column;
                if (r >= end) break;
                float v[VEC];
                read(mine + r * LD, v);
#ifdef BIAS
#pragma unroll
                for (int i = 0; i < VEC; i++) v[i] += e.bias[column + i];
#endif
#if defined(RESIDUAL) || defined(ADD)
#pragma unroll
                for (int i = 0; i < VEC; i++) v[i] += old[j][i];
#endif
                write(out + at, v);
#if defined(STATISTICS) || defined(NORM)
#pragma unroll
                for (int i = 0; i < VEC; i++) v[i] = to_float(from_float<TC>(v[i]));
#endif
#ifdef STATISTICS
#pragma unroll
                for (int i = 0; i < VEC; i++) sum[i] += v[i];
                write(mine + r * LD, v);  // as stored, for the second look
                taken++;
#endif
#ifdef NORM
#pragma unroll
                for (int i = 0; i < VEC; i++) {
#ifdef RELU
                    const float dz = normalised(x[j][i], mean[i], scale[i], shift[i]) > 0.f ? v[i] : 0.f;
#else
                    const float dz = v[i];
#endif
                    first[i] = fmaf(dz, (x[j][i] - mean[i]) * inverse[i], first[i]);
                    second[i] += dz;
                }
#endif
            }
        }
#ifdef STATISTICS
        // Two passes over the band, then the band joins those before it (Chan, Golub and LeVeque, 1979): sums of squares would
        // cancel.
        if (taken > 0) {
            float m2[VEC] = {};
            const float n = (float)taken;
#pragma unroll
            for (int i = 0; i < VEC; i++) sum[i] /= n;
#pragma unroll 4
            for (int r = lane; r < end; r += LANES) {
                float v[VEC];
                read(mine + r * LD, v);
#pragma unroll
                for (int i = 0; i < VEC; i++) m2[i] = fmaf(v[i] - sum[i], v[i] - sum[i], m2[i]);
            }
#pragma unroll
            for (int i = 0; i < VEC; i++) merge(count, first[i], second[i], n, sum[i], m2[i]);
            count += n;
        }
#endif
    }

    // Joins n_b values of mean b and M2 m2_b to n_a of mean a and M2 m2_a.
    static __device__ __forceinline__ void merge(float n_a, float &a, float &m2_a, float n_b, float b, float m2_b) {
        const float share = n_b / (n_a + n_b), apart = b - a;
        a = fmaf(apart, share, a);
        m2_a += fmaf(apart * apart, n_a * share, m2_b);
    }

    // Merges what the lanes have into the partial sums of `group`. All threads have passed a barrier after the last band.
    __device__ __forceinline__ void partials(float *shared, int n0, int group) {
#if defined(STATISTICS) || defined(NORM)
        const int t = (int)threadIdx.x;
        if (lane < LANES) {
            float *mine = shared + lane * 3 * COLS + t % ACROSS * VEC;
#pragma unroll
            for (int v = 0; v < VEC; v++) {
                mine[v] = count;
                mine[COLS + v] = first[v];
                mine[2 * COLS + v] = second[v];
            }
        }
        FINISH_SYNC();
        for (int c = t; c < COLS; c += THREADS) {
            if (n0 + c >= COLUMNS) continue;
            [[maybe_unused]] float n = shared[c], a = shared[COLS + c], b = shared[2 * COLS + c];
            for (int l = 1; l < LANES; l++) {
                const float *other = shared + l * 3 * COLS + c;
#ifdef STATISTICS
                if (other[0] == 0.f) continue;
                merge(n, a, b, other[0], other[COLS], other[2 * COLS]);
                n += other[0];
#else
                a += other[COLS];
                b += other[2 * COLS];
#endif
            }
            e.partials[(size_t)group * 2 * COLUMNS + n0 + c] = a;
            e.partials[((size_t)group * 2 + 1) * COLUMNS + n0 + c] = b;
        }
#endif
    }
};
