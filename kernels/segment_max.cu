// Max over segments of rows. One thread per value of the result, in strides of the grid. Bound by bandwidth.
#include "common.cuh"

// y[s] = max over segment s, 0 where it is empty; winner[s] the first row that attains it
extern "C" __global__ void segment_max_forward(
    const float* __restrict__ x,      // [N, C]
    const u32* __restrict__ offsets,  // [S + 1]
    const u32* __restrict__ index,    // rows of all segments
    u64 n,                            // S * C
    u32 cols,                         // C
    float* __restrict__ y,            // [S, C]
    u32* __restrict__ winner          // [S, C], or null
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 segment;
        u32 col;
        place_of(i, cols, segment, col);
        const u32 first = offsets[segment], end = offsets[segment + 1];
        float best = 0.0f;
        u32 best_row = MISSING;
        for (u32 at = first; at < end; ++at) {
            const u32 row = index[at];
            const float value = x[(u64)row * cols + col];
            if (at == first || value > best) {
                best = value;
                best_row = row;
            }
        }
        y[i] = best;
        if (winner) winner[i] = best_row;
    }
}

// d_x[row] += d_y of its segment in the channels that the row won
extern "C" __global__ void segment_max_backward(
    const u32* __restrict__ cluster,  // [N], segment of each row
    const u32* __restrict__ winner,   // [S, C]
    const float* __restrict__ d_y,    // [S, C]
    u64 n,                            // N * C
    u32 cols,                         // C
    float* __restrict__ d_x           // [N, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 row;
        u32 col;
        place_of(i, cols, row, col);
        const u32 segment = cluster[row];
        if (segment == MISSING) continue;
        const u64 pooled = (u64)segment * cols + col;
        if (winner[pooled] == row) d_x[i] += d_y[pooled];
    }
}
