// The emulator's side of prelude.cuh: the wrappers around PTX that ptx.cuh has for the GPU.
#pragma once
#include "abi.h"

// The architecture that kernels are compiled for here: everything up to wgmma is there.
#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 900
#endif

static inline u32 shared_address(const void *p) { return emu_shared_address(p); }

// ---- Conversions, to nearest with ties to even; NaN becomes what the GPU makes of it.
static inline float f16_to_float(u16 x) {
    u32 sign = (u32)(x & 0x8000) << 16, magnitude = x & 0x7fff;
    if (magnitude >= 0x7c00) return __uint_as_float(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    // 2^112 moves the exponent's bias from 15 to 127, and makes subnormal numbers normal.
    float value = __uint_as_float(magnitude << 13) * 0x1p112f;
    return __uint_as_float(sign | __float_as_uint(value));
}
static inline u16 float_to_f16(float x) {
    u32 bits = __float_as_uint(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return 0x7fff;
    if (magnitude >= 0x477ff000) return (u16)(sign | 0x7c00);  // from 65520 on
    if (magnitude < 0x38800000) {                              // below 2^-14: adding 0.5 rounds to multiples of 2^-24
        return (u16)(sign | (__float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000));
    }
    return (u16)(sign | (magnitude + 0xc8000fff + (magnitude >> 13 & 1)) >> 13);
}
static inline u16 float_to_bf16(float x) {
    u32 bits = __float_as_uint(x);
    return x != x ? (u16)0x7fff : (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static inline u32 float2_to_bf16x2(float low, float high) {
    return (u32)float_to_bf16(low) | (u32)float_to_bf16(high) << 16;
}
static inline u32 to_tf32(float x) {
    u32 bits = __float_as_uint(x);
    return (bits & 0x7f800000) == 0x7f800000 ? bits : (bits + 0x1000) & 0xffffe000;
}

// ---- Sums over a warp, by the tree that prelude.cuh spells out in shuffles.
template <bool MAXIMUM>
EMU_UNCHECKED static inline void emu_reduce_lanes(void **slots, unsigned) {
    float v[32], next[32];
    for (int lane = 0; lane < 32; lane++) v[lane] = *(float *)slots[lane];
    for (int offset = 16; offset > 0; offset /= 2) {
        for (int lane = 0; lane < 32; lane++) {
            float other = v[lane ^ offset];
            next[lane] = MAXIMUM ? fmaxf(v[lane], other) : v[lane] + other;
        }
        memcpy(v, next, sizeof v);
    }
    for (int lane = 0; lane < 32; lane++) *(float *)slots[lane] = v[lane];
}
EMU_UNCHECKED static inline float warp_sum(float v, EmuPlace at = EMU_HERE) {
    emu_warp(emu_reduce_lanes<false>, 0xffffffffu, &v, at);
    return v;
}
EMU_UNCHECKED static inline float warp_max(float v, EmuPlace at = EMU_HERE) {
    emu_warp(emu_reduce_lanes<true>, 0xffffffffu, &v, at);
    return v;
}
static inline void named_sync(int id, int threads, EmuPlace at = EMU_HERE) { emu_named_sync(id, threads, at); }

// ---- cp.async
static inline void cp_async_16(void *dst, const void *src, bool pred, EmuPlace at = EMU_HERE) {
    emu_cp_async(dst, src, 16, pred, at);
}
static inline void cp_async_8(void *dst, const void *src, bool pred, EmuPlace at = EMU_HERE) {
    emu_cp_async(dst, src, 8, pred, at);
}
static inline void cp_async_4(void *dst, const void *src, bool pred, EmuPlace at = EMU_HERE) {
    emu_cp_async(dst, src, 4, pred, at);
}
static inline void cp_async_commit() { emu_cp_async_commit(); }
template <int COUNT>
static inline void cp_async_wait(EmuPlace at = EMU_HERE) {
    emu_cp_async_wait(COUNT, at);
}

// ---- ldmatrix and mma: one meeting of the warp for a whole tile of registers.
struct EmuLdmatrix {
    const void *row;
    unsigned *registers;
    EmuPlace at;
};
EMU_UNCHECKED static inline void ldmatrix_x4(u32 (&r)[4], const void *row, EmuPlace at = EMU_HERE) {
    EmuLdmatrix mine{row, r, at};
    emu_warp(emu_ldmatrix, 0xffffffffu, &mine, at);
}
EMU_UNCHECKED static inline void ldmatrix_x4_trans(u32 (&r)[4], const void *row, EmuPlace at = EMU_HERE) {
    EmuLdmatrix mine{row, r, at};
    emu_warp(emu_ldmatrix_trans, 0xffffffffu, &mine, at);
}

struct EmuMma {
    float *c;
    const unsigned *a, *b;
    int mt, nt;
    EmuElement element;
};
template <typename Type>
struct EmuElementOf;
template <>
struct EmuElementOf<bf16> {
    static constexpr EmuElement value = EMU_BF16;
};
template <>
struct EmuElementOf<f16> {
    static constexpr EmuElement value = EMU_F16;
};
template <typename Type, int MT, int NT>
EMU_UNCHECKED static inline void mma_tile(float (&c)[MT][NT][4], const u32 (&a)[MT][4], const u32 (&b)[NT][2],
                                          EmuPlace at = EMU_HERE) {
    EmuMma mine{&c[0][0][0], &a[0][0], &b[0][0], MT, NT, EmuElementOf<Type>::value};
    emu_warp(emu_mma, 0xffffffffu, &mine, at);
}
template <int MT, int NT>
EMU_UNCHECKED static inline void mma_tile_tf32(float (&c)[MT][NT][4], const u32 (&a)[MT][4], const u32 (&b)[NT][2],
                                               EmuPlace at = EMU_HERE) {
    EmuMma mine{&c[0][0][0], &a[0][0], &b[0][0], MT, NT, EMU_TF32};
    emu_warp(emu_mma, 0xffffffffu, &mine, at);
}

// ---- mbarrier and TMA
static inline void mbar_init(u64 *bar, u32 count, EmuPlace at = EMU_HERE) {
    emu_mbar((uint64_t *)bar, EMU_MBAR_INIT, count, at);
}
static inline void mbar_fence_init() {}
static inline void mbar_expect_tx(u64 *bar, u32 bytes, EmuPlace at = EMU_HERE) {
    emu_mbar((uint64_t *)bar, EMU_MBAR_EXPECT, bytes, at);
}
static inline void mbar_arrive(u64 *bar, EmuPlace at = EMU_HERE) { emu_mbar((uint64_t *)bar, EMU_MBAR_ARRIVE, 0, at); }
static inline void mbar_wait(u64 *bar, u32 parity, EmuPlace at = EMU_HERE) {
    emu_mbar_wait((uint64_t *)bar, parity, at);
}
static inline void fence_proxy_async() { emu_fence_proxy_async(); }
template <int RANK>
static inline void tma_load(void *dst, const TMap *map, const int (&start)[RANK], u64 *bar, EmuPlace at = EMU_HERE) {
    emu_tma_load(dst, map, start, RANK, (uint64_t *)bar, at);
}

// ---- wgmma. The descriptors have the bits of the real ones; see wgmma.cuh.
static inline u64 emu_descriptor(const void *p, u32 leading) {
    return (u64)((shared_address(p) & 0x3ffff) >> 4) | (u64)(leading >> 4) << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}
static inline u64 wgmma_desc(const void *p) { return emu_descriptor(p, 16); }
static inline u64 wgmma_desc_mn(const void *p, u32 next) { return emu_descriptor(p, next); }
static inline void wgmma_fence(EmuPlace at = EMU_HERE) { emu_wgmma_control(EMU_WGMMA_FENCE, 0, at); }
static inline void wgmma_commit(EmuPlace at = EMU_HERE) { emu_wgmma_control(EMU_WGMMA_COMMIT, 0, at); }
template <int COUNT>
static inline void wgmma_wait(EmuPlace at = EMU_HERE) {
    emu_wgmma_control(EMU_WGMMA_WAIT, COUNT, at);
}
template <typename Type, int COLUMNS, int TRANS_A, int TRANS_B>
EMU_UNCHECKED static inline void wgmma(float (&d)[COLUMNS / 2], u64 a, u64 b, EmuPlace at = EMU_HERE) {
    static_assert(COLUMNS % 8 == 0 && COLUMNS >= 8 && COLUMNS <= 256, "N = 8, 16, .. 256");
    EmuWgmma op{EmuElementOf<Type>::value, COLUMNS, TRANS_A, TRANS_B, a, b};
    emu_wgmma(&op, d, at);
}
template <int COUNT>
static inline void reg_alloc() {
    static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256, "registers in steps of 8");
}
template <int COUNT>
static inline void reg_dealloc() {
    static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256, "registers in steps of 8");
}
