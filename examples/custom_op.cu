// Swish on a GPU: one thread per value, in strides of the grid.
#include "common.cuh"

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

extern "C" __global__ void swish_forward(
    const float* __restrict__ x,  // [N, C]
    u64 n,                        // N * C
    float* __restrict__ y         // [N, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) y[i] = x[i] * sigmoid(x[i]);
}

extern "C" __global__ void swish_backward(
    const float* __restrict__ x,    // [N, C]
    const float* __restrict__ d_y,  // [N, C]
    u64 n,                          // N * C
    float* __restrict__ d_x         // [N, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        const float s = sigmoid(x[i]);
        d_x[i] += d_y[i] * s * (1.0f + x[i] * (1.0f - s));
    }
}
