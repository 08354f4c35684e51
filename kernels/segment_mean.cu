// Mean over segments of rows. One thread per value of the result, in strides of the grid. Bound by bandwidth.
#include "common.cuh"

// y[s] = mean over segment s, 0 where it is empty
extern "C" __global__ void segment_mean_forward(
    const float* __restrict__ x,      // [N, C]
    const u32* __restrict__ offsets,  // [S + 1]
    const u32* __restrict__ index,    // rows of all segments
    u64 n,                            // S * C
    u32 cols,                         // C
    float* __restrict__ y             // [S, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 segment;
        u32 col;
        place_of(i, cols, segment, col);
        const u32 first = offsets[segment], end = offsets[segment + 1];
        const float share = 1.0f / (float)(end > first ? end - first : 1);
        float sum = 0.0f;
        for (u32 at = first; at < end; ++at) sum += share * x[(u64)index[at] * cols + col];
        y[i] = sum;
    }
}

// d_x[row] += d_y[s] / size of s, over the segments s that name the row
extern "C" __global__ void segment_mean_backward(
    const u32* __restrict__ offsets,          // [S + 1]
    const u32* __restrict__ inverse_offsets,  // [N + 1]
    const u32* __restrict__ inverse,          // segments of all rows
    const float* __restrict__ d_y,            // [S, C]
    u64 n,                                    // N * C
    u32 cols,                                 // C
    float* __restrict__ d_x                   // [N, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 row;
        u32 col;
        place_of(i, cols, row, col);
        float sum = 0.0f;
        for (u32 at = inverse_offsets[row]; at < inverse_offsets[row + 1]; ++at) {
            const u32 segment = inverse[at];
            sum += d_y[(u64)segment * cols + col] / (float)(offsets[segment + 1] - offsets[segment]);
        }
        d_x[i] += sum;
    }
}
