// Kernels with one fault each, for the test of the test. Every kernel is independent; see `tests/emulator.rs`.
#include "prelude.cuh"

extern "C" __global__ void write_past_end(float *x, int n) { x[n + (int)threadIdx.x] = 1.0f; }

extern "C" __global__ void write_before(float *x, int n) { x[(int)threadIdx.x - n] = 1.0f; }

extern "C" __global__ void read_past_end(float *x, int n) { x[threadIdx.x] = x[n + 8 + (int)threadIdx.x]; }

extern "C" __global__ void off_by_one_shared(float *x, int n) {
    SHARED_ARRAY(float, values, [64]);
    values[threadIdx.x] = 1.0f;
    __syncthreads();
    x[threadIdx.x] = values[threadIdx.x + (n == 64)];
}

extern "C" __global__ void past_dynamic(float *x, int n) {
    DYN_SHARED(shared);
    float *values = reinterpret_cast<float *>(shared);
    values[(int)threadIdx.x + 3] = 1.0f;  // 64 floats were asked for
    __syncthreads();
    x[threadIdx.x] = values[threadIdx.x + (n > 1000)];
}

extern "C" __global__ void unwritten_shared(float *x, int n) {
    SHARED_ARRAY(float, values, [64]);
    if ((int)threadIdx.x < n - 1) values[threadIdx.x] = 1.0f;
    __syncthreads();
    x[threadIdx.x] = values[threadIdx.x];
}

extern "C" __global__ void unwritten_global(float *x, int n) { x[threadIdx.x] += (float)n; }

// The barrier before the neighbour's value is read is missing.
extern "C" __global__ void missing_barrier(float *x, int n) {
    SHARED_ARRAY(float, values, [64]);
    values[threadIdx.x] = (float)threadIdx.x;
    x[threadIdx.x] = values[((int)threadIdx.x + 33) % n];
}

// So is the one after it has been read.
extern "C" __global__ void missing_second_barrier(float *x, int n) {
    SHARED_ARRAY(float, values, [64]);
    float sum = 0.0f;
    for (int i = 0; i < 3; i++) {
        values[threadIdx.x] = (float)i;
        __syncthreads();
        sum += values[((int)threadIdx.x + 33) % n];
    }
    x[threadIdx.x] = sum;
}

extern "C" __global__ void missing_syncwarp(float *x, int n) {
    SHARED_ARRAY(float, values, [64]);
    values[threadIdx.x] = (float)n;
    x[threadIdx.x] = values[threadIdx.x ^ 1];
}

extern "C" __global__ void blocks_race(float *x, int n) { if (threadIdx.x == 0) x[0] = (float)(blockIdx.x + n); }

extern "C" __global__ void blocks_share(float *x, int n) {
    if (blockIdx.x == 0) x[threadIdx.x] = (float)n;
    if (blockIdx.x == 1) x[64 + threadIdx.x] = x[threadIdx.x];
}

extern "C" __global__ void early_return(float *x, int n) {
    if ((int)threadIdx.x >= n - 1) return;
    __syncthreads();
    x[threadIdx.x] = 1.0f;
}

extern "C" __global__ void divergent_barrier(float *x, int n) {
    if ((int)threadIdx.x < n / 2) {
        __syncthreads();
    } else {
        x[threadIdx.x] = 1.0f;
        __syncthreads();
    }
}

extern "C" __global__ void half_a_shuffle(float *x, int n) {
    float v = 1.0f;
    if ((int)threadIdx.x < n / 4) v = __shfl_xor_sync(0xffffffffu, v, 1);
    x[threadIdx.x] = v;
}

extern "C" __global__ void misaligned(float *x, int n) {
    float v[4];
    load4(x + 1, v);
    x[threadIdx.x] = v[0] + (float)n;
}

extern "C" __global__ void deep(float *x, int n) {
    volatile char big[100000];
    big[n] = 1;
    x[threadIdx.x] = big[n];
}

extern "C" __global__ void null_pointer(float *x, int n) {
    float *p = n == 64 ? nullptr : x;
    p[threadIdx.x] = 1.0f;
}

extern "C" __global__ void endless(float *x, int n) {
    volatile float *flag = x;
    while (flag[0] != (float)n) {
    }
}

extern "C" __global__ void endless_meeting(float *x, int n) {
    while (__shfl_xor_sync(0xffffffffu, n, 1) == 64) {
    }
    x[0] = 1.0f;
}

// Waits for the group before the one that it reads.
extern "C" __global__ void weak_cp_async_wait(float *x, int n) {
    SHARED_ARRAY(float, values, [2][256]);
    int at = (int)threadIdx.x * 4;
    cp_async_16(&values[0][at], x + at, true);
    cp_async_commit();
    cp_async_16(&values[1][at], x + at, true);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    x[at] = values[1][at] + (float)n;
}

extern "C" __global__ void no_barrier_after_cp_async(float *x, int n) {
    SHARED_ARRAY(float, values, [256]);
    int at = (int)threadIdx.x * 4;
    cp_async_16(&values[at], x + at, true);
    cp_async_commit();
    cp_async_wait<0>();
    float v = values[(at + 4 * 33) % (4 * n)];
    __syncthreads();
    x[at] = v;
}

// ---- A product with TMA and wgmma, 64 x 64 x 64 in each step, with one fault by the macro.
#ifndef FAULT
#define FAULT 0
#endif
extern "C" __global__ void __launch_bounds__(160)
    ring(const __grid_constant__ TMap a, const __grid_constant__ TMap b, float *c, int steps) {
    DYN_SHARED(shared);
    SHARED_ARRAY(u64, full, [2]);
    SHARED_ARRAY(u64, empty, [2]);
    int thread = (int)threadIdx.x;
    if (thread == 0) {
        for (int s = 0; s < 2; s++) mbar_init(&full[s], 1), mbar_init(&empty[s], 4);
        mbar_fence_init();
    }
    if (FAULT != 1) __syncthreads();
    if (thread >= 128) {
        for (int step = 0; thread == 128 && step < steps; step++) {
            int s = step & 1;
            u8 *stage = shared + s * 16384;
            if (FAULT != 2) mbar_wait(&empty[s], (step >> 1 & 1) ^ 1);
            mbar_expect_tx(&full[s], FAULT == 3 ? 8192 : 16384);
            tma_load(stage, &a, {step * 64, 0}, &full[s]);
            tma_load(stage + 8192 + (FAULT == 4 ? 512 : 0), &b, {step * 64, 0}, &full[s]);
        }
    } else {
        float acc[32] = {};
        for (int step = 0; step < steps; step++) {
            int s = step & 1;
            u8 *stage = shared + s * 16384;
            if (FAULT != 5) mbar_wait(&full[s], step >> 1 & 1);
            if (FAULT == 11) {  // a plain write that wgmma may not see
                if (thread == 0) *reinterpret_cast<volatile u32 *>(stage) = *reinterpret_cast<volatile u32 *>(stage);
                named_sync(1, 128);
            }
            if (FAULT != 6) wgmma_fence();
            for (int kk = 0; kk < 4; kk++) {
                u64 da = wgmma_desc(stage) + 2 * kk, db = wgmma_desc(stage + 8192) + 2 * kk;
                if (FAULT == 7) db += (u64)1 << 62;  // another swizzle
                if (FAULT == 8 && thread == 77) db += 2;
                wgmma<bf16, 64, 0, 0>(acc, da, db);
            }
            wgmma_commit();
            if (FAULT == 9) {
                wgmma_wait<1>();
            } else {
                wgmma_wait<0>();
            }
            if (FAULT == 10 ? thread < 96 && thread % 32 == 0 : thread % 32 == 0) mbar_arrive(&empty[s]);
        }
        for (int i = 0; i < 32; i++) {
            int row = thread / 32 * 16 + i / 2 % 2 * 8 + thread % 32 / 4, column = i / 4 * 8 + thread % 4 * 2 + i % 2;
            c[row * 64 + column] = acc[i];
        }
    }
}
