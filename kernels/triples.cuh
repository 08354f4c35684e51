// Rows of three numbers, one per lane of a warp. Read by their owners they would cost three times the sectors; here a warp
// reads and writes 32 rows as three lines of 32 numbers, which then change lanes: number 3 lane + axis belongs to a lane.
#pragma once
#include "common.cuh"

// First row of this warp in a kernel that walks over rows in strides of the grid, a warp 32 at a time.
__device__ __forceinline__ u64 first_of_warp() { return first_element() & ~31ull; }

// The lane that owns the number which a lane holds or wants for `axis`, and in which line that number is.
__device__ __forceinline__ u32 owner_of(u32 axis) { return (lane_number() + 32 - axis) * 11 % 32; }  // 3 * 11 = 1 modulo 32
__device__ __forceinline__ u32 line_of(u32 owner, u32 axis) { return (3 * owner + axis) / 32; }

// Rows first, first + 1, ... of a warp, one per lane; undefined from `end` on.
__device__ __forceinline__ void load_points(const float* rows, u64 first, u64 end, float* p) {
    const u32 lane = lane_number();
    const float* numbers = rows + 3 * first;
    const u64 count = 3 * (end - first);
    float read[3];
#pragma unroll
    for (u32 j = 0; j < 3; ++j) read[j] = lane + 32 * j < count ? numbers[lane + 32 * j] : 0.0f;
#pragma unroll
    for (u32 axis = 0; axis < 3; ++axis) {
        const u32 j = line_of(owner_of(axis), axis);
        const float sent = j == 0 ? read[0] : j == 1 ? read[1] : read[2];
        p[axis] = __shfl_sync(0xFFFFFFFFu, sent, (3 * lane + axis) % 32);
    }
}

// The three lines of numbers that the rows of the lanes are: line j holds number 32 j + lane.
__device__ __forceinline__ void lines_of(const float* p, float* lines) {
#pragma unroll
    for (u32 axis = 0; axis < 3; ++axis) {
        const u32 owner = owner_of(axis), j = line_of(owner, axis);
        const float got = __shfl_sync(0xFFFFFFFFu, p[axis], owner);
        lines[0] = j == 0 ? got : lines[0];
        lines[1] = j == 1 ? got : lines[1];
        lines[2] = j == 2 ? got : lines[2];
    }
}

// Writes, or adds to, rows first, first + 1, ... before `end` what the lanes hold.
template <bool ADD>
__device__ __forceinline__ void put_points(float* rows, u64 first, u64 end, const float* p) {
    float lines[3] = {0.0f, 0.0f, 0.0f};
    lines_of(p, lines);
    float* numbers = rows + 3 * first;
    const u64 count = 3 * (end - first);
#pragma unroll
    for (u32 j = 0; j < 3; ++j) {
        const u32 at = lane_number() + 32 * j;
        if (at < count) numbers[at] = ADD ? numbers[at] + lines[j] : lines[j];
    }
}
__device__ __forceinline__ void store_points(float* rows, u64 first, u64 end, const float* p) {
    put_points<false>(rows, first, end, p);
}
__device__ __forceinline__ void add_points(float* rows, u64 first, u64 end, const float* p) {
    put_points<true>(rows, first, end, p);
}

// The numbers 32 j + lane, j = 0, 1, 2, of 32 listed rows, of which each lane names one; 0 where it names none. The lanes
// that read a row lie side by side, so that a row costs one sector, or two where it lies in two.
__device__ __forceinline__ void gather_lines(const float* rows, u32 row, float* lines) {
#pragma unroll
    for (u32 j = 0; j < 3; ++j) {
        const u32 number = lane_number() + 32 * j;
        const u32 from = __shfl_sync(0xFFFFFFFFu, row, number / 3);
        lines[j] = from == MISSING ? 0.0f : rows[(u64)from * 3 + number % 3];
    }
}

// The same rows, each with the lane that named it.
__device__ __forceinline__ void gather_points(const float* rows, u32 row, float* p) {
    float lines[3];
    gather_lines(rows, row, lines);
#pragma unroll
    for (u32 axis = 0; axis < 3; ++axis) {
        const u32 j = line_of(owner_of(axis), axis);
        const float sent = j == 0 ? lines[0] : j == 1 ? lines[1] : lines[2];
        p[axis] = __shfl_sync(0xFFFFFFFFu, sent, (3 * lane_number() + axis) % 32);
    }
}
