// Mean over segments of rows. One thread per value of the result, in strides of the grid. Bound by bandwidth.
#include "columns.cuh"

#define HELD 512  // entries of a block that are kept in shared memory
#define WALK 8    // consecutive rows of a thread; as ColumnChunks::WALK

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

// d_x[row] += d_y[s] / size of s, over the segments s that name the row. A block takes a chunk of rows, whose segments and
// their sizes lie in shared memory; a thread walks over consecutive rows of its column and reads the gradient of a segment
// once as long as the rows have the same, which those of sorted points often have.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) segment_mean_backward(
    const u32* __restrict__ offsets,          // [S + 1]
    const u32* __restrict__ inverse_offsets,  // [N + 1]
    const u32* __restrict__ inverse,          // segments of all rows
    const float* __restrict__ d_y,            // [S, C]
    u64 rows,                                 // N
    u32 cols,                                 // C
    u64 chunk_rows,                           // rows of a chunk: WALK for every thread of a column
    float* __restrict__ d_x                   // [N, C]
) {
    __shared__ u32 starts[WALK * COLUMN_THREADS + 1], segments[HELD];
    __shared__ float sizes[HELD];
    const ColumnShare s = column_share(rows, cols, chunk_rows);
    const u64 chunk = (u64)blockIdx.x * chunk_rows;
    const u32 count = load_starts(inverse_offsets, s, chunk, starts);
    const u32 from = starts[0], held = min(starts[count] - from, (u32)HELD);
    for (u32 i = threadIdx.x; i < held; i += COLUMN_THREADS) {
        const u32 segment = inverse[from + i];
        segments[i] = segment;
        sizes[i] = (float)(offsets[segment + 1] - offsets[segment]);
    }
    __syncthreads();
    if (!s.is_active) return;
    const u32 first = threadIdx.x / s.tile * WALK;
    u32 known = MISSING;
    float share = 0.0f;  // of segment `known`
    for (u32 row = first; row < min(first + WALK, count); ++row) {
        float sum = 0.0f;
        for (u32 at = starts[row] - from; at < starts[row + 1] - from; ++at) {
            const u32 segment = at < held ? segments[at] : inverse[from + at];
            if (segment != known) {
                const float size = at < held ? sizes[at] : (float)(offsets[segment + 1] - offsets[segment]);
                share = d_y[(u64)segment * cols + s.col] / size;
                known = segment;
            }
            sum += share;
        }
        d_x[(chunk + row) * cols + s.col] += sum;
    }
}
