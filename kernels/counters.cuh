// A step's counters from the host, and the places of data sets. `counters_bytes` and `dataset_bytes` of launch/step.rs write both.
#pragma once
#include "prelude.cuh"

// 24 bytes, a word each in this order; the fields of `Counters` in ops/call.rs.
struct Counters {
    u32 seed_lo, seed_hi, epoch, dataset, first, rows;
};

// 32 bytes: three addresses, then two words. Images are [count, c, h, w] bytes of `image_len` each.
struct Dataset {
    const u8 *images;
    const u8 *labels;
    const u32 *order;
    u32 image_len, count;
};
