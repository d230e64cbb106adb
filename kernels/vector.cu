// Norms, sums and updates of whole parameter vectors, and the scalars between them.
//
// A vector is visited in chunks: runs of at most 4,096 elements of one parameter, a block of 256 threads each, four elements a
// thread at a time. `whole`: all chunks and vectors begin at multiples of 16 bytes. Sums go through one partial result a
// block, and a second kernel of one block. Vectors are f32, but for a compute copy that is stored as TC.
#include "lanes.cuh"

#define THREADS 256

// A chunk as `chunks` of launch/vector.rs writes it: elements start..end, the group of learning rate and decay, and the first
// element of the parameter that is stored in two bytes an element, WIDE where it is stored as f32.
struct alignas(16) Chunk {
    u32 start, end, group, first;
};

#define WIDE 0xffffffffu

// Element i of a compute copy whose parameter begins at element `first`: packed from that element's cell on.
__device__ __forceinline__ TC *packed(void *c, u32 first, int i) {
    return (TC*)((u8*)c + 4 * (size_t)first) + (i - (int)first);
}

__device__ __forceinline__ void put_cast(void *c, u32 first, int i, int left, bool whole, const float (&v)[4]) {
    if (first == WIDE) put((f32*)c + i, left, whole, v);
    else put(packed(c, first, i), left, whole, v);
}

__device__ __forceinline__ void take_cast(const void *c, u32 first, int i, int left, bool whole, float (&v)[4]) {
    if (first == WIDE) take((const f32*)c + i, left, whole, v);
    else take((const TC*)packed((void*)c, first, i), left, whole, v);
}

// Runs `f(i, left, chunk)` on each group of four of the chunks that fall to this block. UNROLL groups are loaded at once where
// nothing is written between them; stores keep the compiler from it.
template <int UNROLL, class F> __device__ __forceinline__ void each_group(const Chunk *chunks, int count, F f) {
    for (int at = (int)blockIdx.x; at < count; at += (int)gridDim.x) {
        Chunk chunk = chunks[at];
#pragma unroll UNROLL
        for (int i = (int)chunk.start + 4 * (int)threadIdx.x; i < (int)chunk.end; i += 4 * THREADS)
            f(i, (int)chunk.end - i, chunk);
    }
}

// partials[block] = a . b over the block's chunks.
extern "C" __global__ void __launch_bounds__(THREADS)
dot_partial(const f32 *a, const f32 *b, const Chunk *chunks, int count, f32 *partials, int whole) {
    float sum[4] = {};
    each_group<4>(chunks, count, [&](int i, int left, const Chunk&) {
        float v[4], w[4];
        take(a + i, left, whole, v);
        take(b + i, left, whole, w);
#pragma unroll
        for (int k = 0; k < 4; k++) sum[k] = fmaf(v[k], w[k], sum[k]);
    });
    float total = block_sum<THREADS>((sum[0] + sum[1]) + (sum[2] + sum[3]));
    if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

// partials[block] = |v|^2 over the block's chunks.
extern "C" __global__ void __launch_bounds__(THREADS)
norm_partial(const f32 *v, const Chunk *chunks, int count, f32 *partials, int whole) {
    float sum[4] = {};
    each_group<4>(chunks, count, [&](int i, int left, const Chunk&) {
        float x[4];
        take(v + i, left, whole, x);
#pragma unroll
        for (int k = 0; k < 4; k++) sum[k] = fmaf(x[k], x[k], sum[k]);
    });
    float total = block_sum<THREADS>((sum[0] + sum[1]) + (sum[2] + sum[3]));
    if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

// The sum of `count` partial results, by one block, in a fixed order; every thread gets it.
__device__ __forceinline__ float sum_of(const f32 *partials, int count) {
    float sum = 0.f;
    for (int i = (int)threadIdx.x; i < count; i += THREADS) sum += partials[i];
    return block_sum<THREADS>(sum);
}

extern "C" __global__ void __launch_bounds__(THREADS) dot_final(const f32 *partials, int count, f32 *out) {
    float sum = sum_of(partials, count);
    if (threadIdx.x == 0) *out = sum;
}

// 2^-120: below it so much of the sum of squares has underflowed that a norm would be wrong by a large factor, and a step along
// v / |v| much too long. Such a norm is 0, by which nothing is divided.
#define LEAST_SQUARE 7.52316384526264e-37f

extern "C" __global__ void __launch_bounds__(THREADS) norm_final(const f32 *partials, int count, f32 *out) {
    float sum = sum_of(partials, count);
    if (threadIdx.x == 0) *out = sum < LEAST_SQUARE ? 0.f : sqrtf(sum);
}

// The real movement of the compute copy: partials [3, blocks] of e.e, e.g and g.g with e = c - w.
extern "C" __global__ void __launch_bounds__(THREADS)
perturbation_partial(const f32 *w, const void *c, const f32 *g, const Chunk *chunks, int count, f32 *partials, int whole) {
    float moved[4] = {}, along[4] = {}, size[4] = {};
    each_group<2>(chunks, count, [&](int i, int left, const Chunk& chunk) {
        float e[4], v[4], d[4];
        take(w + i, left, whole, v);
        take_cast(c, chunk.first, i, left, whole, e);
        take(g + i, left, whole, d);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            e[k] -= v[k];
            moved[k] = fmaf(e[k], e[k], moved[k]);
            along[k] = fmaf(e[k], d[k], along[k]);
            size[k] = fmaf(d[k], d[k], size[k]);
        }
    });
    float a = block_sum<THREADS>((moved[0] + moved[1]) + (moved[2] + moved[3]));
    float b = block_sum<THREADS>((along[0] + along[1]) + (along[2] + along[3]));
    float d = block_sum<THREADS>((size[0] + size[1]) + (size[2] + size[3]));
    if (threadIdx.x == 0) {
        partials[blockIdx.x] = a;
        partials[gridDim.x + blockIdx.x] = b;
        partials[2 * gridDim.x + blockIdx.x] = d;
    }
}

// norm = |c - w|, cosine = that of c - w and g; 0 where either is 0.
extern "C" __global__ void __launch_bounds__(THREADS)
perturbation_final(const f32 *partials, int count, f32 *norm, f32 *cosine) {
    float moved = sqrtf(sum_of(partials, count));
    float along = sum_of(partials + count, count);
    float size = sqrtf(sum_of(partials + 2 * count, count));
    if (threadIdx.x == 0) {
        *norm = moved;
        *cosine = moved > 0.f && size > 0.f ? along / size / moved : 0.f;
    }
}

// g /= scale, a power of two; partials[block] = how many of the block's quotients are not finite.
extern "C" __global__ void __launch_bounds__(THREADS)
unscale(f32 *g, const f32 *scale, const Chunk *chunks, int count, f32 *partials, int whole) {
    float by = *scale, lost = 0.f;
    each_group<1>(chunks, count, [&](int i, int left, const Chunk&) {
        float v[4];
        take(g + i, left, whole, v);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            v[k] /= by;
            // Infinite or NaN; INFINITY is a word that NVRTC does not know.
            if (!(v[k] - v[k] == 0.f)) lost += 1.f;
        }
        put(g + i, left, whole, v);
    });
    lost = block_sum<THREADS>(lost);
    if (threadIdx.x == 0) partials[blockIdx.x] = lost;
}

// overflow = 1 where any block has counted one.
extern "C" __global__ void __launch_bounds__(THREADS) unscale_final(const f32 *partials, int count, f32 *overflow) {
    float lost = sum_of(partials, count);
    if (threadIdx.x == 0 && lost > 0.f) *overflow = 1.f;
}

// ---- Scalar expressions: postfix code, two words a step, an operation and its operand. `code` of launch/vector.rs writes it.

enum Operation { CONST, READ, MUL, DIV, ADD, MIN, MAX, SQRT, NEG, SELECT };

// Most scalars an expression may read, values it may hold at once, terms of a sum, words of a call's code.
#define MOST 8
#define DEPTH 16
#define TERMS 8
#define WORDS 512

// The value of code[begin..end] over `scalars`, worked out in f64 as on the CPU. Adds to `dropped` the number of denominators
// that are zero, not finite, or too small for a quotient in f32; such a quotient is 0.
__device__ __forceinline__ float evaluate(const u32 *code, int begin, int end, const f32 *scalars, double *stack, int& dropped) {
    int len = 0;
    for (int at = begin; at < end; at += 2) {
        u32 operand = code[at + 1];
        // The topmost value, and the one below it: where a step takes two, y is the second.
        double y = len > 0 ? stack[len - 1] : 0.0, x = len > 1 ? stack[len - 2] : 0.0, value = 0.0;
        switch (code[at]) {
            case CONST: value = (double)__uint_as_float(operand); break;
            case READ: value = (double)scalars[operand]; break;
            case MUL: value = x * y; break;
            case DIV:
            {
                // Infinite or NaN: y - y is NaN. A quotient of a finite x must be finite in f32.
                double quotient = x / y;
                float narrow = (float)quotient;
                bool lost = x - x == 0.0 && !(narrow - narrow == 0.f);
                if (y == 0.0 || !(y - y == 0.0) || lost) dropped++;
                else value = quotient;
                break;
            }
            case ADD: value = x + y; break;
            case MIN: value = fmin(x, y); break;
            case MAX: value = fmax(x, y); break;
            case SQRT: value = sqrt(y); break;
            case NEG: value = -y; break;
            default: value = y > 0.0 ? stack[len - 3] : x; break;
        }
        // Values taken off: none, one, three or two.
        u32 step = code[at];
        len -= step <= READ ? 0 : step == SQRT || step == NEG ? 1 : step == SELECT ? 3 : 2;
        stack[len++] = value;
    }
    return (float)stack[0];
}

// out = the expression's value; *dropped += its bad denominators. One thread.
extern "C" __global__ void __launch_bounds__(32)
scalar(const f32 *s0, const f32 *s1, const f32 *s2, const f32 *s3, const f32 *s4, const f32 *s5, const f32 *s6, const f32 *s7,
       int count, const u32 *code, int words, f32 *out, f32 *dropped) {
    SHARED_ARRAY(double, stack, [DEPTH]);
    SHARED_ARRAY(f32, scalars, [MOST]);
    if (threadIdx.x != 0) return;
    const f32 *from[MOST] = {s0, s1, s2, s3, s4, s5, s6, s7};
#pragma unroll
    for (int i = 0; i < MOST; i++)
        if (i < count) scalars[i] = *from[i];
    int bad = 0;
    *out = evaluate(code, 0, words, scalars, stack, bad);
    if (bad > 0) *dropped += (float)bad;
}

// *fault = 1 where any of the scalars is not finite. One thread.
extern "C" __global__ void __launch_bounds__(32)
guard(const f32 *s0, const f32 *s1, const f32 *s2, const f32 *s3, const f32 *s4, const f32 *s5, const f32 *s6, const f32 *s7,
            int count, f32 *fault) {
    if (threadIdx.x != 0) return;
    const f32 *from[MOST] = {s0, s1, s2, s3, s4, s5, s6, s7};
    bool bad = false;
#pragma unroll
    for (int i = 0; i < MOST; i++)
        if (i < count) bad |= !(*from[i] - *from[i] == 0.f);
    if (bad) *fault = 1.f;
}

enum Map { IDENTITY, ABS, SIGN, SQUARE };

__device__ __forceinline__ float mapped(u32 map, float v) {
    switch (map) {
        case ABS: return fabsf(v);
        case SIGN: return v > 0.f ? 1.f : v < 0.f ? -1.f : v;
        case SQUARE: return v * v;
        default: return v;
    }
}

// dst = sum of coefficient * map(vector) * factor over the chunks, stored as TC where the chunk says so. A term whose
// coefficient has a bad denominator is left out, and counted once. dst may be one of the vectors.
//
// code: `terms` headers of three words, then the code of the coefficients. A header has the map and, in bits 4 to 7 and from 8
// on, the factor's map and the number of its vector (from 1), then begin and end of its code. Thread t of each block works
// out coefficient t, all blocks the same value: one launch less, and the loads of a block hide it behind those of others.
extern "C" __global__ void __launch_bounds__(THREADS)
set(const f32 *v0, const f32 *v1, const f32 *v2, const f32 *v3, const f32 *v4, const f32 *v5, const f32 *v6, const f32 *v7,
        const f32 *s0, const f32 *s1, const f32 *s2, const f32 *s3, const f32 *s4, const f32 *s5, const f32 *s6, const f32 *s7,
        int reads, const u32 *code, int words, int terms, const Chunk *chunks, int count, void *dst, f32 *dropped, int whole) {
    SHARED_ARRAY(u32, steps, [WORDS]);
    SHARED_ARRAY(double, stacks, [TERMS][DEPTH]);
    SHARED_ARRAY(f32, scalars, [MOST]);
    SHARED_ARRAY(f32, coefficients, [TERMS]);
    SHARED_ARRAY(int, kept, [TERMS]);
    const f32 *from[MOST] = {s0, s1, s2, s3, s4, s5, s6, s7};
    const f32 *vectors[TERMS] = {v0, v1, v2, v3, v4, v5, v6, v7};
    int thread = (int)threadIdx.x;
    for (int i = thread; i < words; i += THREADS) steps[i] = code[i];
#pragma unroll
    for (int i = 0; i < MOST; i++)
        if (thread == i && i < reads) scalars[i] = *from[i];
    __syncthreads();
    if (thread < terms) {
        int bad = 0;
        const u32 *header = steps + 3 * thread;
        coefficients[thread] = evaluate(steps, (int)header[1], (int)header[2], scalars, stacks[thread], bad);
        kept[thread] = bad == 0;
    }
    __syncthreads();
    if (blockIdx.x == 0 && thread == 0) {
        int bad = 0;
        for (int t = 0; t < terms; t++) bad += kept[t] == 0;
        if (bad > 0) *dropped += (float)bad;
    }
    each_group<1>(chunks, count, [&](int i, int left, const Chunk& chunk) {
        float sum[4] = {};
        bool first = true;
#pragma unroll
        for (int t = 0; t < TERMS; t++) {
            if (t >= terms || !kept[t]) continue;
            float v[4];
            take(vectors[t] + i, left, whole, v);
            float coefficient = coefficients[t];
            u32 map = steps[3 * t], factor = map >> 8;
            if (factor > 0) {
                const f32 *other = v0;
#pragma unroll
                for (u32 k = 1; k < TERMS; k++)
                    if (factor == k + 1) other = vectors[k];
                float u[4];
                take(other + i, left, whole, u);
#pragma unroll
                for (int k = 0; k < 4; k++) v[k] = mapped(map & 15, v[k]) * mapped(map >> 4 & 15, u[k]);
                map = IDENTITY;
            }
            // The first term is written, not added to 0, so that a plain copy keeps every bit (-0 + 0 is +0).
#pragma unroll
            for (int k = 0; k < 4; k++) {
                float x = mapped(map, v[k]);
                sum[k] = first ? coefficient * x : fmaf(coefficient, x, sum[k]);
            }
            first = false;
        }
        put_cast(dst, chunk.first, i, left, whole, sum);
    });
}

// One step of descent (see `Kernel::Update` for the formula); only c = w where *fault > 0. Rates are those of up to eight groups.
extern "C" __global__ void __launch_bounds__(THREADS)
update(const f32 *g, f32 *w, f32 *m, void *c, const Chunk *chunks, int count, const f32 *fault, const f32 *norm,
       const f32 *momentum, const f32 *clip, const f32 *lr0, const f32 *decay0, const f32 *lr1, const f32 *decay1, const f32 *lr2,
       const f32 *decay2, const f32 *lr3, const f32 *decay3, const f32 *lr4, const f32 *decay4, const f32 *lr5, const f32 *decay5,
       const f32 *lr6, const f32 *decay6, const f32 *lr7, const f32 *decay7, int nesterov, int whole) {
    if (*fault > 0.f) {
        // The next step begins at w, where this one may have left the compute copy perturbed.
        each_group<1>(chunks, count, [&](int i, int left, const Chunk& chunk) {
            float weight[4];
            take(w + i, left, whole, weight);
            put_cast(c, chunk.first, i, left, whole, weight);
        });
        return;
    }
    float factor = *clip > 0.f ? fminf(*clip / *norm, 1.f) : 1.f;
    float keep = *momentum;
    each_group<1>(chunks, count, [&](int i, int left, const Chunk& chunk) {
        u32 group = chunk.group;
        // A chain of choices of pointers: an array of them would be put into local memory.
        const f32 *lr_of = group == 0 ? lr0 : group == 1 ? lr1 : group == 2 ? lr2 : group == 3 ? lr3
                         : group == 4 ? lr4 : group == 5 ? lr5 : group == 6 ? lr6 : lr7;
        const f32 *decay_of = group == 0 ? decay0 : group == 1 ? decay1 : group == 2 ? decay2 : group == 3 ? decay3
                            : group == 4 ? decay4 : group == 5 ? decay5 : group == 6 ? decay6 : decay7;
        float lr = *lr_of, decay = *decay_of;
        float slope[4], weight[4], speed[4];
        take(g + i, left, whole, slope);
        take(w + i, left, whole, weight);
        take(m + i, left, whole, speed);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float d = factor * slope[k] + decay * weight[k];
            speed[k] = keep * speed[k] + d;
            weight[k] -= lr * (nesterov ? d + keep * speed[k] : speed[k]);
        }
        put(m + i, left, whole, speed);
        put(w + i, left, whole, weight);
        put_cast(c, chunk.first, i, left, whole, weight);
    });
}
