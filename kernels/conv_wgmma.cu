// Convolutions of stride 1 on Hopper's tensor cores: wgmma, tiles by TMA, warps specialised (sm_90a). bf16 and f16, sums in
// f32; 3x3 with padding 1 and 1x1; channels are multiples of 16.
//
// A block computes TILE_M x TILE_N of C. The first CONSUMERS warpgroups multiply: block b of 64 rows belongs to warpgroup
// b % CONSUMERS. One more has a thread that requests tiles, and leaves its registers to the others. Tiles go through a ring of
// STAGES in shared memory; one mbarrier signals that a stage is full, another that all warps have finished with it. In the
// end the consumers pass their sums to the epilogue that all rungs share.
//
// A tile of pixels is whole image rows: BOX_H rows of BOX_N images, PIXELS in all, one box of a tiled tensor map over [n, h,
// w, c]. A tap moves where the box begins; what lies outside the image TMA fills with zeros: that is the padding. A tile has
// 64 channels; where those of the tensor end, zeros follow, which are not multiplied.
//
// Shared layouts are those of the 128-byte swizzle, lines of 64 elements:
//   FORWARD          A: a line a pixel, K-major          B: a line for each co, K-major
//   BACKWARD_DATA    A: a line a pixel of dy, K-major    B: a line for each co (K), boxes of 64 ci
//   BACKWARD_WEIGHT  A: a line a pixel (K), boxes of 64 co    B: a line a pixel (K), boxes of 64 ci
//
// Macros beside those of conv_gather.cuh and conv_epilogue.cuh: TILE_M, TILE_N, CONSUMERS, STAGES, BOX_H, BOX_N; TA = TB.
#define BLOCK (CONSUMERS * 128 + 128)
#define FINISH_SYNC() named_sync(1, CONSUMERS * 128)
#include "conv_epilogue.cuh"

// Registers of a thread after the launch's even shares (168 for three warpgroups, 128 for four), of 512 for each lane of all.
constexpr int CONSUMER_REGISTERS = CONSUMERS == 3 ? 152 : 232, PRODUCER_REGISTERS = 40;

constexpr int LINE = 128;                       // bytes
constexpr int PIXELS = OUT_W * BOX_H * BOX_N;   // of a box
constexpr int ROW_BLOCKS = TILE_M / (64 * CONSUMERS);
static_assert(TILE_M == 64 * CONSUMERS * ROW_BLOCKS && TILE_N % 8 == 0 && TILE_N <= 256, "whole instructions");
static_assert(BOX_N == 1 || BOX_H == OUT_H, "boxes of several images take them whole");
constexpr int COLUMN_BOXES = (TILE_N + 63) / 64;

#if PASS == BACKWARD_WEIGHT
constexpr int LINES = (PIXELS + 15) / 16 * 16;  // of a box: steps of K are 16
constexpr int A_BYTES = TILE_M / 64 * LINES * LINE, B_BYTES = COLUMN_BOXES * LINES * LINE;
constexpr int REQUESTED = (TILE_M / 64 + COLUMN_BOXES) * PIXELS * LINE;
constexpr int COLUMN_TILES = TAPS * (CI / TILE_N);
static_assert(CI % TILE_N == 0, "a tile of columns is within one tap");
#else
constexpr int A_BYTES = TILE_M * LINE;
constexpr int B_BYTES = PASS == FORWARD ? TILE_N * LINE : COLUMN_BOXES * 64 * LINE;
constexpr int REQUESTED = PIXELS * LINE + B_BYTES;
constexpr int COLUMN_TILES = (COLUMNS + TILE_N - 1) / TILE_N;
constexpr int CHUNKS = (SOURCE_C + 63) / 64, LAST_STEPS = (SOURCE_C - (CHUNKS - 1) * 64) / 16;
static_assert(PIXELS <= TILE_M, "a box fits the tile");
#endif
constexpr int STAGE = A_BYTES + B_BYTES;

// The origin of box number `tile` of pixels.
struct Box {
    int y, image;
    __device__ __forceinline__ explicit Box(int tile) {
        constexpr int DOWN = OUT_H / BOX_H;  // boxes of an image
        static_assert(OUT_H % BOX_H == 0, "an image is whole boxes");
        image = BOX_N > 1 ? tile * BOX_N : tile / DOWN;
        y = BOX_N > 1 ? 0 : tile % DOWN * BOX_H;
    }
};

struct Ring {
    u8 *memory;
    u64 *full, *empty;
    int stage, phase;
    __device__ __forceinline__ void advance() {
        if (++stage < STAGES) return;
        stage = 0;
        phase ^= 1;
    }
    // The producer's: the next stage, free, with its bytes announced.
    __device__ __forceinline__ u8 *claim() {
        mbar_wait(&empty[stage], phase ^ 1);
        mbar_expect_tx(&full[stage], REQUESTED);
        return memory + stage * STAGE;
    }
};

typedef float Sums[ROW_BLOCKS][TILE_N / 2];

// Multiplies STEPS times 16 of K of the next stage, and frees the stage before it, which is done by then.
template <int STEPS> __device__ __forceinline__ void multiply(Ring &ring, Sums &sums, bool first) {
    constexpr bool A_MN = PASS == BACKWARD_WEIGHT, B_MN = PASS != FORWARD;
    const int thread = (int)threadIdx.x, group = thread >> 7;
    const u8 *a = ring.memory + ring.stage * STAGE, *b = a + A_BYTES;
    mbar_wait(&ring.full[ring.stage], ring.phase);
    wgmma_fence();
#if PASS == BACKWARD_WEIGHT
    constexpr int A_BLOCK = LINES * LINE, NEXT = LINES * LINE;
#else
    constexpr int A_BLOCK = 64 * LINE, NEXT = 64 * LINE;
#endif
    const u64 columns = B_MN ? wgmma_desc_mn(b, NEXT) : wgmma_desc(b);
#pragma unroll
    for (int block = 0; block < ROW_BLOCKS; block++) {
        const u8 *lines = a + (block * CONSUMERS + group) * A_BLOCK;
        const u64 rows = A_MN ? wgmma_desc_mn(lines, NEXT) : wgmma_desc(lines);
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            wgmma<TA, TILE_N, A_MN, B_MN>(sums[block], rows + step * (A_MN ? 128 : 2), columns + step * (B_MN ? 128 : 2));
        }
    }
    wgmma_commit();
    wgmma_wait<1>();
    const int before = ring.stage == 0 ? STAGES - 1 : ring.stage - 1;
    if (!first && (thread & 31) == 0) mbar_arrive(&ring.empty[before]);
    ring.advance();
}

// Lines that no box reaches are zeros, not what was there: of K they are multiplied.
__device__ __forceinline__ void clear(u8 *memory) {
#if PASS == BACKWARD_WEIGHT
    constexpr int REGION = LINES * LINE, REGIONS = STAGE / REGION, APART = REGION;
#else
    constexpr int REGION = TILE_M * LINE, REGIONS = 1, APART = STAGE;
#endif
    constexpr int SKIP = PIXELS * LINE, WORDS = (REGION - SKIP) / 16;
    if constexpr (WORDS > 0) {
    for (int stage = 0; stage < STAGES; stage++) {
        for (int region = 0; region < REGIONS; region++) {
            u8 *to = memory + stage * STAGE + region * APART + SKIP;
            for (int i = (int)threadIdx.x; i < WORDS; i += BLOCK) reinterpret_cast<uint4 *>(to)[i] = make_uint4(0, 0, 0, 0);
        }
    }
    fence_proxy_async();
    }
}

// Runs `request` in the producer's lane and `consume` in the consumers, then the epilogue in all. Rows end at `rows`.
template <class Request, class Consume>
__device__ __forceinline__ void run(const Request &request, const Consume &consume, const Epilogue &e, int m0, int n0, int rows,
                                    int group) {
    DYN_SHARED(memory);
    SHARED_ARRAY(u64, full, [STAGES]);
    SHARED_ARRAY(u64, empty, [STAGES]);
    const int thread = (int)threadIdx.x;
    if (thread == 0) {
        for (int s = 0; s < STAGES; s++) {
            mbar_init(&full[s], 1);
            mbar_init(&empty[s], CONSUMERS * 4);
        }
        mbar_fence_init();
    }
    clear(memory);
    __syncthreads();

    Ring ring = {memory, full, empty, 0, 0};
    if (thread >= CONSUMERS * 128) {
        if (CONSUMERS > 1) reg_dealloc<PRODUCER_REGISTERS>();
        if (thread == CONSUMERS * 128) request(ring);
        return;
    }
    if (CONSUMERS > 1) reg_alloc<CONSUMER_REGISTERS>();
    Sums sums;
#pragma unroll
    for (int block = 0; block < ROW_BLOCKS; block++)
#pragma unroll
        for (int i = 0; i < TILE_N / 2; i++) sums[block][i] = 0.f;
    consume(ring, sums);
    wgmma_wait<0>();
    FINISH_SYNC();

    // Block by block of 64 rows for each warpgroup, sums go where the tiles were: every stage has been filled and read.
    constexpr int BAND = 64 * CONSUMERS;
    using End = Finish<BAND, TILE_N, CONSUMERS * 128>;
    float *shared = reinterpret_cast<float *>(memory);
    const Parity parity(0);
    End end(e, parity, n0, rows);
    float *to = shared + ((thread >> 5) * 16 + (thread >> 2 & 7)) * End::LD + (thread & 3) * 2;
#pragma unroll
    for (int block = 0; block < ROW_BLOCKS; block++) {
#pragma unroll
        for (int j = 0; j < TILE_N / 8; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float *pair = &sums[block][4 * j + 2 * half];
                *reinterpret_cast<float2 *>(to + 8 * half * End::LD + 8 * j) = make_float2(pair[0], pair[1]);
            }
        FINISH_SYNC();
        end.band(shared, m0 + block * BAND);
        FINISH_SYNC();
    }
    end.partials(shared, n0, group);
}

#if PASS != BACKWARD_WEIGHT
// Row tiles are boxes; K is taps by chunks of 64 channels. `pixels` maps x or dy, `weights` maps w as [co, taps, ci].
__device__ __forceinline__ void pixel_rows(const TMap *pixels, const TMap *weights, const Epilogue &e, int n) {
    const int row_tile = (int)blockIdx.x / COLUMN_TILES, n0 = (int)blockIdx.x % COLUMN_TILES * TILE_N;
    const int m0 = row_tile * PIXELS, rows = min(n * OUT_PIXELS, m0 + PIXELS);
    const Box box(row_tile);
    auto request = [&](Ring &ring) {
        for (int tap = 0; tap < TAPS; tap++) {
            const int y = box.y + AHEAD * (tap / KS - PAD), x = AHEAD * (tap % KS - PAD);
            for (int chunk = 0; chunk < CHUNKS; chunk++) {
                u8 *a = ring.claim(), *b = a + A_BYTES;
                u64 *full = &ring.full[ring.stage];
                tma_load(a, pixels, {chunk * 64, x, y, box.image}, full);
                if (PASS == FORWARD) {
                    tma_load(b, weights, {chunk * 64, tap, n0}, full);
                } else {
                    for (int i = 0; i < COLUMN_BOXES; i++) {
                        tma_load(b + i * (64 * LINE), weights, {n0 + i * 64, tap, chunk * 64}, full);
                    }
                }
                ring.advance();
            }
        }
    };
    auto consume = [&](Ring &ring, Sums &sums) {
        for (int tap = 0; tap < TAPS; tap++) {
            for (int chunk = 0; chunk < CHUNKS - 1; chunk++) multiply<4>(ring, sums, tap + chunk == 0);
            multiply<LAST_STEPS>(ring, sums, tap + CHUNKS - 1 == 0);
        }
    };
    run(request, consume, e, m0, n0, rows, row_tile);
}
#endif

#if PASS == FORWARD
// x [n, h, w, ci], w -> y; n images. Grid: (row tiles * column tiles).
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    conv_forward(const __grid_constant__ TMap x, const __grid_constant__ TMap w, TC *y, const TR *residual, float *partials,
                 int n) {
    const Epilogue e = {y, nullptr, residual, partials, nullptr, nullptr, nullptr, nullptr};
    pixel_rows(&x, &w, e, n);
}
#elif PASS == BACKWARD_DATA
// dy [n, h, w, co], w -> dx; n images. Grid: (row tiles * column tiles).
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    conv_backward_data(const __grid_constant__ TMap dy, const __grid_constant__ TMap w, TC *dx, const TN *norm_x,
                       const float *norm_stats, const float *norm_weight, const float *norm_bias, float *partials, int n) {
    const Epilogue e = {dx, nullptr, nullptr, partials, norm_x, norm_stats, norm_weight, norm_bias};
    pixel_rows(&dy, &w, e, n);
}
#else
// dy, x -> dw, or its slices; `boxes` of pixels in all, `span` in a slice. Grid: (row tiles * column tiles, 1, slices).
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    conv_backward_weight(const __grid_constant__ TMap dy, const __grid_constant__ TMap x, TC *dw, int boxes, int span) {
    const int column_tile = (int)blockIdx.x % COLUMN_TILES, m0 = (int)blockIdx.x / COLUMN_TILES * TILE_M;
    const int tap = column_tile / (CI / TILE_N), ci = column_tile % (CI / TILE_N) * TILE_N, n0 = tap * CI + ci;
    const int begin = (int)blockIdx.z * span, end = min(boxes, begin + span);
    const Epilogue e = {dw, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
    auto request = [&](Ring &ring) {
        for (int i = begin; i < end; i++) {
            const Box box(i);
            u8 *to = ring.claim();
            u64 *full = &ring.full[ring.stage];
            for (int j = 0; j < TILE_M / 64; j++) {
                tma_load(to + j * (LINES * LINE), &dy, {m0 + j * 64, 0, box.y, box.image}, full);
            }
            for (int j = 0; j < COLUMN_BOXES; j++) {
                tma_load(to + A_BYTES + j * (LINES * LINE), &x,
                         {ci + j * 64, tap % KS - PAD, box.y + tap / KS - PAD, box.image}, full);
            }
            ring.advance();
        }
    };
    auto consume = [&](Ring &ring, Sums &sums) {
        for (int i = begin; i < end; i++) multiply<LINES / 16>(ring, sums, i == begin);
    };
    run(request, consume, e, m0, n0, CO, 0);
}
#endif
