// wgmma (sm_90a): a warpgroup multiplies a 64 x 16 tile of A by a 16 x N tile of B, both in shared memory with the 128-byte
// swizzle, as TMA writes them. Included by ptx.cuh.
#pragma once

// Descriptor of an operand stored K-major: rows of 64 elements (128 bytes) of k, eight rows in 1024 bytes. 16 further
// elements of k are 2 further in the descriptor.
__device__ __forceinline__ u64 wgmma_desc(const void *p) {
    return (u64)((shared_address(p) & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}
// Descriptor of an operand stored MN-major (transposed): a row of 64 elements of m or n for each k, eight k in 1024 bytes. The next
// 64 elements of m or n begin `next` bytes on. 16 further k are 128 further in the descriptor.
__device__ __forceinline__ u64 wgmma_desc_mn(const void *p, u32 next) {
    return (u64)((shared_address(p) & 0x3ffff) >> 4) | (u64)(next >> 4) << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}
// Before the first wgmma of a chain, after registers or shared memory were written.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most N of the newest groups are under way.
template <int COUNT>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(COUNT) : "memory");
}
// Registers of each thread of the warpgroup from here on, a multiple of 8.
template <int COUNT>
__device__ __forceinline__ void reg_alloc() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT>
__device__ __forceinline__ void reg_dealloc() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// An instruction needs its registers one by one: names and operands of N / 2 accumulators, four more for each 8 of N.
#define WGMMA_F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_NAMES_8 "%0, %1, %2, %3"
#define WGMMA_REGISTERS_8 WGMMA_F4(0)
#define WGMMA_NAMES_16 WGMMA_NAMES_8 ", %4, %5, %6, %7"
#define WGMMA_REGISTERS_16 WGMMA_REGISTERS_8, WGMMA_F4(4)
#define WGMMA_NAMES_24 WGMMA_NAMES_16 ", %8, %9, %10, %11"
#define WGMMA_REGISTERS_24 WGMMA_REGISTERS_16, WGMMA_F4(8)
#define WGMMA_NAMES_32 WGMMA_NAMES_24 ", %12, %13, %14, %15"
#define WGMMA_REGISTERS_32 WGMMA_REGISTERS_24, WGMMA_F4(12)
#define WGMMA_NAMES_40 WGMMA_NAMES_32 ", %16, %17, %18, %19"
#define WGMMA_REGISTERS_40 WGMMA_REGISTERS_32, WGMMA_F4(16)
#define WGMMA_NAMES_48 WGMMA_NAMES_40 ", %20, %21, %22, %23"
#define WGMMA_REGISTERS_48 WGMMA_REGISTERS_40, WGMMA_F4(20)
#define WGMMA_NAMES_56 WGMMA_NAMES_48 ", %24, %25, %26, %27"
#define WGMMA_REGISTERS_56 WGMMA_REGISTERS_48, WGMMA_F4(24)
#define WGMMA_NAMES_64 WGMMA_NAMES_56 ", %28, %29, %30, %31"
#define WGMMA_REGISTERS_64 WGMMA_REGISTERS_56, WGMMA_F4(28)
#define WGMMA_NAMES_72 WGMMA_NAMES_64 ", %32, %33, %34, %35"
#define WGMMA_REGISTERS_72 WGMMA_REGISTERS_64, WGMMA_F4(32)
#define WGMMA_NAMES_80 WGMMA_NAMES_72 ", %36, %37, %38, %39"
#define WGMMA_REGISTERS_80 WGMMA_REGISTERS_72, WGMMA_F4(36)
#define WGMMA_NAMES_88 WGMMA_NAMES_80 ", %40, %41, %42, %43"
#define WGMMA_REGISTERS_88 WGMMA_REGISTERS_80, WGMMA_F4(40)
#define WGMMA_NAMES_96 WGMMA_NAMES_88 ", %44, %45, %46, %47"
#define WGMMA_REGISTERS_96 WGMMA_REGISTERS_88, WGMMA_F4(44)
#define WGMMA_NAMES_104 WGMMA_NAMES_96 ", %48, %49, %50, %51"
#define WGMMA_REGISTERS_104 WGMMA_REGISTERS_96, WGMMA_F4(48)
#define WGMMA_NAMES_112 WGMMA_NAMES_104 ", %52, %53, %54, %55"
#define WGMMA_REGISTERS_112 WGMMA_REGISTERS_104, WGMMA_F4(52)
#define WGMMA_NAMES_120 WGMMA_NAMES_112 ", %56, %57, %58, %59"
#define WGMMA_REGISTERS_120 WGMMA_REGISTERS_112, WGMMA_F4(56)
#define WGMMA_NAMES_128 WGMMA_NAMES_120 ", %60, %61, %62, %63"
#define WGMMA_REGISTERS_128 WGMMA_REGISTERS_120, WGMMA_F4(60)
#define WGMMA_NAMES_136 WGMMA_NAMES_128 ", %64, %65, %66, %67"
#define WGMMA_REGISTERS_136 WGMMA_REGISTERS_128, WGMMA_F4(64)
#define WGMMA_NAMES_144 WGMMA_NAMES_136 ", %68, %69, %70, %71"
#define WGMMA_REGISTERS_144 WGMMA_REGISTERS_136, WGMMA_F4(68)
#define WGMMA_NAMES_152 WGMMA_NAMES_144 ", %72, %73, %74, %75"
#define WGMMA_REGISTERS_152 WGMMA_REGISTERS_144, WGMMA_F4(72)
#define WGMMA_NAMES_160 WGMMA_NAMES_152 ", %76, %77, %78, %79"
#define WGMMA_REGISTERS_160 WGMMA_REGISTERS_152, WGMMA_F4(76)
#define WGMMA_NAMES_168 WGMMA_NAMES_160 ", %80, %81, %82, %83"
#define WGMMA_REGISTERS_168 WGMMA_REGISTERS_160, WGMMA_F4(80)
#define WGMMA_NAMES_176 WGMMA_NAMES_168 ", %84, %85, %86, %87"
#define WGMMA_REGISTERS_176 WGMMA_REGISTERS_168, WGMMA_F4(84)
#define WGMMA_NAMES_184 WGMMA_NAMES_176 ", %88, %89, %90, %91"
#define WGMMA_REGISTERS_184 WGMMA_REGISTERS_176, WGMMA_F4(88)
#define WGMMA_NAMES_192 WGMMA_NAMES_184 ", %92, %93, %94, %95"
#define WGMMA_REGISTERS_192 WGMMA_REGISTERS_184, WGMMA_F4(92)
#define WGMMA_NAMES_200 WGMMA_NAMES_192 ", %96, %97, %98, %99"
#define WGMMA_REGISTERS_200 WGMMA_REGISTERS_192, WGMMA_F4(96)
#define WGMMA_NAMES_208 WGMMA_NAMES_200 ", %100, %101, %102, %103"
#define WGMMA_REGISTERS_208 WGMMA_REGISTERS_200, WGMMA_F4(100)
#define WGMMA_NAMES_216 WGMMA_NAMES_208 ", %104, %105, %106, %107"
#define WGMMA_REGISTERS_216 WGMMA_REGISTERS_208, WGMMA_F4(104)
#define WGMMA_NAMES_224 WGMMA_NAMES_216 ", %108, %109, %110, %111"
#define WGMMA_REGISTERS_224 WGMMA_REGISTERS_216, WGMMA_F4(108)
#define WGMMA_NAMES_232 WGMMA_NAMES_224 ", %112, %113, %114, %115"
#define WGMMA_REGISTERS_232 WGMMA_REGISTERS_224, WGMMA_F4(112)
#define WGMMA_NAMES_240 WGMMA_NAMES_232 ", %116, %117, %118, %119"
#define WGMMA_REGISTERS_240 WGMMA_REGISTERS_232, WGMMA_F4(116)
#define WGMMA_NAMES_248 WGMMA_NAMES_240 ", %120, %121, %122, %123"
#define WGMMA_REGISTERS_248 WGMMA_REGISTERS_240, WGMMA_F4(120)
#define WGMMA_NAMES_256 WGMMA_NAMES_248 ", %124, %125, %126, %127"
#define WGMMA_REGISTERS_256 WGMMA_REGISTERS_248, WGMMA_F4(124)

// a, b, trans-a and trans-b are the operands after the accumulators.
#define WGMMA_ASM(N, TYPE, A, B, TA, TB)                                                                                  \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" WGMMA_NAMES_##N "}, %" #A ", %" #B       \
                 ", 1, 1, 1, %" #TA ", %" #TB ";"                                                                         \
                 : WGMMA_REGISTERS_##N                                                                                    \
                 : "l"(a), "l"(b), "n"(TRANS_A), "n"(TRANS_B))
#define WGMMA_SHAPE(N, A, B, TA, TB)                                                                                      \
    template <int TRANS_A, int TRANS_B>                                                                                   \
    __device__ __forceinline__ void wgmma_shape(bf16, float (&d)[N / 2], u64 a, u64 b) {                                  \
        WGMMA_ASM(N, "bf16", A, B, TA, TB);                                                                               \
    }                                                                                                                     \
    template <int TRANS_A, int TRANS_B>                                                                                   \
    __device__ __forceinline__ void wgmma_shape(f16, float (&d)[N / 2], u64 a, u64 b) {                                   \
        WGMMA_ASM(N, "f16", A, B, TA, TB);                                                                                \
    }
WGMMA_SHAPE(8, 4, 5, 6, 7)
WGMMA_SHAPE(16, 8, 9, 10, 11)
WGMMA_SHAPE(24, 12, 13, 14, 15)
WGMMA_SHAPE(32, 16, 17, 18, 19)
WGMMA_SHAPE(40, 20, 21, 22, 23)
WGMMA_SHAPE(48, 24, 25, 26, 27)
WGMMA_SHAPE(56, 28, 29, 30, 31)
WGMMA_SHAPE(64, 32, 33, 34, 35)
WGMMA_SHAPE(72, 36, 37, 38, 39)
WGMMA_SHAPE(80, 40, 41, 42, 43)
WGMMA_SHAPE(88, 44, 45, 46, 47)
WGMMA_SHAPE(96, 48, 49, 50, 51)
WGMMA_SHAPE(104, 52, 53, 54, 55)
WGMMA_SHAPE(112, 56, 57, 58, 59)
WGMMA_SHAPE(120, 60, 61, 62, 63)
WGMMA_SHAPE(128, 64, 65, 66, 67)
WGMMA_SHAPE(136, 68, 69, 70, 71)
WGMMA_SHAPE(144, 72, 73, 74, 75)
WGMMA_SHAPE(152, 76, 77, 78, 79)
WGMMA_SHAPE(160, 80, 81, 82, 83)
WGMMA_SHAPE(168, 84, 85, 86, 87)
WGMMA_SHAPE(176, 88, 89, 90, 91)
WGMMA_SHAPE(184, 92, 93, 94, 95)
WGMMA_SHAPE(192, 96, 97, 98, 99)
WGMMA_SHAPE(200, 100, 101, 102, 103)
WGMMA_SHAPE(208, 104, 105, 106, 107)
WGMMA_SHAPE(216, 108, 109, 110, 111)
WGMMA_SHAPE(224, 112, 113, 114, 115)
WGMMA_SHAPE(232, 116, 117, 118, 119)
WGMMA_SHAPE(240, 120, 121, 122, 123)
WGMMA_SHAPE(248, 124, 125, 126, 127)
WGMMA_SHAPE(256, 128, 129, 130, 131)

// d += A B, under way until wgmma_wait: T = bf16 or f16, N = 8, 16, .. 256. Thread t of the warpgroup holds in d[4 j + 2 h + e] the
// element of row 16 (t / 32) + 8 h + t % 32 / 4 and column 8 j + 2 (t % 4) + e.
template <typename Type, int COLUMNS, int TRANS_A, int TRANS_B>
__device__ __forceinline__ void wgmma(float (&d)[COLUMNS / 2], u64 a, u64 b) {
    wgmma_shape<TRANS_A, TRANS_B>(Type{}, d, a, b);
}
