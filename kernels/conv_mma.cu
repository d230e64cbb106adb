// Convolutions and linear layers on tensor cores through mma.sync (sm_80 on): bf16, f16 (m16n8k16) and tf32 (m16n8k8), sums
// in f32. Channels must be multiples of 16 bytes.
//
// A block of four warps computes TILE_M x TILE_N of C, a warp WARP_M x WARP_N. Tiles of A and B, 64 bytes deep along K, go
// through a ring of STAGES in shared memory, filled by cp.async; zeros outside the image come from its predicate.
//
// Shared layouts, so that neither cp.async nor ldmatrix meet in a bank:
//   K-major (PixelRows, WeightRows): a row of M or N is four 16-byte chunks; chunk c of row r lies at c ^ (r / 2 % 4).
//   else (WeightColumns, GradColumns, PixelColumns): a line of K is TILE elements and a padding of 8. ldmatrix turns its 8x8
//   blocks; for tf32 there is no such instruction, and 4-byte loads of 4 lines by 8 columns hit 32 banks.
//
// Macros beside those of conv_gather.cuh and conv_epilogue.cuh: TILE_M, TILE_N, WARP_M, WARP_N, BAND (rows that go through the
// epilogue at a time: all where shared memory has room for two such blocks, since registers are free then); types TA = TB, f32
// for tf32.
#include "conv_epilogue.cuh"

#define BLOCK 128
#define BLOCKS 2
#define CHUNK (16 / (int)sizeof(TA))
#define DEEP (4 * CHUNK)

constexpr int STAGES = 4;
constexpr int COLUMN_TILES = (COLUMNS + TILE_N - 1) / TILE_N;
constexpr int WARPS_N = TILE_N / WARP_N;
static_assert(TILE_M / WARP_M * WARPS_N * 32 == BLOCK, "a warp for every part of the tile");
constexpr int MT = WARP_M / 16, NT = WARP_N / 8;
constexpr bool TF32 = sizeof(TA) == 4;
// Elements of K that one mma takes: two chunks.
constexpr int STEP = 2 * CHUNK;

__device__ constexpr int tile_bytes(bool k_major, int tile) {
    return k_major ? tile * 64 : DEEP * (tile + 8) * (int)sizeof(TA);
}

// A thread's chunks of the next tile of K, on their way into `to`.
template <bool K_MAJOR, int TILE, class Loader>
__device__ __forceinline__ void copy(u8 *to, const TA *from, const Loader &loader) {
#pragma unroll
    for (int s = 0; s < Loader::SLOTS; s++) {
        if (!Loader::Place::has(s)) continue;
        const int line = Loader::Place::line(s), chunk = Loader::Place::chunk(s);
        int offset;
        const bool there = loader.find(s, offset);
        const int turned = line * 64 + (chunk ^ (line >> 1 & 3)) * 16;
        const int plain = line * ((TILE + 8) * (int)sizeof(TA)) + chunk * 16;
        const int at = K_MAJOR ? turned : plain;
        // Without an element nothing is read, and the address may be anything.
        cp_async_16(to + at, from + offset, there);
    }
}

// Fragments of 16 rows of A or 16 columns of B, STEP deep. Of A the four registers are rows +0 and +8 of K-chunk 0, then of
// chunk 1; of B chunks 0 and 1 of columns +0, then of columns +8. All but `base` is known to the compiler.
template <bool K_MAJOR, int TILE, bool IS_A> struct Fragments {
    static constexpr int LINE = (TILE + 8) * (int)sizeof(TA);  // bytes of a line that is not K-major
    int base;                                                  // of this lane in the tile

    // The fragments of the warp's part, which begins at row or column `first`, a multiple of 16.
    __device__ __forceinline__ explicit Fragments(int first) {
        const int lane = (int)threadIdx.x & 31;
        if constexpr (K_MAJOR) {
            // Lanes 8i.. give the rows of the i-th 8x8 block.
            const int row = first + (IS_A ? lane & 15 : (lane & 7) + (lane >> 4) * 8), chunk = IS_A ? lane >> 4 : lane >> 3 & 1;
            base = row * 64 + (chunk ^ (row >> 1 & 3)) * 16;
        } else if constexpr (!TF32) {
            const int k = (lane & 7) + (IS_A ? lane >> 4 : lane >> 3 & 1) * 8, column = (IS_A ? lane >> 3 & 1 : lane >> 4) * 8;
            base = k * LINE + (first + column) * 2;
        } else {
            base = (lane & 3) * LINE + (first + (lane >> 2)) * 4;
        }
    }
    // The index-th 16 rows or columns, the step-th STEP of K.
    __device__ __forceinline__ void get(u32 (&r)[4], const u8 *tile, int index, int step) const {
        if constexpr (K_MAJOR) {
            ldmatrix_x4(r, tile + (base ^ step * 32) + index * (16 * 64));  // chunk + 2: the other half of a row
        } else {
            const u8 *p = tile + base + step * (STEP * LINE) + index * (16 * (int)sizeof(TA));
            if constexpr (!TF32) {
                ldmatrix_x4_trans(r, p);
            } else {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int k = (IS_A ? i >> 1 : i & 1) * 4, column = (IS_A ? i & 1 : i >> 1) * 8;
                    r[i] = __float_as_uint(*(const float *)(p + k * LINE + column * 4));
                }
            }
        }
        if constexpr (TF32) {
#pragma unroll
            for (int i = 0; i < 4; i++) r[i] = to_tf32(__uint_as_float(r[i]));
        }
    }
};

template <bool A_K_MAJOR, bool B_K_MAJOR, class LoaderA, class LoaderB>
__device__ __forceinline__ void tile(const TA *a, const TB *b, LoaderA from_a, LoaderB from_b, int tiles, const Epilogue &e,
                                     const Parity &parity, int m0, int n0, int rows, int group) {
    DYN_SHARED(memory);
    constexpr int BYTES_A = tile_bytes(A_K_MAJOR, TILE_M), STAGE = BYTES_A + tile_bytes(B_K_MAJOR, TILE_N);
    const int warp = (int)threadIdx.x >> 5, lane = (int)threadIdx.x & 31;
    const int first_m = warp / WARPS_N * WARP_M, first_n = warp % WARPS_N * WARP_N;
    const Fragments<A_K_MAJOR, TILE_M, true> part_a(first_m);
    const Fragments<B_K_MAJOR, TILE_N, false> part_b(first_n);
    float sums[MT][NT][4] = {};

    auto request = [&](int stage) {
        copy<A_K_MAJOR, TILE_M>(memory + stage * STAGE, a, from_a);
        copy<B_K_MAJOR, TILE_N>(memory + stage * STAGE + BYTES_A, b, from_b);
        from_a.advance();
        from_b.advance();
    };
    // A group of copies is closed for every tile, there or not, so that the count of groups to wait for is constant.
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < tiles) request(s);
        cp_async_commit();
    }
    for (int i = 0; i < tiles; i++) {
        cp_async_wait<STAGES - 2>();
        // Tile i is there for all, and all have done with tile i - 1, whose place the next request takes.
        __syncthreads();
        if (i + STAGES - 1 < tiles) request((i + STAGES - 1) % STAGES);
        cp_async_commit();
        const u8 *stage_a = memory + i % STAGES * STAGE, *stage_b = stage_a + BYTES_A;
#pragma unroll
        for (int step = 0; step < DEEP / STEP; step++) {
            u32 x[MT][4], y[NT][2];
#pragma unroll
            for (int j = 0; j < MT; j++) part_a.get(x[j], stage_a, j, step);
#pragma unroll
            for (int j = 0; j < NT; j += 2) {
                u32 r[4];
                part_b.get(r, stage_b, j / 2, step);
                y[j][0] = r[0], y[j][1] = r[1], y[j + 1][0] = r[2], y[j + 1][1] = r[3];
            }
            if constexpr (TF32) mma_tile_tf32<MT, NT>(sums, x, y);
            else mma_tile<TA, MT, NT>(sums, x, y);
        }
    }
    cp_async_wait<0>();
    __syncthreads();

    // The warps of a band put their sums where the tiles were.
    using End = Finish<BAND, TILE_N, BLOCK>;
    float *shared = (float *)memory;
    End end(e, parity, n0, rows);
    for (int band = 0; band < TILE_M / BAND; band++) {
        if (first_m / BAND == band) {
#pragma unroll
            for (int i = 0; i < MT; i++)
#pragma unroll
                for (int j = 0; j < NT; j++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        const int row = first_m % BAND + 16 * i + 8 * half + (lane >> 2);
                        float *to = shared + row * End::LD + first_n + 8 * j + (lane & 3) * 2;
                        *(float2 *)to = make_float2(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
                    }
        }
        __syncthreads();
        end.band(shared, m0 + band * BAND);
        __syncthreads();
    }
    end.partials(shared, n0, group);
}

#include "conv_entry.cuh"
