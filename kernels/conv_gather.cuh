// A convolution as a matrix product C [M, N] = A [M, K] B [K, N] whose operands are never laid out: which element of a tensor
// lies where in a tile, and whether there is one (outside the image, the batch or the channels a tile holds zeros).
//
//   PASS             M              N          K              A                 B
//   FORWARD          output pixels  co         (tap, ci)      x  by PixelRows   w by WeightRows
//   BACKWARD_DATA    input pixels   ci         (tap, co)      dy by PixelRows   w by WeightColumns
//   BACKWARD_WEIGHT  co             (tap, ci)  output pixels  dy by GradColumns x by PixelColumns
//
// A linear layer is the 1x1 convolution of 1x1 images. Macros: PASS, CI, CO, KS, STRIDE, PAD, HEIGHT, WIDTH; never the batch.
//
// A loader copies a tile in chunks of WIDE neighbouring elements, of which a thread has SLOTS. K-major tiles (PixelRows,
// WeightRows) have a line for each row of M or N and chunks along K, the others a line for each of BK and chunks along M or N.
// `find` returns the element that a slot's chunk begins at, `advance` moves on by BK. The host checks that indices fit an int.
#pragma once
#include "prelude.cuh"

#define FORWARD 0
#define BACKWARD_DATA 1
#define BACKWARD_WEIGHT 2

constexpr int OUT_H = (HEIGHT + 2 * PAD - KS) / STRIDE + 1, OUT_W = (WIDTH + 2 * PAD - KS) / STRIDE + 1;
constexpr int OUT_PIXELS = OUT_H * OUT_W, TAPS = KS * KS;
// PixelRows keeps in a word which taps reach the image: a bit for each, or of large kernels for each row and column of taps.
constexpr bool BIT_A_TAP = TAPS <= 32;
static_assert(KS < 16, "kernels of 16 and more are refused by the host");

// The columns of C, and the depth of K where it does not depend on the batch.
#if PASS == FORWARD
constexpr int COLUMNS = CO, DEPTH = TAPS * CI;
#elif PASS == BACKWARD_DATA
constexpr int COLUMNS = CI;
#else
constexpr int COLUMNS = TAPS * CI;
#endif

__device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

// The lines and chunks of a tile that a thread copies: in K-major tiles chunks at one place in K, in others chunks along one
// line, so that one address and constant steps serve all; where the threads do not fill such a pattern, any.
template <bool K_MAJOR, int LINES, int ACROSS, int THREADS> struct Slots {
    static constexpr int COUNT = (LINES * ACROSS + THREADS - 1) / THREADS;
    static constexpr int A_LINE = THREADS / LINES > 0 ? THREADS / LINES : 1;  // threads of a line
    static constexpr bool ALONG = !K_MAJOR && THREADS % LINES == 0 && ACROSS % A_LINE == 0;
    static constexpr bool BELOW = !ALONG && THREADS % ACROSS == 0;
    static __device__ __forceinline__ int line(int slot) {
        const int t = (int)threadIdx.x;
        return ALONG ? t / A_LINE : BELOW ? t / ACROSS + slot * (THREADS / ACROSS) : (t + slot * THREADS) / ACROSS;
    }
    static __device__ __forceinline__ int chunk(int slot) {
        const int t = (int)threadIdx.x;
        return ALONG ? t % A_LINE + slot * A_LINE : BELOW ? t % ACROSS : (t + slot * THREADS) % ACROSS;
    }
    static __device__ __forceinline__ bool has(int slot) {
        return LINES * ACROSS % THREADS == 0 || line(slot) < LINES;
    }
};

// Input pixels of one remainder of (y, x) by the stride: they see the same taps, and dy as a convolution of stride 1. At
// stride 1 there is one class and all of this is constant.
struct Parity {
    int y, x;                // the first of them
    int height, width;       // how many an image has
    int tap_y, tap_x;        // the first tap that reaches them; the next is STRIDE further
    int taps_y, taps_x;      // how many do
    int source_y, source_x;  // the pixel of dy that the first tap takes for the first of them
    __device__ __forceinline__ explicit Parity(int index) {
        y = STRIDE == 1 ? 0 : index / STRIDE;
        x = STRIDE == 1 ? 0 : index % STRIDE;
        height = (HEIGHT - y + STRIDE - 1) / STRIDE;
        width = (WIDTH - x + STRIDE - 1) / STRIDE;
        tap_y = (y + PAD) % STRIDE;
        tap_x = (x + PAD) % STRIDE;
        taps_y = tap_y < KS ? (KS - tap_y + STRIDE - 1) / STRIDE : 0;
        taps_x = tap_x < KS ? (KS - tap_x + STRIDE - 1) / STRIDE : 0;
        source_y = (y + PAD - tap_y) / STRIDE;
        source_x = (x + PAD - tap_x) / STRIDE;
    }
    __device__ __forceinline__ int depth() const { return taps_y * taps_x * CO; }
};

#if PASS != BACKWARD_WEIGHT
// The tensor that PixelRows reads, and where the next tap lies: ahead in x, behind in dy.
#if PASS == FORWARD
constexpr int SOURCE_H = HEIGHT, SOURCE_W = WIDTH, SOURCE_C = CI, AHEAD = 1;
#else
constexpr int SOURCE_H = OUT_H, SOURCE_W = OUT_W, SOURCE_C = CO, AHEAD = -1;
#endif

// Position in K: which tap, which channel.
struct Tap {
    int k, c, y, x;
    int taps_y, taps_x;
    __device__ __forceinline__ void set(int at) {
        k = at;
        const int tap = k / SOURCE_C;
        c = k - tap * SOURCE_C;
        y = taps_x > 0 ? tap / taps_x : 0;
        x = tap - y * taps_x;
    }
    template <int BK> __device__ __forceinline__ void advance() {
        if constexpr (SOURCE_C < BK) {
            set(k + BK);
        } else {
            c += BK;
            if (c >= SOURCE_C) {
                c -= SOURCE_C;
                if (++x == taps_x) x = 0, y++;
            }
        }
    }
    __device__ __forceinline__ bool inside() const { return y < taps_y && taps_x > 0; }
    // Returns true if a pixel of that reach has this tap within the image.
    __device__ __forceinline__ bool reached(u32 reach) const {
        if constexpr (BIT_A_TAP) {
            const u32 bit = inside() ? 1u << (y * KS + x) : 0u;
            return (reach & bit) != 0;
        }
        return inside() && (reach >> (y & 15) & reach >> (16 + x) & 1);
    }
};

// A line is a pixel. Its address at tap (0, 0) and the taps that stay in the image are worked out once; a tap then costs an
// addition and a test of two bits.
template <int TILE, int BK, int WIDE, int THREADS> struct PixelRows {
    using Place = Slots<true, TILE, BK / WIDE, THREADS>;
    static constexpr int SLOTS = Place::COUNT;
    static_assert(Place::BELOW, "all slots of a thread are at the same place in K");
    int base[SLOTS];
    u32 reach[SLOTS];
    Tap tap;

    __device__ __forceinline__ PixelRows(const Parity &parity, int first, int rows, int k) {
#if PASS == FORWARD
        const int height = OUT_H, width = OUT_W, step = STRIDE, y0 = -PAD, x0 = -PAD;
        tap.taps_y = tap.taps_x = KS;
#else
        const int height = parity.height, width = parity.width, step = 1, y0 = parity.source_y, x0 = parity.source_x;
        tap.taps_y = parity.taps_y, tap.taps_x = parity.taps_x;
#endif
        tap.set(k + Place::chunk(0) * WIDE);
#pragma unroll
        for (int s = 0; s < SLOTS; s++) {
            const int row = first + Place::line(s);
            base[s] = 0, reach[s] = 0;
            if (!Place::has(s) || row >= rows) continue;
            const int image = row / (height * width), pixel = row - image * (height * width);
            const int y = pixel / width * step + y0, x = pixel % width * step + x0;
            base[s] = ((image * SOURCE_H + y) * SOURCE_W + x) * SOURCE_C;
            u32 rows_reached = 0, columns_reached = 0;
#pragma unroll
            for (int i = 0; i < KS; i++) {
                const int ty = y + AHEAD * i, tx = x + AHEAD * i;
                rows_reached |= (u32)(ty >= 0 && ty < SOURCE_H) << i;
                columns_reached |= (u32)(tx >= 0 && tx < SOURCE_W) << i;
            }
            if constexpr (BIT_A_TAP) {
#pragma unroll
                for (int i = 0; i < KS; i++) reach[s] |= (rows_reached >> i & 1 ? columns_reached : 0) << (i * KS);
            } else {
                reach[s] = rows_reached | columns_reached << 16;
            }
        }
    }
    __device__ __forceinline__ bool find(int s, int &offset) const {
        offset = base[s] + AHEAD * (tap.y * SOURCE_W + tap.x) * SOURCE_C + tap.c;
        return tap.reached(reach[s]);
    }
    __device__ __forceinline__ void advance() { tap.template advance<BK>(); }
};
#endif

#if PASS == FORWARD
// A line is an output channel, whose weights are one run of DEPTH.
template <int TILE, int BK, int WIDE, int THREADS> struct WeightRows {
    using Place = Slots<true, TILE, BK / WIDE, THREADS>;
    static constexpr int SLOTS = Place::COUNT;
    int first, k;

    __device__ __forceinline__ WeightRows(int first, int k) : first(first), k(k) {}
    __device__ __forceinline__ bool find(int s, int &offset) const {
        const int co = first + Place::line(s), at = k + Place::chunk(s) * WIDE;
        offset = co * DEPTH + at;
        return (CO % TILE == 0 || co < CO) && (DEPTH % BK == 0 || at < DEPTH);
    }
    __device__ __forceinline__ void advance() { k += BK; }
};
#elif PASS == BACKWARD_DATA
// A line is a place (tap, co) of K, along which the input channels of one weight row lie.
template <int TILE, int BK, int WIDE, int THREADS> struct WeightColumns {
    using Place = Slots<false, BK, TILE / WIDE, THREADS>;
    static constexpr int SLOTS = Place::COUNT;
    int first, k;
    Tap tap;  // of the tile's first line; of all its lines where BK divides CO
    Parity parity;

    __device__ __forceinline__ WeightColumns(const Parity &parity, int first) : first(first), k(0), parity(parity) {
        tap.taps_y = parity.taps_y, tap.taps_x = parity.taps_x;
        tap.set(0);
    }
    __device__ __forceinline__ bool find(int s, int &offset) const {
        const int ci = first + Place::chunk(s) * WIDE;
        Tap at = tap;
        if constexpr (CO % BK == 0) {
            at.c += Place::line(s);
        } else {
            at.set(k + Place::line(s));
        }
        const int ky = parity.tap_y + at.y * STRIDE, kx = parity.tap_x + at.x * STRIDE;
        offset = ((at.c * KS + ky) * KS + kx) * CI + ci;
        return (CI % TILE == 0 || ci < CI) && at.inside();
    }
    __device__ __forceinline__ void advance() {
        k += BK;
        if constexpr (CO % BK == 0) tap.template advance<BK>();
    }
};
#else
// A line is an output pixel, along which its gradients lie.
template <int TILE, int BK, int WIDE, int THREADS> struct GradColumns {
    using Place = Slots<false, BK, TILE / WIDE, THREADS>;
    static constexpr int SLOTS = Place::COUNT;
    int first, pixel, end;

    __device__ __forceinline__ GradColumns(int first, int begin, int end) : first(first), pixel(begin), end(end) {}
    __device__ __forceinline__ bool find(int s, int &offset) const {
        const int at = pixel + Place::line(s), co = first + Place::chunk(s) * WIDE;
        offset = at * CO + co;
        return at < end && (CO % TILE == 0 || co < CO);
    }
    __device__ __forceinline__ void advance() { pixel += BK; }
};

// A line is an output pixel, along which x lies as its taps see it. Which tap and channel a slot has never changes.
template <int TILE, int BK, int WIDE, int THREADS> struct PixelColumns {
    using Place = Slots<false, BK, TILE / WIDE, THREADS>;
    static constexpr int SLOTS = Place::COUNT;
    int pixel, end;
    int shift[SLOTS], tap_y[SLOTS], tap_x[SLOTS];  // from the element of channel 0 at the pixel's corner

    __device__ __forceinline__ PixelColumns(int first, int begin, int end) : pixel(begin), end(end) {
#pragma unroll
        for (int s = 0; s < SLOTS; s++) {
            const int column = first + Place::chunk(s) * WIDE, tap = column / CI;
            tap_y[s] = tap / KS - PAD, tap_x[s] = tap % KS - PAD;
            shift[s] = (tap_y[s] * WIDTH + tap_x[s]) * CI + column - tap * CI;
            if (COLUMNS % TILE != 0 && column >= COLUMNS) tap_y[s] = -HEIGHT - KS * STRIDE;  // never in the image
        }
    }
    __device__ __forceinline__ bool find(int s, int &offset) const {
        const int at = pixel + Place::line(s), image = at / OUT_PIXELS, place = at - image * OUT_PIXELS;
        const int y = place / OUT_W * STRIDE, x = place % OUT_W * STRIDE;
        offset = ((image * HEIGHT + y) * WIDTH + x) * CI + shift[s];
        return at < end && (u32)(y + tap_y[s]) < (u32)HEIGHT && (u32)(x + tap_x[s]) < (u32)WIDTH;
    }
    __device__ __forceinline__ void advance() { pixel += BK; }
};
#endif
