// Running totals of counts, in three steps over tiles of 2048: the sum of each tile, the totals before each tile, the
// totals before each value. A block of 256 threads takes a tile; a warp takes 256 consecutive values of it, 32 at a time.
// Bound by bandwidth: the values are read twice and the totals written once.
#include "common.cuh"

#define SCAN_THREADS 256
#define SCAN_WARPS (SCAN_THREADS / 32)
#define SCAN_ROUNDS 8
#define SCAN_TILE (SCAN_THREADS * SCAN_ROUNDS)

// Sum over the lanes of a warp, known to all.
__device__ __forceinline__ u32 warp_total(u32 x) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(0xFFFFFFFFu, x, step);
    return x;
}

// sums[t] = sum of tile t
extern "C" __global__ void __launch_bounds__(256) scan_sums(
    const u32* __restrict__ x,   // [N]
    u64 n,
    u32* __restrict__ sums       // [tiles]
) {
    __shared__ u32 parts[SCAN_WARPS];
    u32 sum = 0;
#pragma unroll
    for (int r = 0; r < SCAN_ROUNDS; ++r) {
        const u64 i = (u64)blockIdx.x * SCAN_TILE + r * SCAN_THREADS + threadIdx.x;
        if (i < n) sum += x[i];
    }
    sum = warp_total(sum);
    if (lane_number() == 0) parts[threadIdx.x >> 5] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = warp_total(threadIdx.x < SCAN_WARPS ? parts[threadIdx.x] : 0u);
        if (threadIdx.x == 0) sums[blockIdx.x] = sum;
    }
}

// sums[t] = sum of all tiles before t, by one block
extern "C" __global__ void __launch_bounds__(256) scan_starts(
    u32 tiles,
    u32* __restrict__ sums       // [tiles]
) {
    __shared__ u32 places[SCAN_WARPS];
    u32 carry = 0;
    for (u32 first = 0; first < tiles; first += SCAN_THREADS) {
        const u32 t = first + threadIdx.x;
        const u32 value = t < tiles ? sums[t] : 0u;
        u32 total;
        const u32 before = block_totals_before(value, places, total);
        if (t < tiles) sums[t] = carry + before;
        carry += total;
    }
}

// y[i] = sum of all values before i; y[N] = sum of all
extern "C" __global__ void __launch_bounds__(256) scan_tiles(
    const u32* __restrict__ x,     // [N]
    const u32* __restrict__ sums,  // [tiles], totals before each tile
    u64 n,
    u32* __restrict__ y            // [N + 1]
) {
    __shared__ u32 places[SCAN_WARPS];
    const u64 first = (u64)blockIdx.x * SCAN_TILE + (threadIdx.x >> 5) * (32 * SCAN_ROUNDS) + lane_number();
    u32 before[SCAN_ROUNDS];
    u32 sum = 0;  // of the warp so far
#pragma unroll
    for (int r = 0; r < SCAN_ROUNDS; ++r) {
        const u64 i = first + 32 * r;
        const u32 value = i < n ? x[i] : 0u;
        const u32 through = warp_totals_through(value);
        before[r] = sum + through - value;
        sum += __shfl_sync(0xFFFFFFFFu, through, 31);
    }
    if (lane_number() == 0) places[threadIdx.x >> 5] = sum;
    __syncthreads();
    u32 start = sums[blockIdx.x];
    for (u32 warp = 0; warp < threadIdx.x >> 5; ++warp) start += places[warp];
#pragma unroll
    for (int r = 0; r < SCAN_ROUNDS; ++r) {
        const u64 i = first + 32 * r;
        // The place after the last value gets the sum of all: values beyond the end are zero.
        if (i <= n) y[i] = start + before[r];
    }
}
