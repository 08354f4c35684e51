// What the attention kernels share: offsets of pairs and the hidden layer of the position encoding.
#pragma once
#include "common.cuh"

// x, y and z of the offsets of all pairs, each [N * K].
struct Offsets {
    const float *x, *y, *z;
};

// h = max(P (offset, 1), 0) of one channel; P is its row of the position map.
__device__ __forceinline__ float hidden(float4 p, float x, float y, float z) {
    return rectify(p.x * x + p.y * y + p.z * z + p.w);
}

// Row of the position map, 0 for a channel that there is not.
__device__ __forceinline__ float4 position_row(const float* position, u32 c, u32 channels) {
    return c < channels ? ((const float4*)position)[c] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}
