// Sum of two values. One thread per value, in strides of the grid. Bound by bandwidth.
#include "common.cuh"

// y = a + b
extern "C" __global__ void add_forward(
    const float* __restrict__ a,  // [N, C]
    const float* __restrict__ b,  // [N, C]
    u64 n,                        // N * C
    float* __restrict__ y         // [N, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) y[i] = a[i] + b[i];
}

// d_x += d_y, for either input
extern "C" __global__ void add_backward(
    const float* __restrict__ d_y,  // [N, C]
    u64 n,                          // N * C
    float* __restrict__ d_x         // [N, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) d_x[i] += d_y[i];
}
