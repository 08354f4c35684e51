// What the attention kernels share: offsets of pairs, the hidden layer of the position encoding, which weights count.
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

// Which weights count: not those of missing neighbours, nor those that dropout drops.
struct Weights {
    const float* soft;  // [N * K, G]
    const u32* index;   // [N * K]
    u64 seed, stream;   // of dropout
    float rate;

    __device__ __forceinline__ float factor(u64 pair, u64 at) const {
        if (index[pair] == MISSING) return 0.0f;
        return rate > 0.0f ? dropout_factor(seed, stream, at, rate) : 1.0f;
    }
};
