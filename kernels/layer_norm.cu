// Layer norm over the channels of a row: one warp per row, its lanes across the channels. Bound by bandwidth: rows, and the
// numbers of the channels for all rows of a block, are read once and kept in shared memory. Channels beyond the first
// `held` are read again from the cache.
#include "columns.cuh"

#define NORM_WARPS 8
#define NORM_ROWS 16  // of a block; as NORM_ROWS in ops/layer_norm.rs

// Numbers of the channels: the first `count` lie in shared memory as well.
struct Held {
    const float* memory;
    float* shared;
    u32 count;

    __device__ __forceinline__ float operator[](u32 c) const { return c < count ? shared[c] : memory[c]; }

    // Copies them there, by all threads of the block.
    __device__ __forceinline__ void fill() const {
        for (u32 c = threadIdx.x; c < count; c += blockDim.x) shared[c] = memory[c];
    }
};

// Mean of a row, and 1 / sqrt(variance + epsilon), known to all lanes. Every lane keeps its own channels.
__device__ __forceinline__ void row_moments(const Held& x, u32 cols, float epsilon, float& mean, float& inverse) {
    float sum = 0.0f;
    for (u32 c = lane_number(); c < cols; c += 32) {
        const float value = x.memory[c];
        if (c < x.count) x.shared[c] = value;
        sum += value;
    }
    mean = warp_sum(sum) / (float)cols;
    float square = 0.0f;
    for (u32 c = lane_number(); c < cols; c += 32) {
        const float delta = x[c] - mean;
        square += delta * delta;
    }
    inverse = 1.0f / sqrtf(warp_sum(square) / (float)cols + epsilon);
}

// y = gamma (x - mean) inverse + beta
extern "C" __global__ void __launch_bounds__(32 * NORM_WARPS) layer_norm_forward(
    const float* __restrict__ x,      // [N, C]
    const float* __restrict__ gamma,  // [C]
    const float* __restrict__ beta,   // [C]
    u64 rows,                         // N
    u32 cols,                         // C
    u32 held,                         // channels in shared memory: 2 + NORM_WARPS rows
    float epsilon,
    float* __restrict__ y             // [N, C]
) {
    extern __shared__ float shared[];
    const u32 warp = threadIdx.x / 32;
    const Held scales = {gamma, shared, held}, shifts = {beta, shared + held, held};
    scales.fill();
    shifts.fill();
    __syncthreads();
    for (u32 i = warp; i < NORM_ROWS; i += NORM_WARPS) {
        const u64 row = (u64)blockIdx.x * NORM_ROWS + i;
        if (row >= rows) return;
        const Held own = {x + row * cols, shared + (2 + warp) * held, held};
        float mean, inverse;
        row_moments(own, cols, epsilon, mean, inverse);
        for (u32 c = lane_number(); c < cols; c += 32)
            y[row * cols + c] = scales[c] * ((own[c] - mean) * inverse) + shifts[c];
    }
}

// d_x += (g - mean(g) - hat mean(g hat)) inverse with g = gamma d_y and hat = (x - mean) inverse. Keeps the moments.
extern "C" __global__ void __launch_bounds__(32 * NORM_WARPS) layer_norm_backward_x(
    const float* __restrict__ x,      // [N, C]
    const float* __restrict__ gamma,  // [C]
    const float* __restrict__ d_y,    // [N, C]
    u64 rows,                         // N
    u32 cols,                         // C
    u32 held,                         // channels in shared memory: 1 + 2 NORM_WARPS rows
    float epsilon,
    float* __restrict__ moments,      // [N, 2]: mean, inverse
    float* __restrict__ d_x           // [N, C], or null
) {
    extern __shared__ float shared[];
    const u32 warp = threadIdx.x / 32;
    const Held scales = {gamma, shared, held};
    scales.fill();
    __syncthreads();
    float* flow = shared + (1 + NORM_WARPS + warp) * held;  // g
    for (u32 i = warp; i < NORM_ROWS; i += NORM_WARPS) {
        const u64 row = (u64)blockIdx.x * NORM_ROWS + i, first = row * cols;
        if (row >= rows) return;
        const Held own = {x + first, shared + (1 + warp) * held, held};
        float mean, inverse;
        row_moments(own, cols, epsilon, mean, inverse);
        if (lane_number() == 0) ((float2*)moments)[row] = make_float2(mean, inverse);
        if (!d_x) continue;
        float sum = 0.0f, product = 0.0f;
        for (u32 c = lane_number(); c < cols; c += 32) {
            const float g = scales[c] * d_y[first + c];
            if (c < held) flow[c] = g;
            sum += g;
            product += g * ((own[c] - mean) * inverse);
        }
        sum = warp_sum(sum) / (float)cols;
        product = warp_sum(product) / (float)cols;
        for (u32 c = lane_number(); c < cols; c += 32) {
            const float hat = (own[c] - mean) * inverse;
            const float g = c < held ? flow[c] : gamma[c] * d_y[first + c];
            d_x[first + c] += (g - sum - hat * product) * inverse;
        }
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
#pragma unroll 4
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
