// Max over the neighbours of every query. One thread per value of the result, in strides of the grid: the threads of a
// warp read neighbouring channels of the same rows. Bound by bandwidth and the latency of the index.
#include "common.cuh"

// y[i] = max over the neighbours of i, 0 without any; winner[i] the place in the row of the first that attains it
extern "C" __global__ void neighbor_max_forward(
    const float* __restrict__ x,    // [S, C]
    const u32* __restrict__ index,  // [M, K], rows of x
    u64 n,                          // M * C
    u32 k,                          // K
    u32 cols,                       // C
    float* __restrict__ y,          // [M, C]
    u32* __restrict__ winner        // [M, C], or null
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 query;
        u32 col;
        place_of(i, cols, query, col);
        float best = 0.0f;
        u32 best_place = MISSING;
        for (u32 place = 0; place < k; ++place) {
            const u32 row = index[query * k + place];
            if (row == MISSING) continue;
            const float value = x[(u64)row * cols + col];
            if (best_place == MISSING || value > best) {
                best = value;
                best_place = place;
            }
        }
        y[i] = best;
        if (winner) winner[i] = best_place;
    }
}

// d_x[row] += d_y of all queries in whose rows it won
extern "C" __global__ void neighbor_max_backward(
    const u32* __restrict__ offsets,  // [S + 1]
    const u32* __restrict__ pairs,    // [M * K], numbers of the pairs that name a row, row after row
    const u32* __restrict__ winner,   // [M, C]
    const float* __restrict__ d_y,    // [M, C]
    u64 n,                            // S * C
    u32 k,                            // K
    u32 cols,                         // C
    float* __restrict__ d_x           // [S, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 row;
        u32 col;
        place_of(i, cols, row, col);
        float sum = 0.0f;
        for (u32 at = offsets[row]; at < offsets[row + 1]; ++at) {
            const u32 query = pairs[at] / k, place = pairs[at] % k;
            const u64 pooled = (u64)query * cols + col;
            if (winner[pooled] == place) sum += d_y[pooled];
        }
        d_x[i] += sum;
    }
}
