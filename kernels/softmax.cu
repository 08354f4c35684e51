// Softmax of rows. One warp per row, its lanes across the channels. Bound by bandwidth.
#include "common.cuh"

// p = softmax(x)
extern "C" __global__ void softmax_forward(
    const float* __restrict__ x,  // [N, C]
    u64 rows,                     // N
    u32 cols,                     // C
    float* __restrict__ p         // [N, C]
) {
    const u64 row = warp_number();
    if (row >= rows) return;
    softmax_row(x + row * cols, cols, p + row * cols);
}

// d_x += p (d_p - sum of p d_p)
extern "C" __global__ void softmax_backward(
    const float* __restrict__ p,    // [N, C]
    const float* __restrict__ d_p,  // [N, C]
    u64 rows,                       // N
    u32 cols,                       // C
    float* __restrict__ d_x         // [N, C]
) {
    const u64 row = warp_number();
    if (row >= rows) return;
    const u64 first = row * cols;
    float mean = 0.0f;
    for (u32 c = lane_number(); c < cols; c += 32) mean += p[first + c] * d_p[first + c];
    mean = warp_sum(mean);
    for (u32 c = lane_number(); c < cols; c += 32)
        d_x[first + c] += p[first + c] * (d_p[first + c] - mean);
}
