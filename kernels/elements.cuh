// Points of a ragged batch, element by element: blockIdx.x is the element, blockIdx.y one of the chunks that share its
// points in strides. A warp takes 32 consecutive points at a time.
#pragma once
#include "triples.cuh"

// First point of this warp, and the step to its next ones.
__device__ __forceinline__ u64 first_of_element(const u32* starts) {
    return (u64)starts[blockIdx.x] + blockIdx.y * blockDim.x + (threadIdx.x & ~31u);
}
__device__ __forceinline__ u64 element_step() { return (u64)gridDim.y * blockDim.x; }

// Numbers in the order of floats that are not NaN, and back.
__device__ __forceinline__ u32 ascending_bits(float x) {
    const u32 bits = __float_as_uint(x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float of_ascending_bits(u32 bits) {
    return __uint_as_float(bits >> 31 ? bits & 0x7FFFFFFFu : ~bits);
}

// Lowest and highest coordinates of element e, from what element_bounds left: read at once by every warp, all of it.
__device__ __forceinline__ void load_bounds_of(const u32* bounds, u32 e, float* low, float* high) {
    const u32 mine = bounds[6 * e + min(lane_number(), 5u)];
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
        low[axis] = of_ascending_bits(~__shfl_sync(0xFFFFFFFFu, mine, axis));
        high[axis] = of_ascending_bits(__shfl_sync(0xFFFFFFFFu, mine, 3 + axis));
    }
}
