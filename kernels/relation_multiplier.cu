// What a position multiplier needs besides matrix products: the hidden layer, differences of keys and queries, and sums.
// The pairs come in chunks of bounded size, so that nothing of size N * K * C is stored. One thread per value, in strides
// of the grid. Bound by bandwidth.
#include "columns.cuh"
#include "pairs.cuh"

// Row i of a chunk stands for pair number list[first + i], or first + i without a list.
__device__ __forceinline__ u64 pair_of(const u32* list, u64 first, u64 row) {
    return list ? list[first + row] : first + row;
}

// Channel c of the difference of key and query of a pair; a missing neighbour has key 0.
__device__ __forceinline__ float difference(const float* keys, const float* queries, const u32* index, u64 pair, u32 k,
                                            u32 channels, u32 c) {
    const u32 neighbor = index[pair];
    const float key = neighbor == MISSING ? 0.0f : keys[(u64)neighbor * channels + c];
    return key - queries[pair / k * channels + c];
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
    u64 n,                              // rows of the chunk * C
    u32 k,
    u32 channels,                       // C
    float* __restrict__ f               // [rows, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 row;
        u32 c;
        place_of(i, channels, row, c);
        f[i] *= difference(keys, queries, index, first + row, k, channels, c);
    }
}

// r = (k - q) f in the place of the factor f, and its gradient by the factor, d_f = d_r (k - q), in the place of d_r
extern "C" __global__ void relation_multiplier_backward(
    const float* __restrict__ keys,     // [N, C]
    const float* __restrict__ queries,  // [N, C]
    const u32* __restrict__ index,      // [N * K], rows of keys
    u64 first,                          // of the chunk
    u64 n,                              // rows of the chunk * C
    u32 k,
    u32 channels,                       // C
    float* __restrict__ f,              // [rows, C]
    float* __restrict__ d_r             // [rows, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 row;
        u32 c;
        place_of(i, channels, row, c);
        const float d = difference(keys, queries, index, first + row, k, channels, c);
        f[i] *= d;
        d_r[i] *= d;
    }
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
    const ColumnShare s = column_share(rows, channels, part_rows);
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (s.is_active)
        for (u64 row = s.first; row < s.end; row += s.step) {
            const u64 at = row * channels + s.col;
            const float d = h[at] > 0.0f ? d_h[at] : 0.0f;
            sums[0] += d * x[first + row];
            sums[1] += d * y[first + row];
            sums[2] += d * z[first + row];
            sums[3] += d;
        }
#pragma unroll
    for (int axis = 0; axis < 4; ++axis) {
        const float sum = column_sum(s, sums[axis]);
        if (threadIdx.x < s.tile) d_position[((u64)blockIdx.x * channels + s.col) * 4 + axis] = sum;
    }
}
