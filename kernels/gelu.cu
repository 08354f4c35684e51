// Gaussian error linear unit. One thread per value, in strides of the grid. Bound by bandwidth.
#include "common.cuh"

// The normal distribution function; erfc keeps the digits of the left tail.
__device__ __forceinline__ float normal(float x) { return 0.5f * erfcf(-0.70710678f * x); }

// y = x normal(x)
extern "C" __global__ void gelu_forward(
    const float* __restrict__ x,  // [N, C]
    u64 n,                        // N * C
    float* __restrict__ y         // [N, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) y[i] = x[i] * normal(x[i]);
}

// d_x += d_y (normal(x) + x density(x))
extern "C" __global__ void gelu_backward(
    const float* __restrict__ x,    // [N, C]
    const float* __restrict__ d_y,  // [N, C]
    u64 n,                          // N * C
    float* __restrict__ d_x         // [N, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        const float density = 0.3989423f * expf(-0.5f * x[i] * x[i]);
        d_x[i] += d_y[i] * (normal(x[i]) + x[i] * density);
    }
}
