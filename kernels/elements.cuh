// Points of a ragged batch, element by element: blockIdx.x is the element, blockIdx.y one of the chunks that share its
// points in strides. A warp takes 32 consecutive points at a time.
#pragma once
#include "common.cuh"

// First point of this warp, and the step to its next ones.
__device__ __forceinline__ u64 first_of_element(const u32* starts) {
    return (u64)starts[blockIdx.x] + blockIdx.y * blockDim.x + (threadIdx.x & ~31u);
}
__device__ __forceinline__ u64 element_step() { return (u64)gridDim.y * blockDim.x; }

// Points first, first + 1, ... of a warp, one per lane; undefined from `end` on. Three coalesced reads of 32 numbers, which
// change lanes: number 3 lane + axis belongs to a lane, and the lane that read it finds out to whom it goes.
__device__ __forceinline__ void load_points(const float* coord, u64 first, u64 end, float* p) {
    const u32 lane = lane_number();
    const float* numbers = coord + 3 * first;
    const u64 count = 3 * (end - first);
    float read[3];
#pragma unroll
    for (u32 j = 0; j < 3; ++j) read[j] = lane + 32 * j < count ? numbers[lane + 32 * j] : 0.0f;
#pragma unroll
    for (u32 axis = 0; axis < 3; ++axis) {
        const u32 taker = (lane + 32 - axis) * 11 % 32;  // 3 * 11 = 1 modulo 32
        const u32 j = (3 * taker + axis) / 32;
        const float sent = j == 0 ? read[0] : j == 1 ? read[1] : read[2];
        p[axis] = __shfl_sync(0xFFFFFFFFu, sent, (3 * lane + axis) % 32);
    }
}

// Numbers in the order of floats that are not NaN, and back.
__device__ __forceinline__ u32 ascending_bits(float x) {
    const u32 bits = __float_as_uint(x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float of_ascending_bits(u32 bits) {
    return __uint_as_float(bits >> 31 ? bits & 0x7FFFFFFFu : ~bits);
}

// Lowest and highest coordinate of element e along an axis, from what element_bounds left.
__device__ __forceinline__ float lowest_of(const u32* bounds, u32 e, u32 axis) {
    return of_ascending_bits(~bounds[6 * e + axis]);
}
__device__ __forceinline__ float highest_of(const u32* bounds, u32 e, u32 axis) {
    return of_ascending_bits(bounds[6 * e + 3 + axis]);
}
