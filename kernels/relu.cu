// Rectified linear unit. One thread per value, in strides of the grid. Bound by bandwidth.
#include "common.cuh"

// y = max(x, 0)
extern "C" __global__ void relu_forward(
    const float* __restrict__ x,  // [N, C]
    u64 n,                        // N * C
    float* __restrict__ y         // [N, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) y[i] = rectify(x[i]);
}

// y = max(a + b, 0)
extern "C" __global__ void add_relu_forward(
    const float* __restrict__ a,  // [N, C]
    const float* __restrict__ b,  // [N, C]
    u64 n,                        // N * C
    float* __restrict__ y         // [N, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) y[i] = rectify(a[i] + b[i]);
}

// d_x += d_y where y > 0
extern "C" __global__ void relu_backward(
    const float* __restrict__ y,    // [N, C]
    const float* __restrict__ d_y,  // [N, C]
    u64 n,                          // N * C
    float* __restrict__ d_x         // [N, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride())
        if (y[i] > 0.0f) d_x[i] += d_y[i];
}
