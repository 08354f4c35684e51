// Random masks of values (C = 1) or of rows. One thread per value, in strides of the grid. Bound by bandwidth: the ten
// rounds of Philox are about 40 operations per value, and the rows of a block share theirs in no way worth the code.
#include "common.cuh"

// y = x m scale, or y += x m scale; m = 0 with probability rate, one for each row
extern "C" __global__ void drop(
    const float* __restrict__ x,  // [N, C]
    u64 n,                        // N * C
    u64 cols,                     // C
    u64 seed,
    u64 stream,
    float rate,
    u32 adds,                     // 1 adds to y, 0 replaces it
    float* __restrict__ y         // [N, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        const float kept = x[i] * dropout_factor(seed, stream, i / cols, rate);
        y[i] = adds ? y[i] + kept : kept;
    }
}
