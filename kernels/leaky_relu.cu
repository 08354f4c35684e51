// Leaky rectified linear unit. One thread per value, in strides of the grid. Bound by bandwidth.
#include "common.cuh"

// y = x where x > 0, slope x elsewhere
extern "C" __global__ void leaky_relu_forward(
    const float* __restrict__ x,  // [N, C]
    u64 n,                        // N * C
    float slope,
    float* __restrict__ y         // [N, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) y[i] = x[i] > 0.0f ? x[i] : slope * x[i];
}

// d_x += d_y where y > 0, slope d_y elsewhere
extern "C" __global__ void leaky_relu_backward(
    const float* __restrict__ y,    // [N, C]
    const float* __restrict__ d_y,  // [N, C]
    u64 n,                          // N * C
    float slope,
    float* __restrict__ d_x         // [N, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) d_x[i] += y[i] > 0.0f ? d_y[i] : slope * d_y[i];
}
