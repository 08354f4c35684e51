// Batch norm after its statistics. Bound by bandwidth.
#include "columns.cuh"

// y = scale x + shift, then max(y, 0) if asked. A thread walks over a few rows of its column.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) batch_norm_forward(
    const float* __restrict__ x,     // [N, C]
    const float* __restrict__ kept,  // [4, C]: scale, shift, mean, inverse deviation
    u64 rows,                        // N
    u32 cols,                        // C
    u64 chunk_rows,                  // rows of a chunk
    u32 relu,
    float* __restrict__ y            // [N, C]
) {
    const ColumnShare s = column_share(rows, cols, chunk_rows);
    if (!s.is_active) return;
    const float scale = kept[s.col], shift = kept[cols + s.col];
    for (u64 row = s.first; row < s.end; row += s.step) {
        const u64 at = row * cols + s.col;
        const float z = scale * x[at] + shift;
        y[at] = relu ? rectify(z) : z;
    }
}

// The gradient before the ReLU of z = scale x + shift; the same arithmetic as forward decides.
__device__ __forceinline__ float passed(float z, u32 relu, float d_y) { return !relu || z > 0.0f ? d_y : 0.0f; }

// Per chunk and column: the sums of g and of g (x - mean).
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) batch_norm_backward_sums(
    const float* __restrict__ x,     // [N, C]
    const float* __restrict__ kept,  // [4, C]
    const float* __restrict__ d_y,   // [N, C]
    u64 rows,                        // N
    u32 cols,                        // C
    u64 chunk_rows,                  // rows of a chunk
    u32 relu,
    float* __restrict__ partials     // [chunks, 2, C]
) {
    const ColumnShare s = column_share(rows, cols, chunk_rows);
    float sum = 0.0f, product = 0.0f;
    if (s.is_active) {
        const float scale = kept[s.col], shift = kept[cols + s.col], mean = kept[2 * cols + s.col];
#pragma unroll 4
        for (u64 row = s.first; row < s.end; row += s.step) {
            const u64 at = row * cols + s.col;
            const float value = x[at], g = passed(scale * value + shift, relu, d_y[at]);
            sum += g;
            product += g * (value - mean);
        }
    }
    sum = column_sum(s, sum);
    product = column_sum(s, product);
    if (threadIdx.x >= s.tile) return;
    float* out = partials + (u64)blockIdx.x * 2 * cols;
    out[s.col] = sum;
    out[cols + s.col] = product;
}

// d_gamma and d_beta, and the share of every row through mean and variance: d_x gets a (x - mean) + b.
// Bound by latency.
extern "C" __global__ void __launch_bounds__(FINISH_THREADS) batch_norm_backward_columns(
    const float* __restrict__ partials,  // [chunks, 2, C]
    u64 chunks,
    const float* __restrict__ gamma,     // [C]
    const float* __restrict__ kept,      // [4, C]
    u32 cols,                            // C
    float share,                         // 1 / N with batch statistics, else 0
    float* __restrict__ d_gamma,         // [C], or null
    float* __restrict__ d_beta,          // [C], or null
    float* __restrict__ affine           // [2, C]: a, b
) {
    const FinishShare part(partials, chunks, cols);
    const u32 col = part.col;
    double sum = 0.0, product = 0.0;
#pragma unroll
    for (u32 i = 0; i < FINISH_SHARE; ++i) {
        sum += part.values[0][i];
        product += part.values[1][i];
    }
    sum = finish_sum(sum);
    product = finish_sum(product);
    if (part.lane != 0 || col >= cols) return;
    const float inverse = kept[3 * cols + col], scale = gamma[col] * inverse;
    if (d_gamma) d_gamma[col] += (float)product * inverse;
    if (d_beta) d_beta[col] += (float)sum;
    affine[col] = -scale * inverse * inverse * (float)product * share;
    affine[cols + col] = -scale * (float)sum * share;
}

// d_x += scale g + a (x - mean) + b. A thread walks over a few rows of its column.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) batch_norm_backward(
    const float* __restrict__ x,       // [N, C]
    const float* __restrict__ kept,    // [4, C]
    const float* __restrict__ affine,  // [2, C]
    const float* __restrict__ d_y,     // [N, C]
    u64 rows,                          // N
    u32 cols,                          // C
    u64 chunk_rows,                    // rows of a chunk
    u32 relu,
    float* __restrict__ d_x            // [N, C]
) {
    const ColumnShare s = column_share(rows, cols, chunk_rows);
    if (!s.is_active) return;
    const float scale = kept[s.col], shift = kept[cols + s.col], mean = kept[2 * cols + s.col];
    const float a = affine[s.col], b = affine[cols + s.col];
    for (u64 row = s.first; row < s.end; row += s.step) {
        const u64 at = row * cols + s.col;
        const float value = x[at], g = passed(scale * value + shift, relu, d_y[at]);
        d_x[at] += scale * g + a * (value - mean) + b;
    }
}
