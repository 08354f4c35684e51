// Backward of a norm that was reduced to scale and shift. Bound by bandwidth.
#include "columns.cuh"

// Per column: d_gamma, d_beta and what every row gets, a x + b. One thread per column.
extern "C" __global__ void norm_coefficients_backward_columns(
    const float* __restrict__ gamma,  // [C]
    const float* __restrict__ kept,   // [2, C]: mean, inverse deviation
    const float* __restrict__ d_st,   // [2, C]: gradients of scale and shift
    u64 cols,                         // C
    float share,                      // 1 / N with batch statistics, else 0
    float* __restrict__ d_gamma,      // [C], or null
    float* __restrict__ d_beta,       // [C], or null
    float* __restrict__ affine        // [2, C]: a, b
) {
    for (u64 c = first_element(); c < cols; c += element_stride()) {
        const float mean = kept[c], inverse = kept[cols + c], d_s = d_st[c], d_t = d_st[cols + c];
        const float centred = d_s - mean * d_t, scale = gamma[c] * inverse;
        if (d_gamma) d_gamma[c] += inverse * centred;
        if (d_beta) d_beta[c] += d_t;
        const float a = 2.0f * share * (-0.5f * scale * inverse * inverse * centred);
        affine[c] = a;
        affine[cols + c] = -scale * d_t * share - a * mean;
    }
}

// d_x += a x + b. A thread walks over a few rows of its column.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) norm_coefficients_backward(
    const float* __restrict__ x,       // [M, C]
    const float* __restrict__ affine,  // [2, C]
    u64 rows,                          // M
    u32 cols,                          // C
    u64 chunk_rows,                    // rows of a chunk
    float* __restrict__ d_x            // [M, C]
) {
    const ColumnShare s = column_share(rows, cols, chunk_rows);
    if (!s.is_active) return;
    const float a = affine[s.col], b = affine[cols + s.col];
    for (u64 row = s.first; row < s.end; row += s.step) d_x[row * cols + s.col] += a * x[row * cols + s.col] + b;
}
