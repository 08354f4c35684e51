// Max over segments of rows. One thread per value of the result, in strides of the grid. Bound by bandwidth.
#include "columns.cuh"

#define WALK 8  // consecutive rows of a thread; as ColumnChunks::WALK

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

// d_x[row] += d_y of its segment in the channels that the row won. A block takes a chunk of rows, whose segments lie in
// shared memory; a thread walks over consecutive rows of its column and reads what is known of a segment once as long as the
// rows have the same, which those of sorted points often have.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) segment_max_backward(
    const u32* __restrict__ cluster,  // [N], segment of each row
    const u32* __restrict__ winner,   // [S, C]
    const float* __restrict__ d_y,    // [S, C]
    u64 rows,                         // N
    u32 cols,                         // C
    u64 chunk_rows,                   // rows of a chunk: WALK for every thread of a column
    float* __restrict__ d_x           // [N, C]
) {
    __shared__ u32 segments[WALK * COLUMN_THREADS];
    const ColumnShare s = column_share(rows, cols, chunk_rows);
    const u64 chunk = (u64)blockIdx.x * chunk_rows;
    const u32 count = (u32)(s.end - chunk);
    for (u32 i = threadIdx.x; i < count; i += COLUMN_THREADS) segments[i] = cluster[chunk + i];
    __syncthreads();
    if (!s.is_active) return;
    const u32 first = threadIdx.x / s.tile * WALK;
    u32 known = MISSING, won = MISSING;
    float flow = 0.0f;  // of segment `known`, for the row that won
    for (u32 at = first; at < min(first + WALK, count); ++at) {
        const u32 segment = segments[at];
        if (segment == MISSING) continue;
        if (segment != known) {
            const u64 pooled = (u64)segment * cols + s.col;
            won = winner[pooled];
            flow = d_y[pooled];
            known = segment;
        }
        if (won == (u32)(chunk + at)) d_x[(chunk + at) * cols + s.col] += flow;
    }
}
