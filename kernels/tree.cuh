// Boxes of a search tree: planes of the lowest x, y, z, the highest x, y, z, and the lowest row inside, as bits.
#pragma once
#include "common.cuh"

struct Box {
    float low[3], high[3];
    u32 row;
};

// Box `i` of `count` boxes without their rows.
__device__ __forceinline__ Box load_bounds(const float* boxes, u32 count, u32 i) {
    Box box;
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
        box.low[axis] = boxes[(u64)axis * count + i];
        box.high[axis] = boxes[(u64)(3 + axis) * count + i];
    }
    box.row = MISSING;
    return box;
}

// Box `i` of a level of `count` boxes.
__device__ __forceinline__ Box load_box(const float* boxes, u32 count, u32 i) {
    Box box = load_bounds(boxes, count, i);
    box.row = __float_as_uint(boxes[6ull * count + i]);
    return box;
}

// The box around the boxes of a warp, of which NaN ones count as nothing.
__device__ __forceinline__ Box warp_union(Box box) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) {
#pragma unroll
        for (int axis = 0; axis < 3; ++axis) {
            box.low[axis] = fminf(box.low[axis], __shfl_xor_sync(0xFFFFFFFFu, box.low[axis], step));
            box.high[axis] = fmaxf(box.high[axis], __shfl_xor_sync(0xFFFFFFFFu, box.high[axis], step));
        }
        box.row = min(box.row, __shfl_xor_sync(0xFFFFFFFFu, box.row, step));
    }
    return box;
}

// Writes box `i` of a level of `count` boxes.
__device__ __forceinline__ void store_box(const Box& box, float* boxes, u32 count, u32 i) {
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
        boxes[(u64)axis * count + i] = box.low[axis];
        boxes[(u64)(3 + axis) * count + i] = box.high[axis];
    }
    boxes[6ull * count + i] = __uint_as_float(box.row);
}

// The element to which a block or point belongs: the last one that starts at or before it.
__device__ __forceinline__ u32 element_of(const u32* starts, u32 elements, u32 place) {
    u32 low = 0, high = elements;
    while (high - low > 1) {
        const u32 middle = (low + high) / 2;
        if (starts[middle] <= place) low = middle;
        else high = middle;
    }
    return low;
}
