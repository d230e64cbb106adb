// CUDA's own names for a C++ compiler: qualifiers, vector types, built-in variables, intrinsics, atomics, warp collectives.
#pragma once
#include "abi.h"
#include <math.h>
#include <string.h>
#include <utility>

// The loader finds kernels in the preprocessed text by this section's name.
#define __global__ __attribute__((section(".text.emu_kernel")))
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))

struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

#define threadIdx (emu_thread.thread)
#define blockIdx (emu_thread.block)
#define blockDim (emu_thread.block_dim)
#define gridDim (emu_thread.grid_dim)
#define warpSize 32

static unsigned emu_module_end;
#define SHARED_ARRAY(T, name, dims)                                                                                      \
    typedef T name##_emu_type dims;                                                                                      \
    static unsigned name##_emu_offset;                                                                                   \
    name##_emu_type &name = *(name##_emu_type *)(emu_thread.statics +                                                    \
                                                 (name##_emu_offset ? name##_emu_offset                                  \
                                                                    : emu_place_shared(&name##_emu_offset, &emu_module_end, \
                                                                                       sizeof(name##_emu_type), alignof(T))))
#define DYN_SHARED(name) unsigned char *name = emu_thread.dynamics

static inline void __syncthreads(EmuPlace at = EMU_HERE) { emu_syncthreads(at); }
static inline void __syncwarp(unsigned mask = 0xffffffffu, EmuPlace at = EMU_HERE) { emu_syncwarp(mask, at); }
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// ---- Scalar intrinsics. Macros where a C library declares the name.
template <typename Type>
static inline Type __ldg(const Type *p) {
    return *p;
}
static inline float __uint_as_float(unsigned u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline unsigned __float_as_uint(float f) {
    unsigned u;
    memcpy(&u, &f, 4);
    return u;
}
static inline float __int_as_float(int i) { return __uint_as_float((unsigned)i); }
static inline int __float_as_int(float f) { return (int)__float_as_uint(f); }
static inline float emu_rsqrtf(float x) { return 1.0f / sqrtf(x); }
#define rsqrtf emu_rsqrtf
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __int2float_rn(int a) { return (float)a; }
static inline float __uint2float_rn(unsigned a) { return (float)a; }
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    uint64_t bytes = (uint64_t)y << 32 | x;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) r |= (unsigned)(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return r;
}

// ---- Atomics: blocks run on several OS threads.
#define EMU_ATOMIC(name, T, builtin)                                               \
    EMU_UNCHECKED static inline T name(T *p, T v, EmuPlace at = EMU_HERE) {        \
        emu_check(p, sizeof(T), 1, 1, at);                                         \
        return builtin(p, v, __ATOMIC_SEQ_CST);                                    \
    }
EMU_ATOMIC(atomicAdd, int, __atomic_fetch_add)
EMU_ATOMIC(atomicAdd, unsigned, __atomic_fetch_add)
EMU_ATOMIC(atomicAdd, unsigned long long, __atomic_fetch_add)
EMU_ATOMIC(atomicOr, int, __atomic_fetch_or)
EMU_ATOMIC(atomicOr, unsigned, __atomic_fetch_or)
EMU_ATOMIC(atomicAnd, unsigned, __atomic_fetch_and)
EMU_ATOMIC(atomicExch, int, __atomic_exchange_n)
EMU_ATOMIC(atomicExch, unsigned, __atomic_exchange_n)
EMU_UNCHECKED static inline unsigned atomicCAS(unsigned *p, unsigned compare, unsigned v, EmuPlace at = EMU_HERE) {
    emu_check(p, 4, 1, 1, at);
    __atomic_compare_exchange_n(p, &compare, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return compare;
}
template <typename Type>
EMU_UNCHECKED static inline Type emu_atomic_extreme(Type *p, Type v, bool larger, EmuPlace at) {
    emu_check(p, sizeof(Type), 1, 1, at);
    Type old = __atomic_load_n(p, __ATOMIC_SEQ_CST);
    while ((larger ? old < v : v < old) &&
           !__atomic_compare_exchange_n(p, &old, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
    return old;
}
static inline int atomicMax(int *p, int v, EmuPlace at = EMU_HERE) { return emu_atomic_extreme(p, v, true, at); }
static inline unsigned atomicMax(unsigned *p, unsigned v, EmuPlace at = EMU_HERE) { return emu_atomic_extreme(p, v, true, at); }
static inline int atomicMin(int *p, int v, EmuPlace at = EMU_HERE) { return emu_atomic_extreme(p, v, false, at); }
static inline unsigned atomicMin(unsigned *p, unsigned v, EmuPlace at = EMU_HERE) { return emu_atomic_extreme(p, v, false, at); }

// ---- Warp collectives: each lane brings a pointer to its locals, and the last to come does the work for all.
struct EmuShuffle {
    unsigned value, result;
    int source;
};
EMU_UNCHECKED static inline void emu_shuffle_lanes(void **slots, unsigned present) {
    for (int lane = 0; lane < 32; lane++) {
        if (!(present >> lane & 1)) continue;
        EmuShuffle *mine = (EmuShuffle *)slots[lane];
        if (!(present >> mine->source & 1)) {
            emu_fail("shuffle: lane %d reads lane %d, which does not take part", lane, mine->source);
        }
        mine->result = ((EmuShuffle *)slots[mine->source])->value;
    }
}
template <typename Type>
EMU_UNCHECKED static inline Type emu_shuffle(unsigned mask, Type value, int source, EmuPlace at) {
    static_assert(sizeof(Type) == 4, "shuffles are of 4 bytes");
    EmuShuffle mine;
    memcpy(&mine.value, &value, 4);
    mine.source = source & 31;
    emu_warp(emu_shuffle_lanes, mask, &mine, at);
    memcpy(&value, &mine.result, 4);
    return value;
}
// A lane whose source falls out of its segment of `width` lanes reads itself.
static inline int emu_lane() { return (int)(emu_thread.thread.x & 31); }
static inline int emu_lane_within(int source, int width) {
    return (source ^ emu_lane()) & ~(width - 1) ? emu_lane() : source;
}
template <typename Type>
static inline Type __shfl_sync(unsigned mask, Type v, int source, int width = 32, EmuPlace at = EMU_HERE) {
    return emu_shuffle(mask, v, (emu_lane() & ~(width - 1)) | (source & (width - 1)), at);
}
template <typename Type>
static inline Type __shfl_xor_sync(unsigned mask, Type v, int bits, int width = 32, EmuPlace at = EMU_HERE) {
    return emu_shuffle(mask, v, emu_lane_within(emu_lane() ^ bits, width), at);
}
template <typename Type>
static inline Type __shfl_down_sync(unsigned mask, Type v, int delta, int width = 32, EmuPlace at = EMU_HERE) {
    return emu_shuffle(mask, v, emu_lane_within(emu_lane() + delta, width), at);
}
template <typename Type>
static inline Type __shfl_up_sync(unsigned mask, Type v, int delta, int width = 32, EmuPlace at = EMU_HERE) {
    return emu_shuffle(mask, v, emu_lane_within(emu_lane() - delta, width), at);
}

struct EmuBallot {
    unsigned vote, result;
};
EMU_UNCHECKED static inline void emu_ballot_lanes(void **slots, unsigned present) {
    unsigned result = 0;
    for (int lane = 0; lane < 32; lane++) {
        if (present >> lane & 1 && ((EmuBallot *)slots[lane])->vote) result |= 1u << lane;
    }
    for (int lane = 0; lane < 32; lane++) {
        if (present >> lane & 1) ((EmuBallot *)slots[lane])->result = result;
    }
}
EMU_UNCHECKED static inline unsigned __ballot_sync(unsigned mask, int vote, EmuPlace at = EMU_HERE) {
    EmuBallot mine{(unsigned)(vote != 0), 0};
    emu_warp(emu_ballot_lanes, mask, &mine, at);
    return mine.result;
}
static inline int __any_sync(unsigned mask, int vote, EmuPlace at = EMU_HERE) { return __ballot_sync(mask, vote, at) != 0; }
static inline int __all_sync(unsigned mask, int vote, EmuPlace at = EMU_HERE) { return __ballot_sync(mask, !vote, at) == 0; }

// ---- A kernel's entry: takes cuLaunchKernel's void** apart, and lists the sizes of the parameters.
template <typename... Types, size_t... INDEX>
EMU_UNCHECKED static inline void emu_apply(void (*kernel)(Types...), void **arguments, std::index_sequence<INDEX...>) {
    kernel(*(Types *)arguments[INDEX]...);
}
template <typename... Types>
EMU_UNCHECKED static inline void emu_enter(void (*kernel)(Types...), void **arguments) {
    emu_apply(kernel, arguments, std::make_index_sequence<sizeof...(Types)>());
}
template <typename... Types>
struct EmuSizes {
    static constexpr int values[sizeof...(Types) + 1] = {(int)sizeof(Types)..., 0};
};
template <typename... Types>
constexpr EmuKernel emu_describe(const char *name, void (*entry)(void **), void (*)(Types...)) {
    return {name, entry, (int)sizeof...(Types), EmuSizes<Types...>::values};
}
