// The seam between steps and the host: what the host posts is taken from an entry of its inbox, what it wants to know is left
// in one of an outbox, so that captured steps are replayed one behind the other without a word in between. One warp each.
#include "counters.cuh"

#define THREADS 32

// An entry of the inbox: the six words of Counters, a count, then pairs (scalar slot, bits of its value).
extern "C" __global__ void __launch_bounds__(THREADS) begin_step(const u32 *entry, u32 *counters, f32 *scalars) {
    int thread = (int)threadIdx.x, count = (int)entry[6];
    if (thread < 6) counters[thread] = entry[thread];
    for (int i = thread; i < count; i += THREADS) scalars[entry[7 + 2 * i]] = __uint_as_float(entry[8 + 2 * i]);
}

// An entry of the outbox: the values of `count` scalar slots.
extern "C" __global__ void __launch_bounds__(THREADS)
end_step(f32 *entry, const f32 *scalars, const u32 *slots, int count) {
    for (int i = (int)threadIdx.x; i < count; i += THREADS) entry[i] = scalars[slots[i]];
}
