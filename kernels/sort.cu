// Stable radix sort of keys with the order that sorts them: one digit of 8 bits per pass, the lowest first (Satish,
// Harris, Garland 2009, "Designing efficient sorting algorithms for manycore GPUs", with ranks by matching lanes). A pass
// counts the digits of each tile of 2048 keys, turns the counts into places, and moves keys and order there.
// A block of 256 threads takes a tile; a warp takes 256 consecutive keys of it, 32 at a time. Bound by bandwidth: a pass
// reads the keys twice and the order once, and writes both once, in runs, since a tile is put in order in shared memory.
#include "common.cuh"

#define SORT_THREADS 256
#define SORT_WARPS (SORT_THREADS / 32)
#define SORT_ROUNDS 8
#define SORT_TILE (SORT_THREADS * SORT_ROUNDS)
#define DIGITS 256
// Threads of sort_places: each digit is summed by several.
#define PLACE_THREADS 1024
#define PLACE_PARTS (PLACE_THREADS / DIGITS)

template <typename Key>
__device__ __forceinline__ u32 digit_of(Key key, u32 shift) {
    return (u32)(key >> shift) & (DIGITS - 1);
}

template <typename Key>
__device__ __forceinline__ void count_digits(const Key* keys, u32 n, u32 shift, u32* counts) {
    __shared__ u32 seen[DIGITS];
    seen[threadIdx.x] = 0;
    __syncthreads();
    const u32 first = blockIdx.x * SORT_TILE + threadIdx.x;
#pragma unroll
    for (u32 r = 0; r < SORT_ROUNDS; ++r) {
        const u32 i = first + r * SORT_THREADS;
        if (i < n) atomicAdd(&seen[digit_of(keys[i], shift)], 1u);
    }
    __syncthreads();
    counts[(u64)blockIdx.x * DIGITS + threadIdx.x] = seen[threadIdx.x];
}

// counts[t, d] = keys of tile t whose digit is d
extern "C" __global__ void __launch_bounds__(256) sort_counts_32(
    const u32* __restrict__ keys,  // [N]
    u32 n,
    u32 shift,
    u32* __restrict__ counts       // [tiles, 256]
) {
    count_digits(keys, n, shift, counts);
}
extern "C" __global__ void __launch_bounds__(256) sort_counts_64(
    const u64* __restrict__ keys,  // [N]
    u32 n,
    u32 shift,
    u32* __restrict__ counts       // [tiles, 256]
) {
    count_digits(keys, n, shift, counts);
}

// counts[t, d] = keys of a lower digit, and of digit d in earlier tiles: where those of tile t go. By one block.
extern "C" __global__ void __launch_bounds__(1024) sort_places(
    u32 tiles,
    u32* __restrict__ counts       // [tiles, 256]
) {
    __shared__ u32 sums[PLACE_PARTS][DIGITS];
    __shared__ u32 places[PLACE_THREADS / 32];
    const u32 digit = threadIdx.x % DIGITS, part = threadIdx.x / DIGITS;
    const u32 share = (tiles + PLACE_PARTS - 1) / PLACE_PARTS;
    const u32 first = min(part * share, tiles), end = min(first + share, tiles);
    u32 sum = 0;
#pragma unroll 8
    for (u32 t = first; t < end; ++t) sum += counts[(u64)t * DIGITS + digit];
    sums[part][digit] = sum;
    __syncthreads();
    u32 all = 0, before = 0;
#pragma unroll
    for (u32 p = 0; p < PLACE_PARTS; ++p) {
        if (p < part) before += sums[p][digit];
        all += sums[p][digit];
    }
    // Every part adds up the totals of all digits before its own; the first 256 threads are the digits in order.
    u32 total;
    const u32 lower = block_totals_before(part == 0 ? all : 0u, places, total);
    __syncthreads();
    if (part == 0) sums[0][digit] = lower;
    __syncthreads();
    u32 place = sums[0][digit] + before;
#pragma unroll 8
    for (u32 t = first; t < end; ++t) {
        const u64 at = (u64)t * DIGITS + digit;
        const u32 count = counts[at];
        counts[at] = place;
        place += count;
    }
}

template <typename Key>
__device__ __forceinline__ void move_tile(const Key* keys, const u32* order, u32 n, u32 shift, const u32* places,
                                          Key* sorted_keys, u32* sorted_order) {
    __shared__ Key tile_keys[SORT_TILE];
    __shared__ u32 tile_order[SORT_TILE];
    __shared__ u32 seen[SORT_WARPS][DIGITS];  // keys of each digit so far, then where a warp's keys go in the tile
    __shared__ u32 shift_of[DIGITS];          // from the place in the tile to the place among all
    __shared__ u32 totals[SORT_WARPS];
    const u32 warp = threadIdx.x >> 5, lane = lane_number();
    const u32 start = blockIdx.x * SORT_TILE;
    const u32 first = start + warp * (32 * SORT_ROUNDS) + lane;
#pragma unroll
    for (u32 w = 0; w < SORT_WARPS; ++w) seen[w][threadIdx.x] = 0;
    __syncthreads();
    // Places beyond the end act as the largest digit and come last in the tile, from where they are not written.
    Key key[SORT_ROUNDS];
    u32 rank[SORT_ROUNDS];
#pragma unroll
    for (u32 r = 0; r < SORT_ROUNDS; ++r) {
        const u32 i = first + 32 * r;
        key[r] = i < n ? keys[i] : ~(Key)0;
        const u32 digit = digit_of(key[r], shift);
        const u32 same = __match_any_sync(0xFFFFFFFFu, digit);
        const u32 ahead = __popc(same & ((1u << lane) - 1u));
        const u32 before = seen[warp][digit];
        __syncwarp();
        if (ahead == 0) seen[warp][digit] = before + __popc(same);
        __syncwarp();
        rank[r] = before + ahead;
    }
    __syncthreads();
    u32 count = 0;
#pragma unroll
    for (u32 w = 0; w < SORT_WARPS; ++w) {
        const u32 mine = seen[w][threadIdx.x];
        seen[w][threadIdx.x] = count;
        count += mine;
    }
    u32 total;
    const u32 lower = block_totals_before(count, totals, total);
#pragma unroll
    for (u32 w = 0; w < SORT_WARPS; ++w) seen[w][threadIdx.x] += lower;
    shift_of[threadIdx.x] = places[(u64)blockIdx.x * DIGITS + threadIdx.x] - lower;
    __syncthreads();
#pragma unroll
    for (u32 r = 0; r < SORT_ROUNDS; ++r) {
        const u32 i = first + 32 * r;
        const u32 at = seen[warp][digit_of(key[r], shift)] + rank[r];
        tile_keys[at] = key[r];
        tile_order[at] = order && i < n ? order[i] : i;
    }
    __syncthreads();
    const u32 length = min(n - start, (u32)SORT_TILE);
    for (u32 at = threadIdx.x; at < length; at += SORT_THREADS) {
        const Key moved = tile_keys[at];
        const u32 to = shift_of[digit_of(moved, shift)] + at;
        sorted_keys[to] = moved;
        sorted_order[to] = tile_order[at];
    }
}

// Moves keys and their order to where the digit says; without an order the keys are numbered.
extern "C" __global__ void __launch_bounds__(256) sort_moves_32(
    const u32* __restrict__ keys,    // [N]
    const u32* __restrict__ order,   // [N], or null: 0, 1, 2, ...
    u32 n,
    u32 shift,
    const u32* __restrict__ places,  // [tiles, 256]
    u32* __restrict__ sorted_keys,   // [N]
    u32* __restrict__ sorted_order   // [N]
) {
    move_tile(keys, order, n, shift, places, sorted_keys, sorted_order);
}
extern "C" __global__ void __launch_bounds__(256) sort_moves_64(
    const u64* __restrict__ keys,    // [N]
    const u32* __restrict__ order,   // [N], or null: 0, 1, 2, ...
    u32 n,
    u32 shift,
    const u32* __restrict__ places,  // [tiles, 256]
    u64* __restrict__ sorted_keys,   // [N]
    u32* __restrict__ sorted_order   // [N]
) {
    move_tile(keys, order, n, shift, places, sorted_keys, sorted_order);
}
