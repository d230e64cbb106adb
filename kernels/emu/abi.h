// The interface between a kernel module and the emulator's runtime. A module is one .cu file compiled by a C++ compiler; the
// runtime (runtime.cpp) is loaded once. One OS thread runs one block; each CUDA thread is a fiber; a collective operation of
// a warp or a block is a meeting of fibers.
#pragma once
#include <stddef.h>
#include <stdint.h>

// The runtime may look at memory as it likes; the checker's instrumentation is for kernels.
#ifdef __SANITIZE_THREAD__
#define EMU_UNCHECKED __attribute__((no_sanitize_thread))
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define EMU_UNCHECKED __attribute__((no_sanitize("thread")))
#endif
#endif
#ifndef EMU_UNCHECKED
#define EMU_UNCHECKED
#endif

// A place in a kernel's source. As a default argument, EMU_HERE is the place of the call.
struct EmuPlace {
    const char *file;
    int line;
    static constexpr EmuPlace here(const char *file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};
#define EMU_HERE EmuPlace::here()

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
};

// The running thread: a copy of the fiber's identity, so that threadIdx costs one load. It lies in static TLS, of which a
// library that is loaded late gets little: keep it small.
struct EmuThread {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
    unsigned char *statics, *dynamics;  // shared memory of the block: static arrays, and the dynamic part
};

// A CUtensorMap, as the emulator fills it.
struct alignas(64) TMap {
    uint64_t base;
    uint32_t dims[5], box[5];
    uint64_t strides[4];  // bytes between neighbours in dimensions 1..
    uint32_t rank, magic;
};
static_assert(sizeof(TMap) == 128, "as large as a CUtensorMap");
constexpr uint32_t EMU_MAP_MAGIC = 0x7e45a901;

enum EmuElement { EMU_BF16, EMU_F16, EMU_TF32 };
enum EmuMbarOp { EMU_MBAR_INIT, EMU_MBAR_EXPECT, EMU_MBAR_ARRIVE };
enum EmuWgmmaOp { EMU_WGMMA_COMMIT, EMU_WGMMA_WAIT, EMU_WGMMA_FENCE };

// One wgmma: the same for all threads of the warpgroup but for the accumulators.
struct EmuWgmma {
    EmuElement element;
    int n, transpose_a, transpose_b;
    uint64_t a, b;
};

// A collective operation of a warp: slots[lane] is each lane's argument, `present` the lanes that take part.
typedef void (*EmuWarpFunction)(void **slots, unsigned present);

// A kernel as its module exports it. `sizes` are bytes of its parameters.
struct EmuKernel {
    const char *name;
    void (*entry)(void **arguments);
    int count;
    const int *sizes;
};

extern "C" {
extern __thread EmuThread emu_thread __attribute__((tls_model("initial-exec")));

void emu_syncthreads(EmuPlace at);
void emu_named_sync(int id, int threads, EmuPlace at);
void emu_syncwarp(unsigned mask, EmuPlace at);
void emu_warp(EmuWarpFunction f, unsigned mask, void *mine, EmuPlace at);
// Ends the launch with an error.
void emu_fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
// The checker's look at an access that is not instrumented.
void emu_check(const void *p, unsigned bytes, int write, int atomic, EmuPlace at);
// Gives a static shared array its place, once for a module; returns its offset, never 0.
unsigned emu_place_shared(unsigned *offset, unsigned *module_end, unsigned bytes, unsigned align);

void emu_cp_async(void *dst, const void *src, unsigned bytes, int pred, EmuPlace at);
void emu_cp_async_commit();
void emu_cp_async_wait(unsigned newest, EmuPlace at);
void emu_ldmatrix(void **slots, unsigned present);
void emu_ldmatrix_trans(void **slots, unsigned present);
void emu_mma(void **slots, unsigned present);
void emu_mbar(uint64_t *bar, int op, unsigned n, EmuPlace at);
void emu_mbar_wait(uint64_t *bar, unsigned parity, EmuPlace at);
void emu_tma_load(void *dst, const TMap *map, const int *start, int rank, uint64_t *bar, EmuPlace at);
void emu_wgmma(const EmuWgmma *op, float *d, EmuPlace at);
void emu_wgmma_control(int op, unsigned newest, EmuPlace at);
void emu_fence_proxy_async();
unsigned emu_shared_address(const void *p);
}
