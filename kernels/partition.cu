// Grid partition: cells, keys, and, once the keys are sorted, pooled points. One thread per point or pooled point. Bound
// by bandwidth; the means also by the latency of the members' rows.
#include "elements.cuh"

#define MEMBERS 256  // that a warp of partition_means reads at a time

// Cells between the start of the grid and x, as the CPU computes them: one subtraction, one true division.
__device__ __forceinline__ float cells_from(float start, float x, float size) {
    return __fdiv_rn(__fsub_rn(x, start), size);
}

// extents[axis] = largest number of cells from the start, as the bits of a float that is not negative; all 0 before
extern "C" __global__ void __launch_bounds__(256) partition_extents(
    const float* __restrict__ coord,   // [N, 3]
    const u32* __restrict__ starts,    // [B + 1], where the elements start
    const u32* __restrict__ bounds,    // [B, 6], of element_bounds
    float size,
    u32* __restrict__ extents          // [3]
) {
    float most[3] = {0.0f, 0.0f, 0.0f}, low[3], high[3];
    load_bounds_of(bounds, blockIdx.x, low, high);
    const u32 end = starts[blockIdx.x + 1];
    for (u64 first = first_of_element(starts); first < end; first += element_step()) {
        float p[3];
        load_points(coord, first, end, p);
        if (first + lane_number() >= end) continue;
#pragma unroll
        for (int axis = 0; axis < 3; ++axis)
            most[axis] = fmaxf(most[axis], cells_from(low[axis], p[axis], size));
    }
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
        const float largest = warp_max(most[axis]);
        if (lane_number() == 0) atomicMax(&extents[axis], __float_as_uint(largest));
    }
}

// keys[i] = number of the cell of point i: x fastest, then y, z and the element
extern "C" __global__ void __launch_bounds__(256) partition_keys(
    const float* __restrict__ coord,   // [N, 3]
    const u32* __restrict__ starts,    // [B + 1]
    const u32* __restrict__ bounds,    // [B, 6]
    const u32* __restrict__ extents,   // [3]
    float size,
    u64* __restrict__ keys             // [N]
) {
    u64 count[3];
    float start[3], high[3];
    load_bounds_of(bounds, blockIdx.x, start, high);
    const u32 extent = extents[min(lane_number(), 2u)];
#pragma unroll
    for (int axis = 0; axis < 3; ++axis)
        count[axis] = (u64)__uint_as_float(__shfl_sync(0xFFFFFFFFu, extent, axis)) + 1;
    const u32 end = starts[blockIdx.x + 1];
    for (u64 first = first_of_element(starts); first < end; first += element_step()) {
        float p[3];
        load_points(coord, first, end, p);
        const u64 i = first + lane_number();
        if (i >= end) continue;
        const u64 x = (u64)cells_from(start[0], p[0], size);
        const u64 y = (u64)cells_from(start[1], p[1], size);
        const u64 z = (u64)cells_from(start[2], p[2], size);
        keys[i] = x + count[0] * (y + count[1] * (z + count[2] * blockIdx.x));
    }
}

// heads[i] = 1 where a new cell starts among the sorted keys
extern "C" __global__ void partition_heads(
    const u64* __restrict__ keys,      // [N], sorted
    u64 n,
    u32* __restrict__ heads            // [N]
) {
    for (u64 first = first_of_warp(); first < n; first += element_stride()) {
        const u64 i = first + lane_number();
        u64 previous;
        const u64 key = with_previous(keys, i, n, previous);
        if (i < n) heads[i] = i == 0 || previous != key;
    }
}

// What the host has to know: pooled points before each element and of all, and the extents.
extern "C" __global__ void partition_sizes(
    const u32* __restrict__ before,    // [N + 1], cells that start before each sorted point
    const u32* __restrict__ starts,    // [B + 1]
    const u32* __restrict__ extents,   // [3]
    u64 elements,                      // B
    u32* __restrict__ sizes            // [3 + B + 1]
) {
    for (u64 i = first_element(); i < elements + 4; i += element_stride())
        sizes[i] = i < 3 ? extents[i] : before[starts[i - 3]];
}

// The pooled point of each point, and where the members of each pooled point start.
extern "C" __global__ void partition_clusters(
    const u32* __restrict__ before,    // [N + 1]
    const u32* __restrict__ order,     // [N], points in the order of their cells
    u64 n,
    u32* __restrict__ cluster,         // [N]
    u32* __restrict__ offsets          // [S + 1]
) {
    if (first_element() == 0) offsets[before[n]] = (u32)n;
    for (u64 first = first_of_warp(); first < n; first += element_stride()) {
        const u64 i = first + lane_number();
        u32 through;
        const u32 cell = with_next(before, i, n, through);
        if (i >= n) continue;
        if (through != cell) offsets[cell] = (u32)i;
        cluster[order[i]] = through - 1;
    }
}

// pooled[s] = mean of the members of s, added up in their order. A warp takes 32 pooled points, whose members are side by
// side in the order: it reads some of them at a time, and each lane adds up those of its own pooled point.
extern "C" __global__ void __launch_bounds__(256) partition_means(
    const float* __restrict__ coord,   // [N, 3]
    const u32* __restrict__ offsets,   // [S + 1]
    const u32* __restrict__ order,     // [N]
    u64 n,                             // S
    float* __restrict__ pooled         // [S, 3]
) {
    __shared__ float warps[8][3 * MEMBERS];
    float* members = warps[threadIdx.x / 32];
    for (u64 first = first_of_warp(); first < n; first += element_stride()) {
        u32 end;
        const u32 begin = with_next(offsets, first + lane_number(), n, end);
        const u32 last = __shfl_sync(0xFFFFFFFFu, end, 31);
        float sum[3] = {0.0f, 0.0f, 0.0f};
        for (u32 from = __shfl_sync(0xFFFFFFFFu, begin, 0); from < last; from += MEMBERS) {
            const u32 count = min(last - from, (u32)MEMBERS);
            __syncwarp();
#pragma unroll 1
            for (u32 i = 0; i < count; i += 32) {
                const u32 at = i + lane_number();
                float lines[3];
                gather_lines(coord, at < count ? order[from + at] : MISSING, lines);
#pragma unroll
                for (u32 j = 0; j < 3; ++j) members[3 * i + 32 * j + lane_number()] = lines[j];
            }
            __syncwarp();
            for (u32 m = max(begin, from); m < min(end, from + count); ++m)
#pragma unroll
                for (u32 axis = 0; axis < 3; ++axis) sum[axis] += members[3 * (m - from) + axis];
        }
#pragma unroll
        for (u32 axis = 0; axis < 3; ++axis) sum[axis] = __fdiv_rn(sum[axis], (float)(end - begin));
        store_points(pooled, first, n, sum);
    }
}
