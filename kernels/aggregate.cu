// The weighted sum of values. The hidden layer h and the sums u are computed where they are used and never leave a block.
// Products run on tensor cores. Bound by compute.
#include "aggregate.cuh"

// y = sum of w (v + b2) + W2 u, or max(y + t, 0) of that. A block takes one tile of points and 16 slots; no position bias
// without P. Element (c, k) of W2 lies where the strides say, c being channel i of group g.
extern "C" __global__ void __launch_bounds__(THREADS, 2) aggregate_forward(
    const float* __restrict__ soft,      // [N * K, G]
    const float* __restrict__ values,    // [M, C]
    const float* __restrict__ position,  // [C, 4], or null
    const float* __restrict__ w2,        // [C, C], or null
    u32 w2_group,                        // stride of g
    u32 w2_within,                       // stride of i
    u32 w2_inner,                        // stride of k
    const float* __restrict__ b2,        // [C], or null
    const float* __restrict__ shift,     // [C]: t, or null
    const u32* __restrict__ index,       // [N * K], rows of values
    const float* __restrict__ x,         // [N * K], offsets
    const float* __restrict__ y,
    const float* __restrict__ z,
    u64 seed,                            // of dropout
    u64 stream,
    float rate,
    u64 points,                          // N
    u32 k,
    u32 groups,                          // G
    u32 channels,                        // C
    u32 tile_points,                     // points of a tile
    u32 parts,                           // parts of 16 pairs per point
    float* __restrict__ out              // [N, C]
) {
    __shared__ Tile t;
    __shared__ __align__(16) float u[GROUPS * U_STRIDE];  // left operands of W2 u: group, half of the chunk
    const Sizes s = {points, k, groups, channels, tile_points, parts};
    const u64 first = (u64)blockIdx.x * tile_points;
    const u32 rows = s.rows(first), row = lane_row(), col = lane_col(), warp = threadIdx.x / 32;
    u32 g0, count;
    slot_groups(s, blockIdx.y * SLOTS, g0, count);
    for (u32 at = threadIdx.x; at < GROUPS * U_STRIDE; at += THREADS) u[at] = 0.0f;
    load_tile(t, s, {soft, index, seed, stream, rate}, {x, y, z}, first, rows, g0, count);
    __syncthreads();
    float sum[2][4];
#pragma unroll
    for (u32 i = 0; i < 2; ++i) {
        const Slot slot = slot_of(s, blockIdx.y * SLOTS + warp + i * WARPS);
#pragma unroll
        for (u32 v = 0; v < 4; ++v) {
            sum[i][v] = 0.0f;
            const u32 within = 2 * col + v % 2, point = row + v / 2 * 8, c = slot.group * s.width() + slot.first + within;
            if (within >= slot.length || point >= rows) continue;
            for (u32 place = point * parts * 16; place < point * parts * 16 + k; ++place) {
                if (t.neighbor[place] == MISSING) continue;
                const float value = values[(u64)t.neighbor[place] * channels + c];
                sum[i][v] += weight_at(t, place, slot.group - g0) * (b2 ? value + b2[c] : value);
            }
        }
    }
    for (u32 c0 = 0; position && c0 < channels; c0 += CHUNK) {
        const float4 p = position_row(position, c0 + row, channels), q = position_row(position, c0 + 8 + row, channels);
        for (u32 point = warp; point < rows; point += WARPS) {
            float d[2][4];
            sum_hidden(d, t, parts, point, count, p, q);
#pragma unroll
            for (u32 v = 0; v < 8; ++v) {
                const u32 g = v / 4 * 8 + 2 * col + v % 2, half = v % 4 / 2;
                u[g * U_STRIDE + (half * 32 + point % 8 * 4 + row % 4) * 4 + point / 8 + row / 4 * 2] = d[v / 4][v % 4];
            }
        }
        __syncthreads();
#pragma unroll
        for (u32 i = 0; i < 2; ++i) {
            const Slot slot = slot_of(s, blockIdx.y * SLOTS + warp + i * WARPS);
            if (slot.length == 0) break;
            const float* of = w2 + (u64)slot.group * w2_group + (u64)slot.first * w2_within;
            const Matrix matrix = {of, slot.length, channels, w2_within, w2_inner};
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                if (c0 + 8 * half >= channels) break;
                const float4 a = ((const float4*)(u + (slot.group - g0) * U_STRIDE))[half * 32 + lane_number()];
                multiply(sum[i], left_of(a.x, a.y, a.z, a.w), matrix.operand(0, c0 + 8 * half));
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (u32 i = 0; i < 2; ++i) {
        const Slot slot = slot_of(s, blockIdx.y * SLOTS + warp + i * WARPS);
#pragma unroll
        for (u32 v = 0; v < 4; ++v) {
            const u32 within = 2 * col + v % 2, point = row + v / 2 * 8, c = slot.group * s.width() + slot.first + within;
            if (within >= slot.length || point >= rows) continue;
            out[(first + point) * channels + c] = shift ? rectify(sum[i][v] + shift[c]) : sum[i][v];
        }
    }
}
