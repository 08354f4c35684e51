// Layer norm over the channels of a row: one warp per row, its lanes across the channels. Bound by bandwidth; a row is
// read again from the cache.
#include "columns.cuh"

// Mean of a row, and 1 / sqrt(variance + epsilon), known to all lanes.
__device__ __forceinline__ void row_moments(const float* x, u32 cols, float epsilon, float& mean, float& inverse) {
    float sum = 0.0f;
    for (u32 c = lane_number(); c < cols; c += 32) sum += x[c];
    mean = warp_sum(sum) / (float)cols;
    float square = 0.0f;
    for (u32 c = lane_number(); c < cols; c += 32) square += (x[c] - mean) * (x[c] - mean);
    inverse = 1.0f / sqrtf(warp_sum(square) / (float)cols + epsilon);
}

// y = gamma (x - mean) inverse + beta
extern "C" __global__ void layer_norm_forward(
    const float* __restrict__ x,      // [N, C]
    const float* __restrict__ gamma,  // [C]
    const float* __restrict__ beta,   // [C]
    u64 rows,                         // N
    u32 cols,                         // C
    float epsilon,
    float* __restrict__ y             // [N, C]
) {
    const u64 row = warp_number();
    if (row >= rows) return;
    const u64 first = row * cols;
    float mean, inverse;
    row_moments(x + first, cols, epsilon, mean, inverse);
    for (u32 c = lane_number(); c < cols; c += 32)
        y[first + c] = gamma[c] * ((x[first + c] - mean) * inverse) + beta[c];
}

// d_x += (g - mean(g) - hat mean(g hat)) inverse with g = gamma d_y and hat = (x - mean) inverse. Keeps the moments.
extern "C" __global__ void layer_norm_backward_x(
    const float* __restrict__ x,      // [N, C]
    const float* __restrict__ gamma,  // [C]
    const float* __restrict__ d_y,    // [N, C]
    u64 rows,                         // N
    u32 cols,                         // C
    float epsilon,
    float* __restrict__ moments,      // [N, 2]: mean, inverse
    float* __restrict__ d_x           // [N, C], or null
) {
    const u64 row = warp_number();
    if (row >= rows) return;
    const u64 first = row * cols;
    float mean, inverse;
    row_moments(x + first, cols, epsilon, mean, inverse);
    if (lane_number() == 0) {
        moments[2 * row] = mean;
        moments[2 * row + 1] = inverse;
    }
    if (!d_x) return;
    float sum = 0.0f, product = 0.0f;
    for (u32 c = lane_number(); c < cols; c += 32) {
        const float g = gamma[c] * d_y[first + c];
        sum += g;
        product += g * ((x[first + c] - mean) * inverse);
    }
    sum = warp_sum(sum) / (float)cols;
    product = warp_sum(product) / (float)cols;
    for (u32 c = lane_number(); c < cols; c += 32) {
        const float hat = (x[first + c] - mean) * inverse;
        d_x[first + c] += (gamma[c] * d_y[first + c] - sum - hat * product) * inverse;
    }
}

// Per chunk and column: the sums of d_y hat and of d_y.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) layer_norm_backward_sums(
    const float* __restrict__ x,        // [N, C]
    const float* __restrict__ moments,  // [N, 2]
    const float* __restrict__ d_y,      // [N, C]
    u64 rows,                           // N
    u32 cols,                           // C
    u64 chunk_rows,                     // rows of a chunk
    u64 chunks,
    float* __restrict__ partials        // [2, chunks, C]
) {
    const ColumnShare s = column_share(rows, cols, chunk_rows);
    float product = 0.0f, sum = 0.0f;
    if (s.is_active)
        for (u64 row = s.first; row < s.end; row += s.step) {
            const u64 at = row * cols + s.col;
            product += d_y[at] * ((x[at] - moments[2 * row]) * moments[2 * row + 1]);
            sum += d_y[at];
        }
    product = column_sum(s, product);
    sum = column_sum(s, sum);
    if (threadIdx.x >= s.tile) return;
    partials[(u64)blockIdx.x * cols + s.col] = product;
    partials[(chunks + blockIdx.x) * cols + s.col] = sum;
}
