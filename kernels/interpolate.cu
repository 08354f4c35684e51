// Weighted sum of the rows of a stencil. One thread per value, in strides of the grid. Bound by bandwidth.
#include "common.cuh"

// y[i] = sum over j of weight[i, j] x[index[i, j]]
extern "C" __global__ void interpolate_forward(
    const float* __restrict__ x,       // [S, C]
    const u32* __restrict__ index,     // [N, K], rows of x
    const float* __restrict__ weight,  // [N, K]
    u32 k,
    u64 n,                             // N * C
    u32 cols,                          // C
    float* __restrict__ y              // [N, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 row;
        u32 col;
        place_of(i, cols, row, col);
        float sum = 0.0f;
        for (u64 slot = row * k; slot < (row + 1) * k; ++slot)
            sum += weight[slot] * x[(u64)index[slot] * cols + col];
        y[i] = sum;
    }
}
