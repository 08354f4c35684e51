// Rows by index, and sums of listed rows. One thread per value of the result: the threads of a warp read neighbouring
// channels of the same rows. Bound by bandwidth and the latency of the index.
#include "columns.cuh"

#define HELD 1024  // entries of a block that are kept in shared memory

// y[i] = x[index[i]], 0 where there is none. In strides of the grid.
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

// out[s] += sum over the entries e of list s, in order, of weight[e] x[e / k]. A block takes a chunk of lists, one for every
// thread of a column, whose rows and weights lie in shared memory.
extern "C" __global__ void __launch_bounds__(COLUMN_THREADS) add_listed_rows(
    const float* __restrict__ x,       // [entries / k, C]
    const u32* __restrict__ offsets,   // [S + 1], where the lists start
    const u32* __restrict__ index,     // entries of all lists
    const float* __restrict__ weight,  // [entries], or null: 1
    u32 k,                             // entries that stand for the same row
    u64 lists,                         // S
    u32 cols,                          // C
    u64 chunk_lists,                   // lists of a chunk
    float* __restrict__ out            // [S, C]
) {
    __shared__ u32 starts[COLUMN_THREADS + 1], rows[HELD];
    __shared__ float weights[HELD];
    const ColumnShare s = column_share(lists, cols, chunk_lists);
    const u64 chunk = (u64)blockIdx.x * chunk_lists;
    const u32 count = load_starts(offsets, s, chunk, starts);
    const u32 from = starts[0], held = min(starts[count] - from, (u32)HELD);
    for (u32 i = threadIdx.x; i < held; i += COLUMN_THREADS) {
        const u32 entry = index[from + i];
        rows[i] = entry / k;
        weights[i] = weight ? weight[entry] : 1.0f;
    }
    __syncthreads();
    if (!s.is_active || s.first >= s.end) return;
    const u32 list = (u32)(s.first - chunk);
    const float* column = x + s.col;
    const u32 first = starts[list] - from, end = starts[list + 1] - from;
    float sum = 0.0f;
    for (u32 at = first; at < min(end, held); ++at) sum += weights[at] * column[(u64)rows[at] * cols];
    for (u32 at = max(first, held); at < end; ++at) {
        const u32 entry = index[from + at];
        sum += (weight ? weight[entry] : 1.0f) * column[(u64)(entry / k) * cols];
    }
    out[s.first * cols + s.col] += sum;
}
