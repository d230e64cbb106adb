// The n entries of largest magnitude of a vector, by radix selection on the bits of |v|: integers as the magnitudes are ordered.
//
// Digit after digit of eight bits, from the highest: every block counts the digits of its elements that agree with the known
// digits of the n-th largest magnitude, then one block picks the next digit. Each block takes a run of chunks, so that
// blocks, chunks and threads follow the order of the elements: among equals those of lower index are kept. The atomics count
// integers, so no result depends on their order.
#include "prelude.cuh"

#define THREADS 256
#define DIGITS 256

// Elements start..end, as in vector.cu.
struct alignas(16) Chunk {
    u32 start, end, group, first;
};

__device__ __forceinline__ u32 magnitude(f32 v) { return __float_as_uint(v) & 0x7fffffffu; }

// counts[block][digit]: elements of the block with this digit at `shift`, among those whose higher digits are state[0]'s.
extern "C" __global__ void __launch_bounds__(THREADS)
largest_count(const f32 *v, const Chunk *chunks, int count, int each, const u32 *state, u32 *counts, int shift) {
    SHARED_ARRAY(u32, found, [DIGITS]);
    int thread = (int)threadIdx.x, first = (int)blockIdx.x * each, last = min(first + each, count);
    found[thread] = 0u;
    // The state holds nothing yet where no digit is known.
    u32 known = shift == 24 ? 0u : state[0];
    __syncthreads();
    for (int at = first; at < last; at++) {
        Chunk chunk = chunks[at];
        for (u32 i = chunk.start + (u32)thread; i < chunk.end; i += THREADS) {
            u32 bits = magnitude(v[i]);
            // Two shifts: one by 32 is not defined.
            if ((bits >> shift) >> 8 == (known >> shift) >> 8) atomicAdd(found + ((bits >> shift) & 255u), 1u);
        }
    }
    __syncthreads();
    counts[(size_t)blockIdx.x * DIGITS + thread] = found[thread];
}

// The digit at `shift` of the n-th largest magnitude: state[0] gets it, state[1] how many of those that agree so far are to be
// kept. With the last digit starts[block] gets the equals in the blocks before. One block.
extern "C" __global__ void __launch_bounds__(THREADS)
largest_pick(const u32 *counts, int blocks, u32 *state, u32 *starts, int shift, int n) {
    SHARED_ARRAY(u32, sums, [DIGITS]);
    SHARED_ARRAY(u32, picked, [1]);
    int thread = (int)threadIdx.x;
    u32 sum = 0u;
    for (int b = 0; b < blocks; b++) sum += counts[(size_t)b * DIGITS + thread];
    sums[thread] = sum;
    __syncthreads();
    if (thread == 0) {
        u32 left = shift == 24 ? (u32)n : state[1], known = shift == 24 ? 0u : state[0], above = 0u;
        // With n = 0 the search still runs and keeps nothing.
        u32 wanted = left > 0u ? left : 1u;
        int digit = DIGITS - 1;
        while (digit > 0 && above + sums[digit] < wanted) above += sums[digit--];
        state[0] = known | (u32)digit << shift;
        state[1] = left > 0u ? left - above : 0u;
        picked[0] = (u32)digit;
    }
    __syncthreads();
    if (shift > 0) return;
    // Few blocks, and one thread: a sum of a thousand counts.
    if (thread == 0) {
        u32 before = 0u;
        for (int b = 0; b < blocks; b++) {
            starts[b] = before;
            before += counts[(size_t)b * DIGITS + picked[0]];
        }
    }
}

// u = v above the magnitude that was found, and at the first state[1] of its equals; else 0.
extern "C" __global__ void __launch_bounds__(THREADS)
largest_keep(const f32 *v, f32 *u, const Chunk *chunks, int count, int each, const u32 *state, const u32 *starts) {
    SHARED_ARRAY(u32, equals, [THREADS]);
    int thread = (int)threadIdx.x, first = (int)blockIdx.x * each, last = min(first + each, count);
    u32 least = state[0], kept = state[1], before = starts[blockIdx.x];
    for (int at = first; at < last; at++) {
        Chunk chunk = chunks[at];
        // Gives neighbouring elements to one thread, so that threads follow the elements' order.
        u32 share = (chunk.end - chunk.start + THREADS - 1) / THREADS;
        u32 begin = min(chunk.start + share * (u32)thread, chunk.end), end = min(begin + share, chunk.end);
        u32 own = 0u;
        for (u32 i = begin; i < end; i++) own += magnitude(v[i]) == least ? 1u : 0u;
        equals[thread] = own;
        __syncthreads();
        u32 rank = before;
        for (int t = 0; t < THREADS; t++) {
            if (t < thread) rank += equals[t];
            before += equals[t];
        }
        for (u32 i = begin; i < end; i++) {
            f32 x = v[i];
            u32 bits = magnitude(x);
            bool keep = bits > least || (bits == least && rank++ < kept);
            u[i] = keep ? x : 0.f;
        }
        // Nobody counts the next chunk's equals before all have read these.
        __syncthreads();
    }
}
