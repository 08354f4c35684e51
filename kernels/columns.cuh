// Sums over the rows of a matrix, per column, in a fixed order.
//
// The rows are cut into chunks (blockIdx.x), the columns into tiles of at most 256 (blockIdx.y). The threads of a block
// lie side by side over as many whole rows of the tile as fit, so that reads are contiguous even for narrow matrices.
// Each chunk leaves one partial result; a second kernel adds those up, one warp per column.
//
// Kernels that only need numbers of a column beside its values share their work in the same way, in chunks of few rows: a
// thread reads the numbers of its column once and walks over rows.
#pragma once
#include "common.cuh"

#define COLUMN_THREADS 256

// The share of one thread: column `col`, rows first, first + step, ... below end.
struct ColumnShare {
    u32 tile;   // columns of the tile
    u32 place;  // which of the tile's columns
    u32 col;
    u64 first, end;
    u32 step;
    bool is_active;
};

__device__ __forceinline__ ColumnShare column_share(u64 rows, u32 cols, u64 chunk_rows) {
    ColumnShare s;
    const u32 start = blockIdx.y * COLUMN_THREADS;
    s.tile = min(cols - start, (u32)COLUMN_THREADS);
    s.step = COLUMN_THREADS / s.tile;
    s.place = threadIdx.x % s.tile;
    s.col = start + s.place;
    const u64 chunk = (u64)blockIdx.x * chunk_rows;
    s.first = chunk + threadIdx.x / s.tile;
    s.end = chunk + chunk_rows < rows ? chunk + chunk_rows : rows;
    s.is_active = threadIdx.x < s.tile * s.step;
    return s;
}

// Reads where the lists of the rows chunk, chunk + 1, ... of a share start and where the last one ends, by all threads of
// a block. Gives the number of lists.
__device__ __forceinline__ u32 load_starts(const u32* offsets, const ColumnShare& s, u64 chunk, u32* starts) {
    const u32 count = (u32)(s.end - chunk);
    for (u32 i = threadIdx.x; i <= count; i += COLUMN_THREADS) starts[i] = offsets[chunk + i];
    __syncthreads();
    return count;
}

// Adds up what the threads of one column found; the sum is known to the first of them, whose thread number is `place`.
__device__ __forceinline__ float column_sum(const ColumnShare& s, float x) {
    __shared__ float sums[COLUMN_THREADS];
    __syncthreads();
    sums[threadIdx.x] = x;
    __syncthreads();
    float sum = x;
    if (threadIdx.x < s.tile)
        for (u32 i = 1; i < s.step; ++i) sum += sums[threadIdx.x + i * s.tile];
    return sum;
}
