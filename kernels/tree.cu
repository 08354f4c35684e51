// Search tree of a batch: points in the order of a space-filling curve, in blocks of 32 that never mix elements, under
// boxes of 32 children each. One thread per point, one warp per block of points or node. Bound by bandwidth.
#include "elements.cuh"
#include "tree.cuh"

// Puts two zero bits between the low 16 bits of x.
__device__ __forceinline__ u64 spread(u32 x) {
    u64 bits = x & 0xFFFFu;
    bits = (bits | bits << 32) & 0x00FF00000000FFFFull;
    bits = (bits | bits << 16) & 0x00FF0000FF0000FFull;
    bits = (bits | bits << 8) & 0xF00F00F00F00F00Full;
    bits = (bits | bits << 4) & 0x30C30C30C30C30C3ull;
    bits = (bits | bits << 2) & 0x9249249249249249ull;
    return bits;
}

// keys[i] = element, then the place on a Morton curve through 2^16 cells along the longest side of the element
extern "C" __global__ void __launch_bounds__(256) tree_keys(
    const float* __restrict__ coord,   // [N, 3]
    const u32* __restrict__ starts,    // [B + 1], where the elements start
    const u32* __restrict__ bounds,    // [B, 6], of element_bounds
    u64* __restrict__ keys             // [N]
) {
    float low[3], side = 0.0f;
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
        low[axis] = lowest_of(bounds, blockIdx.x, axis);
        side = fmaxf(side, highest_of(bounds, blockIdx.x, axis) - low[axis]);
    }
    // Any scale gives a correct tree; that of points at one place or beyond the range of floats must only be a number.
    const float scale = side > 0.0f && side < INFINITY ? 65535.0f / side : 0.0f;
    const u32 end = starts[blockIdx.x + 1];
    for (u64 first = first_of_element(starts); first < end; first += element_step()) {
        float p[3];
        load_points(coord, first, end, p);
        const u64 i = first + lane_number();
        if (i >= end) continue;
        u64 key = (u64)blockIdx.x << 48;
#pragma unroll
        for (int axis = 0; axis < 3; ++axis)
            key |= spread((u32)fminf((p[axis] - low[axis]) * scale, 65535.0f)) << axis;
        keys[i] = key;
    }
}

// Fills the blocks of points and their boxes.
extern "C" __global__ void __launch_bounds__(256) tree_blocks(
    const float* __restrict__ coord,      // [N, 3]
    const u32* __restrict__ order,        // [N], points along the curve
    const u32* __restrict__ starts,       // [B + 1], where the elements start among the points
    const u32* __restrict__ first_blocks, // [B + 1], and among the blocks
    u32 elements,                         // B
    u32 blocks,                           // M
    float4* __restrict__ points,          // [M, 32], x, y, z and the bits of the row
    float* __restrict__ boxes             // [7, M]
) {
    const u64 block = warp_number();
    if (block >= blocks) return;
    const u32 element = element_of(first_blocks, elements, (u32)block);
    const u64 place = (u64)starts[element] + (block - first_blocks[element]) * 32 + lane_number();
    // Unused places are NaN: their distance is not smaller than anything.
    const float none = __uint_as_float(0x7FFFFFFFu);
    float4 p = make_float4(none, none, none, __uint_as_float(MISSING));
    if (place < starts[element + 1]) {
        const u32 row = order[place];
        p = make_float4(coord[3 * (u64)row], coord[3 * (u64)row + 1], coord[3 * (u64)row + 2], __uint_as_float(row));
    }
    points[block * 32 + lane_number()] = p;
    Box box = {{p.x, p.y, p.z}, {p.x, p.y, p.z}, __float_as_uint(p.w)};
    store_union(box, boxes, blocks, (u32)block);
}

// Fills a level of boxes from the level below.
extern "C" __global__ void __launch_bounds__(256) tree_level(
    const float* __restrict__ below,      // [7, children]
    u32 children,
    u32 nodes,                            // children / 32, rounded up
    float* __restrict__ boxes             // [7, nodes]
) {
    const u64 node = warp_number();
    if (node >= nodes) return;
    const u64 child = node * 32 + lane_number();
    Box box = {{INFINITY, INFINITY, INFINITY}, {-INFINITY, -INFINITY, -INFINITY}, MISSING};
    if (child < children) box = load_box(below, children, (u32)child);
    store_union(box, boxes, nodes, (u32)node);
}
