// The header of every kernel: storage types, vector loads and stores, sums over a warp and a block, and the wrappers around
// PTX. No other file may contain `asm`. The GPU's side of the wrappers is ptx.cuh; with -DCUDA_EMU the same names come from
// emu/, so that the same .cu file runs on a CPU.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef float f32;

// Storage types of two bytes. Arithmetic is in float: see load and store.
struct bf16 {
    u16 bits;
};
struct f16 {
    u16 bits;
};

#ifdef CUDA_EMU
#include "emu/cuda.h"
#include "emu/ptx.h"
#else
#include "ptx.cuh"
#endif

// ---- Conversions, to nearest with ties to even.
__device__ __forceinline__ float to_float(f32 x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
__device__ __forceinline__ float to_float(f16 x) { return f16_to_float(x.bits); }

template <typename Type>
__device__ __forceinline__ Type from_float(float x);
template <>
__device__ __forceinline__ f32 from_float<f32>(float x) {
    return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
    return {float_to_bf16(x)};
}
template <>
__device__ __forceinline__ f16 from_float<f16>(float x) {
    return {float_to_f16(x)};
}

// Two elements of two bytes in a register, the first in the low half.
template <typename Type>
__device__ __forceinline__ u32 pack2(float low, float high);
template <>
__device__ __forceinline__ u32 pack2<bf16>(float low, float high) {
    return float2_to_bf16x2(low, high);
}
template <>
__device__ __forceinline__ u32 pack2<f16>(float low, float high) {
    return (u32)float_to_f16(low) | (u32)float_to_f16(high) << 16;
}

template <typename Type>
__device__ __forceinline__ void unpack2(u32 pair, float &low, float &high);
template <>
__device__ __forceinline__ void unpack2<bf16>(u32 pair, float &low, float &high) {
    low = __uint_as_float(pair << 16);
    high = __uint_as_float(pair & 0xffff0000u);
}
template <>
__device__ __forceinline__ void unpack2<f16>(u32 pair, float &low, float &high) {
    low = f16_to_float((u16)pair);
    high = f16_to_float((u16)(pair >> 16));
}

// ---- Loads and stores of one, four and eight elements. Those of four and eight are single accesses of 8 or 16 bytes (two of
// 16 for eight f32), so addresses must be aligned to that.
template <typename Type>
__device__ __forceinline__ float load(const Type *p) {
    return to_float(*p);
}
template <typename Type>
__device__ __forceinline__ void store(Type *p, float x) {
    *p = from_float<Type>(x);
}

__device__ __forceinline__ void load4(const f32 *p, float (&v)[4]) {
    float4 q = *reinterpret_cast<const float4 *>(p);
    v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
}
__device__ __forceinline__ void store4(f32 *p, const float (&v)[4]) {
    *reinterpret_cast<float4 *>(p) = make_float4(v[0], v[1], v[2], v[3]);
}
template <typename Type>
__device__ __forceinline__ void load4(const Type *p, float (&v)[4]) {
    uint2 q = *reinterpret_cast<const uint2 *>(p);
    unpack2<Type>(q.x, v[0], v[1]);
    unpack2<Type>(q.y, v[2], v[3]);
}
template <typename Type>
__device__ __forceinline__ void store4(Type *p, const float (&v)[4]) {
    *reinterpret_cast<uint2 *>(p) = make_uint2(pack2<Type>(v[0], v[1]), pack2<Type>(v[2], v[3]));
}

__device__ __forceinline__ void load8(const f32 *p, float (&v)[8]) {
    float4 q = *reinterpret_cast<const float4 *>(p), r = *reinterpret_cast<const float4 *>(p + 4);
    v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
    v[4] = r.x, v[5] = r.y, v[6] = r.z, v[7] = r.w;
}
__device__ __forceinline__ void store8(f32 *p, const float (&v)[8]) {
    *reinterpret_cast<float4 *>(p) = make_float4(v[0], v[1], v[2], v[3]);
    *reinterpret_cast<float4 *>(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
}
template <typename Type>
__device__ __forceinline__ void load8(const Type *p, float (&v)[8]) {
    uint4 q = *reinterpret_cast<const uint4 *>(p);
    unpack2<Type>(q.x, v[0], v[1]);
    unpack2<Type>(q.y, v[2], v[3]);
    unpack2<Type>(q.z, v[4], v[5]);
    unpack2<Type>(q.w, v[6], v[7]);
}
template <typename Type>
__device__ __forceinline__ void store8(Type *p, const float (&v)[8]) {
    *reinterpret_cast<uint4 *>(p) =
        make_uint4(pack2<Type>(v[0], v[1]), pack2<Type>(v[2], v[3]), pack2<Type>(v[4], v[5]), pack2<Type>(v[6], v[7]));
}

// ---- Sums in a fixed order; every thread gets the result.
#ifndef CUDA_EMU  // the emulator does each in one meeting of the warp, in the same order
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
    return v;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, offset));
    return v;
}
#endif

// All THREADS threads of the block must call it; it may be called again at once.
template <int THREADS>
__device__ __forceinline__ float block_sum(float v) {
    static_assert(THREADS % 32 == 0 && THREADS <= 1024, "whole warps");
    if (THREADS == 32) return warp_sum(v);
    SHARED_ARRAY(float, parts, [32]);
    int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5;
    v = warp_sum(v);
    if (lane == 0) parts[warp] = v;
    __syncthreads();
    v = warp_sum(lane < THREADS / 32 ? parts[lane] : 0.0f);
    __syncthreads();  // nobody writes `parts` for the next sum before all have read it
    return v;
}
