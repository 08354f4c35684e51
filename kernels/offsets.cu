// Offsets of pairs from coordinates, and the gradient that attention sends to them. On request only: no other kernel does
// more for it. Bound by compute: a multiply-add per pair, channel and group.
#include "pairs.cuh"
#include "triples.cuh"

#define OWNERS 8        // points of a warp in offsets_backward; as OWNERS in ops/offsets/mod.rs
#define OWNER_WARPS 8  // warps of a block of it

// offset = coord_j - coord_i, 0 where the neighbour is missing
extern "C" __global__ void offsets_forward(
    const float* __restrict__ coord,  // [N, 3]
    const u32* __restrict__ index,    // [N * K], rows of coord
    u64 n,                            // N * K * 3
    u32 k,
    float* __restrict__ offsets       // [N * K, 3]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 pair;
        u32 axis;
        place_of(i, 3, pair, axis);
        const u32 j = index[pair];
        offsets[i] = j == MISSING ? 0.0f : coord[(u64)j * 3 + axis] - coord[pair / k * 3 + axis];
    }
}

// d_coord_i += sum over the pairs that point i is the neighbour of - sum over its own pairs whose neighbours exist. A warp
// takes eight points, one after another: 32 pairs at a time, of which its lanes add up the 96 numbers. What the lanes have
// found goes to shared memory, where each lane adds up one number of the points' gradients.
extern "C" __global__ void __launch_bounds__(32 * OWNER_WARPS) offsets_backward(
    const float* __restrict__ d_offsets,  // [N * K, 3]
    const u32* __restrict__ index,        // [N * K]
    const u32* __restrict__ starts,       // [N + 1], where the lists start
    const u32* __restrict__ lists,        // pairs that a point is the neighbour of
    u64 n,                                // N
    u32 k,
    float* __restrict__ d_coord           // [N, 3]
) {
    __shared__ float warps[OWNER_WARPS][3 * OWNERS][33];  // point and axis, lane
    float(*found)[33] = warps[threadIdx.x / 32];
    const u64 first = warp_number() * OWNERS;
    if (first >= n) return;
    const u32 lane = lane_number(), count = n - first < OWNERS ? (u32)(n - first) : OWNERS;
    const u32 start = lane <= count ? starts[first + lane] : 0;
    for (u32 point = 0; point < count; ++point) {
        float sum[3] = {0.0f, 0.0f, 0.0f}, lines[3];
        const u32 from = __shfl_sync(0xFFFFFFFFu, start, point), to = __shfl_sync(0xFFFFFFFFu, start, point + 1);
        for (u32 at = from; at < to; at += 32) {
            gather_lines(d_offsets, at + lane < to ? lists[at + lane] : MISSING, lines);
#pragma unroll
            for (u32 j = 0; j < 3; ++j) sum[j] += lines[j];
        }
        for (u32 at = 0; at < k; at += 32) {
            const u64 pair = (first + point) * k + at + lane;
            const bool exists = at + lane < k && index[pair] != MISSING;
            gather_lines(d_offsets, exists ? (u32)pair : MISSING, lines);
#pragma unroll
            for (u32 j = 0; j < 3; ++j) sum[j] -= lines[j];
        }
        // Every lane holds one number of each axis.
#pragma unroll
        for (u32 j = 0; j < 3; ++j) found[3 * point + (lane + 32 * j) % 3][lane] = sum[j];
    }
    __syncwarp();
    if (lane >= 3 * count) return;
    float total = 0.0f;
    for (u32 i = 0; i < 32; ++i) total += found[lane][i];
    d_coord[3 * first + lane] += total;
}

// d_u of a chunk of points: what flows into the sums of h of every group. One thread per value, in strides of the grid.
extern "C" __global__ void offsets_backward_sums(
    const float* __restrict__ d_y,  // [N, C]
    const float* __restrict__ w2,   // [C, C]
    u64 first,                      // point of the chunk
    u64 n,                          // points of the chunk * G * C
    u32 groups,                     // G
    u32 channels,                   // C
    float* __restrict__ d_u         // [points of the chunk, G, C]
) {
    const u32 width = channels / groups;
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 row;
        u32 c;
        place_of(i, channels, row, c);
        const u64 point = row / groups;
        const u32 own = (u32)(row - point * groups) * width;
        float sum = 0.0f;
        for (u32 l = own; l < own + width; ++l) sum += d_y[(first + point) * channels + l] * w2[(u64)l * channels + c];
        d_u[i] = sum;
    }
}

// Through the ReLU of h = max(P (offset, 1), 0), into which flows d_h = a b: one warp per pair of a chunk.
extern "C" __global__ void offsets_backward_hidden(
    const float* __restrict__ a,         // [pairs of the chunk, G]
    const u32* __restrict__ index,       // [N * K] or null; missing neighbours and dropped entries of a count as 0
    u64 seed,                            // of dropout
    u64 stream,
    float rate,
    const float* __restrict__ b,         // [G, C], one for all or one per point of the chunk
    u64 stride,                          // words from one b to the next, 0 if there is one for all
    const float* __restrict__ position,  // [C, 4]: P
    const float* __restrict__ x,         // [N * K], offsets
    const float* __restrict__ y,
    const float* __restrict__ z,
    u64 first,                           // pair of the chunk
    u64 pairs,                           // of the chunk
    u32 k,
    u32 groups,                          // G
    u32 channels,                        // C
    float* __restrict__ d_offsets        // [N * K, 3]
) {
    const u64 row = warp_number(), pair = first + row;
    if (row >= pairs) return;
    const Weights weights = {a, index, seed, stream, rate};
    const float dx = x[pair], dy = y[pair], dz = z[pair];
    const float* own = b + row / k * stride;
    float sum[3] = {0.0f, 0.0f, 0.0f};
    for (u32 c = lane_number(); c < channels; c += 32) {
        const float4 p = ((const float4*)position)[c];
        if (!(hidden(p, dx, dy, dz) > 0.0f)) continue;
        float d_h = 0.0f;
        for (u32 g = 0; g < groups; ++g) {
            const float factor = index ? weights.factor(pair, pair * groups + g) : 1.0f;
            d_h += a[row * groups + g] * factor * own[(u64)g * channels + c];
        }
        sum[0] += p.x * d_h;
        sum[1] += p.y * d_h;
        sum[2] += p.z * d_h;
    }
#pragma unroll
    for (u32 axis = 0; axis < 3; ++axis) {
        const float total = warp_sum(sum[axis]);
        if (lane_number() == axis) d_offsets[pair * 3 + axis] += total;
    }
}
