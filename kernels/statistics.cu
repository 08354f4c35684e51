// Sums, means and variances per column. Bound by bandwidth: every value is read once.
#include "columns.cuh"

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

// Count, mean and sum of squares of two sets as one (Chan, Golub and LeVeque 1979).
struct Growing {
    double count, mean, square;
    __device__ void add(double other_count, double other_mean, double other_square) {
        if (other_count == 0.0) return;
        const double total = count + other_count, delta = other_mean - mean;
        mean += delta * other_count / total;
        square += other_square + delta * delta * count * other_count / total;
        count = total;
    }
};

// What a norm needs per column: scale g / sqrt(variance + epsilon), shift b - mean scale, and the moments. One warp per
// column; with no chunks the running statistics normalise.
extern "C" __global__ void finish_moments(
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
    const u64 col = warp_number();
    if (col >= cols) return;
    Growing all = {0.0, 0.0, 0.0};
    for (u64 chunk = lane_number(); chunk < chunks; chunk += 32) {
        const u64 left = rows - chunk * chunk_rows;
        const float* part = partials + chunk * 2 * cols;
        all.add((double)(left < chunk_rows ? left : chunk_rows), part[col], part[cols + col]);
    }
    for (int step = 16; step > 0; step >>= 1) {
        const double count = __shfl_down_sync(0xFFFFFFFFu, all.count, step);
        const double mean = __shfl_down_sync(0xFFFFFFFFu, all.mean, step);
        const double square = __shfl_down_sync(0xFFFFFFFFu, all.square, step);
        all.add(count, mean, square);
    }
    if (lane_number() != 0) return;
    const double mean = chunks ? all.mean : (double)running_mean[col];
    const double variance = chunks ? all.square / (double)rows : (double)running_variance[col];
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
        for (u64 row = s.first; row < s.end; row += s.step) {
            const u64 at = row * cols + s.col;
            if (!mask || mask[at] > 0.0f) sum += x[at];
        }
    sum = column_sum(s, sum);
    if (threadIdx.x < s.tile) partials[(u64)blockIdx.x * cols + s.col] = sum;
}

// out += the sum of all parts, in order. One thread per value, in strides of the grid.
extern "C" __global__ void add_parts(
    const float* __restrict__ parts,  // [parts, n]
    u64 count,                        // number of parts
    u64 n,
    float* __restrict__ out           // [n]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        float sum = 0.0f;
        for (u64 part = 0; part < count; ++part) sum += parts[part * n + i];
        out[i] += sum;
    }
}
