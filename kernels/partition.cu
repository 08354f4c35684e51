// Grid partition: cells, keys, and, once the keys are sorted, pooled points. One thread per point or pooled point. Bound
// by bandwidth; the means also by the latency of the members' rows.
#include "elements.cuh"

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
    float most[3] = {0.0f, 0.0f, 0.0f};
    const u32 end = starts[blockIdx.x + 1];
    for (u64 first = first_of_element(starts); first < end; first += element_step()) {
        float p[3];
        load_points(coord, first, end, p);
        if (first + lane_number() >= end) continue;
#pragma unroll
        for (int axis = 0; axis < 3; ++axis)
            most[axis] = fmaxf(most[axis], cells_from(lowest_of(bounds, blockIdx.x, axis), p[axis], size));
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
    float start[3];
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
        count[axis] = (u64)__uint_as_float(extents[axis]) + 1;
        start[axis] = lowest_of(bounds, blockIdx.x, axis);
    }
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
    for (u64 i = first_element(); i < n; i += element_stride()) heads[i] = i == 0 || keys[i - 1] != keys[i];
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
    for (u64 i = first_element(); i <= n; i += element_stride()) {
        const u32 cell = before[i];
        if (i == n) {
            offsets[cell] = (u32)n;
            continue;
        }
        const u32 through = before[i + 1];
        if (through != cell) offsets[cell] = (u32)i;
        cluster[order[i]] = through - 1;
    }
}

// pooled[s] = mean of the members of s, added up in their order
extern "C" __global__ void partition_means(
    const float* __restrict__ coord,   // [N, 3]
    const u32* __restrict__ offsets,   // [S + 1]
    const u32* __restrict__ order,     // [N]
    u64 n,                             // S
    float* __restrict__ pooled         // [S, 3]
) {
    for (u64 s = first_element(); s < n; s += element_stride()) {
        const u32 first = offsets[s], end = offsets[s + 1];
        float x = 0.0f, y = 0.0f, z = 0.0f;
        for (u32 at = first; at < end; ++at) {
            const float* p = coord + 3 * (u64)order[at];
            x += p[0];
            y += p[1];
            z += p[2];
        }
        const float count = (float)(end - first);
        pooled[3 * s] = __fdiv_rn(x, count);
        pooled[3 * s + 1] = __fdiv_rn(y, count);
        pooled[3 * s + 2] = __fdiv_rn(z, count);
    }
}
