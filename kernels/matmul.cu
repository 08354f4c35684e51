// Product of two small matrices of parameters. One thread per value of the result. Bound by latency: a few million
// operations in all, once per step.
#include "common.cuh"

// y = a b, or y += a b, where element (i, j) of a lies at i a_row + j a_col, and so for b
extern "C" __global__ void matmul(
    const float* __restrict__ a,  // [M, K], strided
    u32 a_row,
    u32 a_col,
    const float* __restrict__ b,  // [K, N], strided
    u32 b_row,
    u32 b_col,
    u32 inner,                    // K
    u32 cols,                     // N
    u64 n,                        // M * N
    u32 adds,                     // 1 adds to y, 0 replaces it
    float* __restrict__ y         // [M, N]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 row;
        u32 col;
        place_of(i, cols, row, col);
        float sum = 0.0f;
        for (u32 k = 0; k < inner; ++k)
            sum += a[row * a_row + (u64)k * a_col] * b[(u64)k * b_row + (u64)col * b_col];
        y[i] = adds ? y[i] + sum : sum;
    }
}
