// Random numbers without state: Philox 4x32-10 (Salmon et al., SC 2011), the draws of rng.rs bit for bit.
#pragma once
#include "counters.cuh"

struct Words {
    u32 at[4];
};

// The four words at `block` of the draws of (seed, stream, epoch, index).
__device__ __forceinline__ Words draw(u32 seed_lo, u32 seed_hi, u32 stream, u32 epoch, u32 index, u32 block) {
    u32 c0 = block, c1 = index, c2 = epoch, c3 = stream;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u64 a = (u64)0xD2511F53u * c0, b = (u64)0xCD9E8D57u * c2;
        c0 = (u32)(b >> 32) ^ c1 ^ seed_lo;
        c1 = (u32)b;
        c2 = (u32)(a >> 32) ^ c3 ^ seed_hi;
        c3 = (u32)a;
        seed_lo += 0x9E3779B9u;
        seed_hi += 0xBB67AE85u;
    }
    return Words{{c0, c1, c2, c3}};
}

// A word as a float in [0, 1), in steps of 2^-24.
__device__ __forceinline__ float unit(u32 word) { return (float)(word >> 8) * (1.f / 16777216.f); }

// A word as a number in 0..n.
__device__ __forceinline__ u32 below(u32 word, u32 n) { return (u32)(((u64)word * n) >> 32); }
