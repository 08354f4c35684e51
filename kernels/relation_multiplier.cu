// What a position multiplier needs besides matrix products: the hidden layer, differences of keys and queries, and sums.
// The pairs come in chunks of bounded size, so that nothing of size N * K * C is stored. One thread per value, in strides
// of the grid, where nothing else is said. Bound by bandwidth.
#include "columns.cuh"
#include "pairs.cuh"

// Row i of a chunk stands for pair number list[first + i], or first + i without a list.
__device__ __forceinline__ u64 pair_of(const u32* list, u64 first, u64 row) {
    return list ? list[first + row] : first + row;
}

// Consecutive rows that a thread walks over in its column, so that it reads the query of their point once.
#define WALK 8  // as ColumnChunks::WALK

// What a thread knows of the pairs of its rows: their neighbours, which all threads of a block have read together, and the
// query at hand.
struct Differences {
    const float *keys, *queries;
    u64 first;  // pair of the chunk
    u32 k, channels, c;
    u32* neighbors;  // [rows of the block]
    u64 point;       // whose query is known
    float query;

    // Channel c of the difference of key and query of pair first + row, which is number `at` of the block; a missing
    // neighbour has key 0.
    __device__ __forceinline__ float of(u64 row, u32 at) {
        const u64 own = (first + row) / k;
        if (own != point) {
            point = own;
            query = queries[own * channels + c];
        }
        const u32 neighbor = neighbors[at];
        return (neighbor == MISSING ? 0.0f : keys[(u64)neighbor * channels + c]) - query;
    }
};

// Reads the neighbours of the rows of a block, by all of its threads.
__device__ __forceinline__ void load_neighbors(const u32* index, u64 first, const ColumnShare& s, u64 chunk, u32* neighbors) {
    for (u64 row = chunk + threadIdx.x; row < s.end; row += COLUMN_THREADS) neighbors[row - chunk] = index[first + row];
    __syncthreads();
}

// Multiplies by k - q, for all pairs of a chunk, the factors f and, with GRADIENT, the gradients d_r.
template <bool GRADIENT>
__device__ __forceinline__ void multiply(const float* keys, const float* queries, const u32* index, u64 first, u64 rows,
                                         u32 k, u32 channels, u64 part_rows, float* f, float* d_r) {
    __shared__ u32 neighbors[WALK * COLUMN_THREADS];
    const ColumnShare s = column_share(rows, channels, part_rows);
    const u64 part = (u64)blockIdx.x * part_rows;
    load_neighbors(index, first, s, part, neighbors);
    if (!s.is_active) return;
    Differences differences = {keys, queries, first, k, channels, s.col, neighbors, ~0ull, 0.0f};
    u32 at = threadIdx.x / s.tile * WALK;
    for (const u32 end = at + WALK; at < end && part + at < s.end; ++at) {
        const u64 row = part + at;
        const float d = differences.of(row, at);
        f[row * channels + s.col] *= d;
        if (GRADIENT) d_r[row * channels + s.col] *= d;
    }
}

// h of all pairs of a chunk
extern "C" __global__ void relation_multiplier_hidden(
    const float* __restrict__ position,  // [C, 4]
    const float* __restrict__ x,         // [N * K], offsets
    const float* __restrict__ y,
    const float* __restrict__ z,
    const u32* __restrict__ list,        // pairs, or null: all in order
    u64 first,                           // of the chunk
    u64 n,                               // rows of the chunk * C
    u32 channels,                        // C
    float* __restrict__ h                // [rows, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 row;
        u32 c;
        place_of(i, channels, row, c);
        const u64 pair = pair_of(list, first, row);
        h[i] = hidden(((const float4*)position)[c], x[pair], y[pair], z[pair]);
    }
}

// r = (k - q) f, in the place of the factor f
extern "C" __global__ void relation_multiplier_forward(
    const float* __restrict__ keys,     // [N, C]
    const float* __restrict__ queries,  // [N, C]
    const u32* __restrict__ index,      // [N * K], rows of keys
    u64 first,                          // of the chunk
    u64 rows,                           // of the chunk
    u32 k,
    u32 channels,                       // C
    u64 part_rows,                      // rows of a block: WALK for every thread of a column
    float* __restrict__ f               // [rows, C]
) {
    multiply<false>(keys, queries, index, first, rows, k, channels, part_rows, f, nullptr);
}

// r = (k - q) f in the place of the factor f, and its gradient by the factor, d_f = d_r (k - q), in the place of d_r
extern "C" __global__ void relation_multiplier_backward(
    const float* __restrict__ keys,     // [N, C]
    const float* __restrict__ queries,  // [N, C]
    const u32* __restrict__ index,      // [N * K], rows of keys
    u64 first,                          // of the chunk
    u64 rows,                           // of the chunk
    u32 k,
    u32 channels,                       // C
    u64 part_rows,                      // rows of a block: WALK for every thread of a column
    float* __restrict__ f,              // [rows, C]
    float* __restrict__ d_r             // [rows, C]
) {
    multiply<true>(keys, queries, index, first, rows, k, channels, part_rows, f, d_r);
}

// The rows of d_e that a chunk of a list names
extern "C" __global__ void relation_multiplier_gather(
    const float* __restrict__ d_e,  // [N * K, G]
    const u32* __restrict__ list,   // pairs
    u64 first,                      // of the chunk
    u64 n,                          // rows of the chunk * G
    u32 groups,                     // G
    float* __restrict__ out         // [rows, G]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 row;
        u32 g;
        place_of(i, groups, row, g);
        out[i] = d_e[(u64)list[first + row] * groups + g];
    }
}

// d_q -= sum of d_r f over the pairs of a point. The chunk holds all pairs of its points.
extern "C" __global__ void relation_multiplier_backward_queries(
    const float* __restrict__ f,    // [rows, C]
    const float* __restrict__ d_r,  // [rows, C]
    u64 n,                          // points of the chunk * C
    u32 k,
    u32 channels,                   // C
    float* __restrict__ d_queries   // [points of the chunk, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 point;
        u32 c;
        place_of(i, channels, point, c);
        float sum = 0.0f;
        for (u64 row = point * k; row < (point + 1) * k; ++row) sum += d_r[row * channels + c] * f[row * channels + c];
        d_queries[i] -= sum;
    }
}

// d_k += sum of d_r f over those entries of a point's list that lie in the chunk
extern "C" __global__ void relation_multiplier_backward_keys(
    const float* __restrict__ f,      // [rows, C]
    const float* __restrict__ d_r,    // [rows, C]
    const u32* __restrict__ offsets,  // [M + 1], where the lists of points start
    u64 first_point,                  // of those whose lists reach into the chunk
    u64 first,                        // entry of the chunk
    u64 end,
    u64 n,                            // number of such points * C
    u32 channels,                     // C
    float* __restrict__ d_keys        // [M, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 point;
        u32 c;
        place_of(i, channels, point, c);
        point += first_point;
        const u64 from = offsets[point] > first ? offsets[point] : first;
        const u64 to = offsets[point + 1] < end ? offsets[point + 1] : end;
        float sum = 0.0f;
        for (u64 at = from; at < to; ++at) sum += d_r[(at - first) * channels + c] * f[(at - first) * channels + c];
        d_keys[point * channels + c] += sum;
    }
}

// Through the ReLU of h: per part of the rows, the gradient of P. One block per part and tile of columns.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) relation_multiplier_backward_position(
    const float* __restrict__ h,    // [rows, C]
    const float* __restrict__ d_h,  // [rows, C]
    const float* __restrict__ x,    // [N * K], offsets
    const float* __restrict__ y,
    const float* __restrict__ z,
    u64 first,                      // pair of the chunk
    u64 rows,
    u32 channels,                   // C
    u64 part_rows,                  // rows of a part
    float* __restrict__ d_position  // [parts, C, 4]
) {
    __shared__ float offsets[3][COLUMN_THREADS];
    const ColumnShare s = column_share(rows, channels, part_rows);
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (u64 batch = (u64)blockIdx.x * part_rows; batch < s.end; batch += COLUMN_THREADS) {
        const u32 count = s.end - batch < COLUMN_THREADS ? (u32)(s.end - batch) : COLUMN_THREADS;
        __syncthreads();
        if (threadIdx.x < count) {
            const u64 pair = first + batch + threadIdx.x;
            offsets[0][threadIdx.x] = x[pair];
            offsets[1][threadIdx.x] = y[pair];
            offsets[2][threadIdx.x] = z[pair];
        }
        __syncthreads();
        if (!s.is_active) continue;
        for (u32 row = threadIdx.x / s.tile; row < count; row += s.step) {
            const u64 at = (batch + row) * channels + s.col;
            const float d = h[at] > 0.0f ? d_h[at] : 0.0f;
#pragma unroll
            for (int axis = 0; axis < 3; ++axis) sums[axis] += d * offsets[axis][row];
            sums[3] += d;
        }
    }
#pragma unroll
    for (int axis = 0; axis < 4; ++axis) {
        const float sum = column_sum(s, sums[axis]);
        if (threadIdx.x < s.tile) d_position[((u64)blockIdx.x * channels + s.col) * 4 + axis] = sum;
    }
}
