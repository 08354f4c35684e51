// K nearest neighbours, exact, and the nearest within a radius. One warp per query (search.cuh). Bound by latency and
// instructions: queries of a block read the same few points from cache.
#include "search.cuh"

// Neighbours of all queries of one tree among the points of another, K up to 32.
extern "C" __global__ void __launch_bounds__(256) knn_narrow(
    const float* __restrict__ coord,       // [S, 3], the points in their own order
    const float4* __restrict__ points,     // [M, 32], the tree of points: blocks,
    const float* __restrict__ boxes,       // boxes of all levels, 7 planes each,
    const u32* __restrict__ first_blocks,  // [B + 1], and where the elements start among the blocks
    u32 blocks,                            // M
    u32 levels,
    const float4* __restrict__ queries,    // [places], blocks of the tree of queries
    const u32* __restrict__ query_blocks,  // [B + 1]
    u32 elements,                          // B
    u32 places,
    u32 k,
    u64 none,                              // key from which on points are not found: squared distance, then row
    u32* __restrict__ index,               // [N, K], in the order of the queries' rows
    float* __restrict__ squared,           // [N, K], or null
    float* __restrict__ x,                 // [N, K], offsets to the neighbours, or null
    float* __restrict__ y,
    float* __restrict__ z
) {
    const Trees trees = {points, boxes, first_blocks, blocks, levels, queries, query_blocks, elements};
    neighbors_of<1, false>(trees, coord, places, k, 0.0f, none, index, squared, x, y, z);
}

// The same for K up to 128.
extern "C" __global__ void __launch_bounds__(256) knn_wide(
    const float* __restrict__ coord,       // [S, 3], the points in their own order
    const float4* __restrict__ points,     // [M, 32], the tree of points: blocks,
    const float* __restrict__ boxes,       // boxes of all levels, 7 planes each,
    const u32* __restrict__ first_blocks,  // [B + 1], and where the elements start among the blocks
    u32 blocks,                            // M
    u32 levels,
    const float4* __restrict__ queries,    // [places], blocks of the tree of queries
    const u32* __restrict__ query_blocks,  // [B + 1]
    u32 elements,                          // B
    u32 places,
    u32 k,
    u64 none,                              // key from which on points are not found: squared distance, then row
    u32* __restrict__ index,               // [N, K], in the order of the queries' rows
    float* __restrict__ squared,           // [N, K], or null
    float* __restrict__ x,                 // [N, K], offsets to the neighbours, or null
    float* __restrict__ y,
    float* __restrict__ z
) {
    const Trees trees = {points, boxes, first_blocks, blocks, levels, queries, query_blocks, elements};
    neighbors_of<4, false>(trees, coord, places, k, 0.0f, none, index, squared, x, y, z);
}
