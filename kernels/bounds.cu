// Lowest and highest coordinates of each batch element. A block of 256 threads takes a chunk of one element (blockIdx.x);
// the chunks (blockIdx.y) of an element meet in atomic maxima of integers, whose order does not matter. Bound by
// bandwidth.
#include "elements.cuh"

// Complements of the lowest, then the highest coordinates, as numbers for floats in ascending order; all 0 before.
extern "C" __global__ void __launch_bounds__(256) element_bounds(
    const float* __restrict__ coord,   // [N, 3]
    const u32* __restrict__ starts,    // [B + 1], where the elements start
    u32* __restrict__ bounds           // [B, 6]
) {
    float low[3] = {INFINITY, INFINITY, INFINITY}, high[3] = {-INFINITY, -INFINITY, -INFINITY};
    const u32 end = starts[blockIdx.x + 1];
    for (u64 first = first_of_element(starts); first < end; first += element_step()) {
        float p[3];
        load_points(coord, first, end, p);
        if (first + lane_number() >= end) continue;
#pragma unroll
        for (int axis = 0; axis < 3; ++axis) {
            low[axis] = fminf(low[axis], p[axis]);
            high[axis] = fmaxf(high[axis], p[axis]);
        }
    }
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
        const float lowest = -warp_max(-low[axis]), highest = warp_max(high[axis]);
        if (lane_number() == 0 && lowest <= highest) {
            atomicMax(&bounds[6 * blockIdx.x + axis], ~ascending_bits(lowest));
            atomicMax(&bounds[6 * blockIdx.x + 3 + axis], ascending_bits(highest));
        }
    }
}
