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
    float low[3], high[3], side = 0.0f;
    load_bounds_of(bounds, blockIdx.x, low, high);
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) side = fmaxf(side, high[axis] - low[axis]);
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

// Fills the blocks of points and their boxes, eight by every block of threads.
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
    __shared__ float unions[7][8];  // of the blocks of the warps
    const u64 block = warp_number();
    if (block < blocks) {
        const u32 element = element_of(first_blocks, elements, (u32)block);
        const u64 place = (u64)starts[element] + (block - first_blocks[element]) * 32 + lane_number();
        const u32 row = place < starts[element + 1] ? order[place] : MISSING;
        float p[3];
        gather_points(coord, row, p);
        // Unused places are NaN: their distance is not smaller than anything.
        const float none = __uint_as_float(0x7FFFFFFFu);
#pragma unroll
        for (int axis = 0; axis < 3; ++axis) p[axis] = row == MISSING ? none : p[axis];
        points[block * 32 + lane_number()] = make_float4(p[0], p[1], p[2], __uint_as_float(row));
        const Box box = warp_union({{p[0], p[1], p[2]}, {p[0], p[1], p[2]}, row});
        if (lane_number() == 0) store_box(box, &unions[0][0], 8, threadIdx.x / 32);
    }
    __syncthreads();
    const u32 plane = threadIdx.x / 8, at = blockIdx.x * 8 + threadIdx.x % 8;
    if (plane < 7 && at < blocks) boxes[(u64)plane * blocks + at] = unions[plane][threadIdx.x % 8];
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
    box = warp_union(box);
    if (lane_number() == 0) store_box(box, boxes, nodes, (u32)node);
}
