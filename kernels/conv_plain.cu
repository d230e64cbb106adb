// Convolutions and linear layers by f32 multiply-adds, for any card, any types, any channels: the rung that takes every shape.
//
// A block computes TILE_M x TILE_N of C. A thread has 4x4 blocks of it, RM x RN of them, TILE_M / RM rows and TILE_N / RN
// columns apart, so that its shared loads are 16 bytes wide and free of conflicts. Tiles of A and B lie K by K
// ([DEEP][rows]), twice: while one pair is multiplied the next is fetched into registers and put into the other.
//
// Macros beside those of conv_gather.cuh and conv_epilogue.cuh: TILE_M, TILE_N, RM, RN, CHUNK (4 where channels and addresses
// allow vectors, else 1); types TA, TB.
#include "conv_epilogue.cuh"

#define DEEP 16
#define BLOCKS 2

constexpr int ROW_THREADS = TILE_M / (4 * RM), COLUMN_THREADS = TILE_N / (4 * RN);
constexpr int BLOCK = ROW_THREADS * COLUMN_THREADS;
constexpr int BAND = TILE_M / RM, COLUMN_TILES = (COLUMNS + TILE_N - 1) / TILE_N;
constexpr int LD_A = TILE_M + 4, LD_B = TILE_N + 4;
constexpr int STAGE = DEEP * (LD_A + LD_B);  // floats

// Chunks of a thread on their way from global to shared memory.
template <class Loader, int CH> struct Fetched {
    float v[Loader::SLOTS][CH];

    template <class T> __device__ __forceinline__ void fetch(const T *from, const Loader &loader) {
#pragma unroll
        for (int s = 0; s < Loader::SLOTS; s++) {
            int offset;
            const bool there = Loader::Place::has(s) && loader.find(s, offset);
            if constexpr (CH == 4) {
                if (there) load4(from + offset, v[s]);
                else v[s][0] = v[s][1] = v[s][2] = v[s][3] = 0.f;
            } else {
                v[s][0] = there ? load(from + offset) : 0.f;
            }
        }
    }
    // K_MAJOR tiles are turned on the way.
    template <bool K_MAJOR, int LD> __device__ __forceinline__ void put(float *to) const {
#pragma unroll
        for (int s = 0; s < Loader::SLOTS; s++) {
            if (!Loader::Place::has(s)) continue;
            const int line = Loader::Place::line(s), chunk = Loader::Place::chunk(s);
            if constexpr (K_MAJOR) {
#pragma unroll
                for (int i = 0; i < CH; i++) to[(chunk * CH + i) * LD + line] = v[s][i];
            } else if constexpr (CH == 4) {
                store4(to + line * LD + chunk * 4, v[s]);
            } else {
                to[line * LD + chunk] = v[s][0];
            }
        }
    }
};

// 4 of every BLOCKS-th part of a line.
template <int R, int APART> __device__ __forceinline__ void line(const float *p, float (&v)[4 * R]) {
#pragma unroll
    for (int r = 0; r < R; r++) {
        float part[4];
        load4(p + r * APART, part);
#pragma unroll
        for (int i = 0; i < 4; i++) v[4 * r + i] = part[i];
    }
}

template <bool A_K_MAJOR, bool B_K_MAJOR, class LoaderA, class LoaderB>
__device__ __forceinline__ void tile(const TA *a, const TB *b, LoaderA from_a, LoaderB from_b, int tiles, const Epilogue &e,
                                     const Parity &parity, int m0, int n0, int rows, int group) {
    DYN_SHARED(memory);
    float *shared = (float*)memory;
    const int t = (int)threadIdx.x, row = t / COLUMN_THREADS * 4, column = t % COLUMN_THREADS * 4;
    float sums[4 * RM][4 * RN] = {};
    Fetched<LoaderA, CHUNK> next_a;
    Fetched<LoaderB, CHUNK> next_b;
    if (tiles > 0) {
        next_a.fetch(a, from_a);
        next_b.fetch(b, from_b);
    }
    for (int i = 0; i < tiles; i++) {
        float *stage_a = shared + (i & 1) * STAGE;
        float *stage_b = stage_a + DEEP * LD_A;
        next_a.template put<A_K_MAJOR, LD_A>(stage_a);
        next_b.template put<B_K_MAJOR, LD_B>(stage_b);
        // The one barrier: whoever still multiplies the pair before last has not passed the barrier before this one.
        __syncthreads();
        if (i + 1 < tiles) {
            from_a.advance();
            from_b.advance();
            next_a.fetch(a, from_a);
            next_b.fetch(b, from_b);
        }
#pragma unroll
        for (int k = 0; k < DEEP; k++) {
            float x[4 * RM], y[4 * RN];
            line<RM, TILE_M / RM>(stage_a + k * LD_A + row, x);
            line<RN, TILE_N / RN>(stage_b + k * LD_B + column, y);
#pragma unroll
            for (int r = 0; r < 4 * RM; r++)
#pragma unroll
                for (int c = 0; c < 4 * RN; c++) sums[r][c] = fmaf(x[r], y[c], sums[r][c]);
        }
    }
    __syncthreads();

    using End = Finish<BAND, TILE_N, BLOCK>;
    End end(e, parity, n0, rows);
#pragma unroll
    for (int part = 0; part < RM; part++) {
#pragma unroll
        for (int r = 0; r < 4; r++)
#pragma unroll
            for (int c = 0; c < RN; c++) {
                const float(&s)[4 * RN] = sums[4 * part + r];
                const float v[4] = {s[4 * c], s[4 * c + 1], s[4 * c + 2], s[4 * c + 3]};
                store4(shared + (row + r) * End::LD + c * (TILE_N / RN) + column, v);
            }
        __syncthreads();
        end.band(shared, m0 + part * BAND);
        __syncthreads();
    }
    end.partials(shared, n0, group);
}

#include "conv_entry.cuh"
