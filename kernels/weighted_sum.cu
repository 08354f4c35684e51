// Weighted sum of losses. One thread. Bound by the launch.
#include "common.cuh"

// y = weight x, or y += weight x
extern "C" __global__ void weighted_term(
    const float* __restrict__ x,  // [1]
    float weight,
    u32 adds,                     // 1 adds to y, 0 replaces it
    float* __restrict__ y         // [1]
) {
    y[0] = adds ? y[0] + weight * x[0] : weight * x[0];
}
