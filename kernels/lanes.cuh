// Groups of neighbouring elements: what one thread handles at a time, in 8- or 16-byte accesses where it can.
#pragma once
#include "prelude.cuh"

template <class T> __device__ __forceinline__ void load_group(const T *p, float (&v)[4]) { load4(p, v); }
template <class T> __device__ __forceinline__ void load_group(const T *p, float (&v)[8]) { load8(p, v); }
template <class T> __device__ __forceinline__ void store_group(T *p, const float (&v)[4]) { store4(p, v); }
template <class T> __device__ __forceinline__ void store_group(T *p, const float (&v)[8]) { store8(p, v); }

// v = the elements from p on, of which there are `left`; 0 behind them. `whole`: all groups but a last one that is cut begin at a
// multiple of 16 bytes (8 for four elements of two bytes).
template <class T, int N> __device__ __forceinline__ void take(const T *p, int left, bool whole, float (&v)[N]) {
    if (whole && left >= N) {
        load_group(p, v);
        return;
    }
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = k < left ? load(p + k) : 0.f;
}

// The elements from p on, of which there are `left`, = v.
template <class T, int N> __device__ __forceinline__ void put(T *p, int left, bool whole, const float (&v)[N]) {
    if (whole && left >= N) {
        store_group(p, v);
        return;
    }
#pragma unroll
    for (int k = 0; k < N; k++)
        if (k < left) store(p + k, v[k]);
}

// The elements from p on = v, or += v.
template <class T, int N> __device__ __forceinline__ void put(bool add, T *p, int left, bool whole, float (&v)[N]) {
    if (add) {
        float before[N];
        take(p, left, whole, before);
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = before[k] + v[k];
    }
    put(p, left, whole, v);
}

// Below every number, so that any is larger.
__device__ __forceinline__ float lowest() { return __uint_as_float(0xff800000u); }

// Number of this thread in its grid of blocks along x.
__device__ __forceinline__ int thread_number() { return (int)blockIdx.x * (int)blockDim.x + (int)threadIdx.x; }
