// Rows by index, and sums of listed rows. One thread per value of the result, in strides of the grid: the threads of a
// warp read neighbouring channels of the same rows. Bound by bandwidth and the latency of the index.
#include "common.cuh"

// y[i] = x[index[i]], 0 where there is none
extern "C" __global__ void gather_forward(
    const float* __restrict__ x,    // [S, C]
    const u32* __restrict__ index,  // [M], rows of x
    u64 n,                          // M * C
    u32 cols,                       // C
    float* __restrict__ y           // [M, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 row;
        u32 col;
        place_of(i, cols, row, col);
        const u32 from = index[row];
        y[i] = from == MISSING ? 0.0f : x[(u64)from * cols + col];
    }
}

// out[s] += sum over the entries e of list s, in order, of weight[e] x[e / k]
extern "C" __global__ void add_listed_rows(
    const float* __restrict__ x,       // [entries / k, C]
    const u32* __restrict__ offsets,   // [S + 1], where the lists start
    const u32* __restrict__ index,     // entries of all lists
    const float* __restrict__ weight,  // [entries], or null: 1
    u32 k,                             // entries that stand for the same row
    u64 n,                             // S * C
    u32 cols,                          // C
    float* __restrict__ out            // [S, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 list;
        u32 col;
        place_of(i, cols, list, col);
        float sum = 0.0f;
        for (u32 at = offsets[list]; at < offsets[list + 1]; ++at) {
            const u32 entry = index[at];
            const float share = weight ? weight[entry] : 1.0f;
            sum += share * x[(u64)(entry / k) * cols + col];
        }
        out[i] += sum;
    }
}
