// Sums over the rows of a matrix, per column, in a fixed order.
//
// The rows are cut into chunks (blockIdx.x), the columns into tiles of at most 256 (blockIdx.y). The threads of a block
// lie side by side over as many whole rows of the tile as fit, so that reads are contiguous even for narrow matrices.
// Each chunk leaves one partial result, and is short, since a thread waits for memory as often as it meets a row. A second
// kernel adds those up: a block takes 8 columns, a sector of every partial result, and 64 threads share the chunks of each.
//
// Kernels that only need numbers of a column beside its values share their work in the same way, in chunks of few rows: a
// thread reads the numbers of its column once and walks over rows.
#pragma once
#include "common.cuh"

#define COLUMN_THREADS 256
#define FINISH_COLUMNS 8
#define FINISH_LANES 64
#define FINISH_THREADS (FINISH_COLUMNS * FINISH_LANES)
#define MOST_CHUNKS 1024  // as COUNT in ops/statistics.rs
#define FINISH_SHARE (MOST_CHUNKS / FINISH_LANES)

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

// What a thread of a block of FINISH_THREADS adds up: the results of chunks lane, lane + FINISH_LANES, ... of one column.
struct FinishShare {
    u32 col, lane;
    float values[2][FINISH_SHARE];  // 0 where there is no chunk

    // Reads partials [chunks, 2, C].
    __device__ __forceinline__ FinishShare(const float* partials, u64 chunks, u32 cols) {
        col = blockIdx.x * FINISH_COLUMNS + threadIdx.x % FINISH_COLUMNS;
        lane = threadIdx.x / FINISH_COLUMNS;
#pragma unroll
        for (u32 i = 0; i < FINISH_SHARE; ++i) {
            const u64 chunk = lane + i * FINISH_LANES;
            const bool is_there = chunk < chunks && col < cols;
            values[0][i] = is_there ? partials[chunk * 2 * cols + col] : 0.0f;
            values[1][i] = is_there ? partials[(chunk * 2 + 1) * cols + col] : 0.0f;
        }
    }
};

// The sum over the threads of a column of what they have found, known to all of them.
__device__ __forceinline__ double finish_sum(double x) {
    __shared__ double sums[FINISH_THREADS / 32][FINISH_COLUMNS];
#pragma unroll
    for (int step = FINISH_COLUMNS; step < 32; step <<= 1) x += __shfl_xor_sync(0xFFFFFFFFu, x, step);
    __syncthreads();
    if (lane_number() < FINISH_COLUMNS) sums[threadIdx.x / 32][lane_number()] = x;
    __syncthreads();
    double sum = 0.0;
#pragma unroll
    for (u32 warp = 0; warp < FINISH_THREADS / 32; ++warp) sum += sums[warp][threadIdx.x % FINISH_COLUMNS];
    return sum;
}
