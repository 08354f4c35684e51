// Sums, means and variances per column. Bound by bandwidth: every value is read once.
#include "columns.cuh"

#define PART_WARPS 32  // at most; as in ops/statistics.rs

// Per chunk and column: the mean, and the sum of squares around it. The sums are taken around the chunk's first value, so
// that a large offset costs no digits.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) column_moments(
    const float* __restrict__ x,  // [N, C]
    u64 rows,                     // N
    u32 cols,                     // C
    u64 chunk_rows,               // rows of a chunk
    float* __restrict__ partials  // [chunks, 2, C]
) {
    const ColumnShare s = column_share(rows, cols, chunk_rows);
    const u64 chunk = (u64)blockIdx.x * chunk_rows;
    const float shift = s.is_active ? x[chunk * cols + s.col] : 0.0f;
    float sum = 0.0f, square = 0.0f;
    if (s.is_active)
#pragma unroll 4
        for (u64 row = s.first; row < s.end; row += s.step) {
            const float delta = x[row * cols + s.col] - shift;
            sum += delta;
            square += delta * delta;
        }
    sum = column_sum(s, sum);
    square = column_sum(s, square);
    if (threadIdx.x >= s.tile) return;
    const float count = (float)(s.end - chunk);
    float* out = partials + (u64)blockIdx.x * 2 * cols;
    out[s.col] = shift + sum / count;
    out[cols + s.col] = fmaxf(square - sum * sum / count, 0.0f);
}

// What a norm needs per column: scale g / sqrt(variance + epsilon), shift b - mean scale, and the moments: those of
// the chunks together are the mean of means, and the sum of squares in the chunks and of the means (Chan, Golub and LeVeque
// 1979). With no chunks the running statistics normalise. Bound by latency.
extern "C" __global__ void __launch_bounds__(FINISH_THREADS) finish_moments(
    const float* __restrict__ partials,          // [chunks, 2, C]
    u64 rows,                                    // N
    u32 cols,                                    // C
    u64 chunk_rows,                              // rows of a chunk
    u64 chunks,                                  // 0: running statistics
    const float* __restrict__ gamma,             // [C]
    const float* __restrict__ beta,              // [C]
    const float* __restrict__ running_mean,      // [C]
    const float* __restrict__ running_variance,  // [C]
    float epsilon,
    float* __restrict__ scale,                   // [C]
    float* __restrict__ shift,                   // [C]
    float* __restrict__ kept_mean,               // [C], or null
    float* __restrict__ inverse,                 // [C], or null: 1 / sqrt(variance + epsilon)
    float* __restrict__ batch_mean,              // [C], or null
    float* __restrict__ batch_variance           // [C], or null: unbiased
) {
    const FinishShare part(partials, chunks, cols);
    const u32 col = part.col;
    double counts[FINISH_SHARE], sum = 0.0, square = 0.0;
#pragma unroll
    for (u32 i = 0; i < FINISH_SHARE; ++i) {
        const u64 first = (u64)(part.lane + i * FINISH_LANES) * chunk_rows;
        counts[i] = first < rows && chunks ? (double)min(rows - first, chunk_rows) : 0.0;
        sum += counts[i] * part.values[0][i];
    }
    const double batch = finish_sum(sum) / (double)rows;
#pragma unroll
    for (u32 i = 0; i < FINISH_SHARE; ++i) {
        const double delta = part.values[0][i] - batch;
        square += part.values[1][i] + counts[i] * delta * delta;
    }
    square = finish_sum(square);
    if (part.lane != 0 || col >= cols) return;
    const double mean = chunks ? batch : (double)running_mean[col];
    const double variance = chunks ? square / (double)rows : (double)running_variance[col];
    const double r = 1.0 / sqrt(variance + (double)epsilon);
    const double s = gamma[col] * r;
    scale[col] = (float)s;
    shift[col] = (float)(beta[col] - mean * s);
    if (kept_mean) kept_mean[col] = (float)mean;
    if (inverse) inverse[col] = (float)r;
    if (batch_mean) batch_mean[col] = (float)mean;
    const double unbias = rows > 1 ? (double)rows / (double)(rows - 1) : 1.0;
    if (batch_variance) batch_variance[col] = (float)(variance * unbias);
}

// Per chunk and column: the sum of x, or of x where the mask is above 0.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) column_sums(
    const float* __restrict__ x,     // [N, C]
    const float* __restrict__ mask,  // [N, C], or null
    u64 rows,                        // N
    u32 cols,                        // C
    u64 chunk_rows,                  // rows of a chunk
    float* __restrict__ partials     // [chunks, C]
) {
    const ColumnShare s = column_share(rows, cols, chunk_rows);
    float sum = 0.0f;
    if (s.is_active)
#pragma unroll 4
        for (u64 row = s.first; row < s.end; row += s.step) {
            const u64 at = row * cols + s.col;
            if (!mask || mask[at] > 0.0f) sum += x[at];
        }
    sum = column_sum(s, sum);
    if (threadIdx.x < s.tile) partials[(u64)blockIdx.x * cols + s.col] = sum;
}

// out += the sum of all parts. A block takes 32 values side by side; its warps share the parts. Bound by latency where there
// are few values, else by bandwidth.
extern "C" __global__ void __launch_bounds__(32 * PART_WARPS) add_parts(
    const float* __restrict__ parts,  // [parts, n]
    u64 count,                        // number of parts
    u64 n,
    float* __restrict__ out           // [n]
) {
    __shared__ float sums[PART_WARPS][32];
    const u32 warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const u64 i = (u64)blockIdx.x * 32 + lane_number();
    float sum = 0.0f;
    if (i < n)
#pragma unroll 4
        for (u64 part = warp; part < count; part += warps) sum += parts[part * n + i];
    sums[warp][lane_number()] = sum;
    __syncthreads();
    if (warp != 0 || i >= n) return;
    for (u32 other = 1; other < warps; ++other) sum += sums[other][lane_number()];
    out[i] += sum;
}
