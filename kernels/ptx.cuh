// The GPU's side of prelude.cuh: thin wrappers around PTX, and nothing of the CUDA toolkit's headers.
#pragma once

// A CUtensorMap, passed by value as `const __grid_constant__ TMap`.
struct alignas(64) TMap {
    u64 words[16];
};

#define SHARED_ARRAY(T, name, dims) __shared__ T name dims
// Tiles that TMA writes with the 128-byte swizzle begin at multiples of 1024 bytes.
#define DYN_SHARED(name) extern __shared__ __align__(1024) u8 name[]

__device__ __forceinline__ u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

// ---- Conversions.
__device__ __forceinline__ float f16_to_float(u16 x) {
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x));
    return r;
}
__device__ __forceinline__ u16 float_to_f16(float x) {
    u16 r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x));
    return r;
}
__device__ __forceinline__ u16 float_to_bf16(float x) {
#if __CUDA_ARCH__ >= 800
    u16 r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(x));
    return r;
#else
    u32 u = __float_as_uint(x);
    return x != x ? (u16)0x7fff : (u16)((u + 0x7fff + (u >> 16 & 1)) >> 16);
#endif
}
__device__ __forceinline__ u32 float2_to_bf16x2(float low, float high) {
#if __CUDA_ARCH__ >= 800
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
#else
    return (u32)float_to_bf16(low) | (u32)float_to_bf16(high) << 16;
#endif
}

// Barrier `id` (1..15; 0 is __syncthreads) for `threads` threads, whole warps: for a part of the block.
__device__ __forceinline__ void named_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#if __CUDA_ARCH__ >= 800
// ---- cp.async: copies of 16, 8 or 4 bytes to shared memory; where `pred` is false zeros are written and nothing is read.
__device__ __forceinline__ void cp_async_16(void *dst, const void *src, bool pred) {
    int n = pred ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(dst)), "l"(src), "r"(n) : "memory");
}
__device__ __forceinline__ void cp_async_8(void *dst, const void *src, bool pred) {
    int n = pred ? 8 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(dst)), "l"(src), "r"(n) : "memory");
}
__device__ __forceinline__ void cp_async_4(void *dst, const void *src, bool pred) {
    int n = pred ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(dst)), "l"(src), "r"(n) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N of this thread's newest groups are under way.
template <int COUNT>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(COUNT) : "memory");
}

// ---- ldmatrix: four 8x8 matrices of 2-byte elements. Lane l gives the address of row l % 8 of matrix l / 8 and receives in
// r[i] elements (l / 4, 2 (l % 4)) and its right neighbour of matrix i; `trans`: of the transposed matrix.
__device__ __forceinline__ void ldmatrix_x4(u32 (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(u32 (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// ---- mma.sync: c[i][j] += a[i] b[j] for all MT x NT tiles of a warp, 16 x 8 each. c is f32.
__device__ __forceinline__ void mma_16816(bf16, float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_16816(f16, float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_1688_tf32(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// m16n8k16, T = bf16 or f16.
template <typename Type, int MT, int NT>
__device__ __forceinline__ void mma_tile(float (&c)[MT][NT][4], const u32 (&a)[MT][4], const u32 (&b)[NT][2]) {
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < NT; j++) mma_16816(Type{}, c[i][j], a[i], b[j]);
}
// m16n8k8; operands have been through to_tf32.
template <int MT, int NT>
__device__ __forceinline__ void mma_tile_tf32(float (&c)[MT][NT][4], const u32 (&a)[MT][4], const u32 (&b)[NT][2]) {
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < NT; j++) mma_1688_tf32(c[i][j], a[i], b[j]);
}
// Rounds to 10 bits of mantissa, ties away from zero.
__device__ __forceinline__ u32 to_tf32(float x) {
    u32 r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
    return r;
}
#endif  // sm_80

#if __CUDA_ARCH__ >= 900
// ---- mbarrier: a phase ends after `count` arrivals and when all bytes that were expected have come.
__device__ __forceinline__ void mbar_init(u64 *bar, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(count) : "memory");
}
// Makes initialised barriers visible to TMA; by the thread that initialised them, before the block's barrier.
__device__ __forceinline__ void mbar_fence_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// Arrives, and announces bytes that TMA will bring in this phase.
__device__ __forceinline__ void mbar_expect_tx(u64 *bar, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(bar)), "r"(bytes) : "memory");
}
__device__ __forceinline__ void mbar_arrive(u64 *bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}
// Waits until the phase of that parity has ended; a fresh barrier is in phase 0, and the one before it, of parity 1, has ended.
__device__ __forceinline__ void mbar_wait(u64 *bar, u32 parity) {
    asm volatile(
        "{\n.reg .pred done;\n"
        "again:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}"
        ::"r"(shared_address(bar)), "r"(parity) : "memory");
}
// Makes plain writes to shared memory visible to TMA and wgmma, which do not see them otherwise.
__device__ __forceinline__ void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- TMA: copies the map's box that begins at `at` (innermost dimension first; may begin or end outside the tensor, where
// elements read as 0) to shared memory, and counts its bytes on the barrier. One thread calls it.
__device__ __forceinline__ void tma_load(void *dst, const TMap *map, const int (&at)[2], u64 *bar) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
                 ::"r"(shared_address(dst)), "l"(map), "r"(at[0]), "r"(at[1]), "r"(shared_address(bar)) : "memory");
}
__device__ __forceinline__ void tma_load(void *dst, const TMap *map, const int (&at)[3], u64 *bar) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];"
                 ::"r"(shared_address(dst)), "l"(map), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(shared_address(bar)) : "memory");
}
__device__ __forceinline__ void tma_load(void *dst, const TMap *map, const int (&at)[4], u64 *bar) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];"
                 ::"r"(shared_address(dst)), "l"(map), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(shared_address(bar)) : "memory");
}
__device__ __forceinline__ void tma_load(void *dst, const TMap *map, const int (&at)[5], u64 *bar) {
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5, %6}], [%7];"
                 ::"r"(shared_address(dst)), "l"(map), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]), "r"(shared_address(bar)) : "memory");
}
#endif  // sm_90

// wgmma and setmaxnreg exist on sm_90a alone, not on what came after.
#if __CUDA_ARCH__ == 900
#include "wgmma.cuh"
#endif
