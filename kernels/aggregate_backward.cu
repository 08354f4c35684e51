// Backward of the weighted sum of values; h, u and d_u are computed where they are used and never leave a block. Products
// run on tensor cores. Bound by compute.
#include "aggregate.cuh"

// d_v += sum over the pairs in which the point is the neighbour of w d_y. One thread per value, in strides of the grid.
extern "C" __global__ void aggregate_backward_values(
    const float* __restrict__ soft,   // [N * K, G]
    const u32* __restrict__ offsets,  // [M + 1], lists of pairs
    const u32* __restrict__ lists,    // pairs of all lists
    const float* __restrict__ d_y,    // [N, C]
    u64 seed,                         // of dropout
    u64 stream,
    float rate,
    u64 n,                            // M * C
    u32 k,
    u32 groups,                       // G
    u32 channels,                     // C
    float* __restrict__ d_values      // [M, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 row;
        u32 c;
        place_of(i, channels, row, c);
        const u32 g = c / (channels / groups);
        float sum = 0.0f;
        for (u32 at = offsets[row]; at < offsets[row + 1]; ++at) {
            const u32 pair = lists[at];
            const u64 of = (u64)pair * groups + g;
            const float factor = rate > 0.0f ? dropout_factor(seed, stream, of, rate) : 1.0f;
            sum += soft[of] * factor * d_y[(u64)(pair / k) * channels + c];
        }
        d_values[i] += sum;
    }
}

// d_u = W2^T d_y of the tile's points and groups for 16 channels from c0 on, as right operands of products over groups:
// word D_STRIDE point + 128 (c / 8) + 64 (g / 8) + 8 (g % 8) + c % 8. Every warp takes two groups.
__device__ __forceinline__ void load_gradient(float* d_u, const Sizes& s, const float* w2, const float* d_y, u64 first,
                                              u32 rows, u32 g0, u32 count, u32 c0) {
    const u32 row = lane_row(), col = lane_col(), width = s.width();
    for (u32 g = threadIdx.x / 32; g < GROUPS; g += WARPS) {
        float d[2][4];
#pragma unroll
        for (u32 v = 0; v < 8; ++v) d[v / 4][v % 4] = 0.0f;
        const u32 channel = (g0 + g) * width;
        const float* own = d_y + first * s.channels + channel;
        for (u32 i = 0; g < count && i < width; i += 8) {
            float a[4];
#pragma unroll
            for (u32 v = 0; v < 4; ++v) {
                const u32 point = row + v % 2 * 8, within = i + col + v / 2 * 4;
                a[v] = point < rows && within < width ? own[(u64)point * s.channels + within] : 0.0f;
            }
            const Left left = left_of(a[0], a[1], a[2], a[3]);
            // Rows are channels of h here, columns channels of the group.
            const Matrix matrix = {w2 + (u64)channel * s.channels, s.channels, width, 1, s.channels};
            multiply(d[0], left, matrix.operand(c0, i));
            multiply(d[1], left, matrix.operand(c0 + 8, i));
        }
#pragma unroll
        for (u32 v = 0; v < 8; ++v) {
            const u32 point = row + v % 4 / 2 * 8;
            d_u[point * D_STRIDE + v / 4 * 128 + g / 8 * 64 + g % 8 * 8 + 2 * col + v % 2] = d[v / 4][v % 4];
        }
    }
}

// d_w = d_y (v + b2) + h d_u with d_u = W2^T d_y, and the gradient of P through h. A block takes a chunk of the tiles of
// points (blockIdx.x) and 16 groups (blockIdx.y); every warp two parts of a tile.
extern "C" __global__ void __launch_bounds__(THREADS, 2) aggregate_backward_weights(
    const float* __restrict__ soft,      // [N * K, G]
    const float* __restrict__ values,    // [M, C]
    const float* __restrict__ position,  // [C, 4], or null
    const float* __restrict__ w2,        // [C, C], or null
    const float* __restrict__ b2,        // [C], or null
    const u32* __restrict__ index,       // [N * K], rows of values
    const float* __restrict__ x,         // [N * K], offsets
    const float* __restrict__ y,
    const float* __restrict__ z,
    const float* __restrict__ d_y,       // [N, C]
    u64 seed,                            // of dropout
    u64 stream,
    float rate,
    u64 points,                          // N
    u32 k,
    u32 groups,                          // G
    u32 channels,                        // C
    u32 tile_points,                     // points of a tile
    u32 parts,                           // parts of 16 pairs per point
    u64 chunk_tiles,                     // tiles of points of a chunk
    float* __restrict__ d_w,             // [N * K, G]
    float* __restrict__ d_position       // [chunks, tiles of groups, C, 4], or null
) {
    __shared__ Tile t;
    __shared__ __align__(16) float d_u[POINTS * D_STRIDE];
    __shared__ float slopes[WARPS][CHUNK][4];
    const Sizes s = {points, k, groups, channels, tile_points, parts};
    const u32 g0 = blockIdx.y * GROUPS, count = min(groups - g0, (u32)GROUPS), width = s.width();
    const u32 row = lane_row(), col = lane_col(), warp = threadIdx.x / 32;
    float* partial = d_position + ((u64)blockIdx.x * gridDim.y + blockIdx.y) * channels * 4;
    const u64 first_tile = blockIdx.x * chunk_tiles;
    for (u64 number = first_tile; number < first_tile + chunk_tiles; ++number) {
        const u64 first = number * tile_points;
        if (first >= points) return;
        const u32 rows = s.rows(first);
        load_tile(t, s, {soft, index, seed, stream, rate}, {x, y, z}, first, rows, g0, count);
        __syncthreads();
        float sum[2][2][4];  // part, tile of groups
#pragma unroll
        for (u32 i = 0; i < 16; ++i) {
            const u32 place = (warp + i / 8 * WARPS) * 16 + row + i % 4 / 2 * 8, g = i / 4 % 2 * 8 + 2 * col + i % 2;
            float total = 0.0f;
            if (t.neighbor[place] != MISSING && g < count) {
                const u32 c = (g0 + g) * width, point = place / (16 * parts);
                const float* v = values + (u64)t.neighbor[place] * channels + c;
                const float* d = d_y + (first + point) * channels + c;
                for (u32 n = 0; n < width; ++n) total += d[n] * (b2 ? v[n] + b2[c + n] : v[n]);
            }
            sum[i / 8][i / 4 % 2][i % 4] = total;
        }
        for (u32 c0 = 0; position && c0 < channels; c0 += CHUNK) {
            load_gradient(d_u, s, w2, d_y, first, rows, g0, count, c0);
            __syncthreads();
#pragma unroll
            for (u32 n = 0; n < 2; ++n) {
                // Channels 2 col and 2 col + 1 are numbers col and col + 4 of the inner index, so that d_h and h lie alike.
                const u32 c = c0 + 8 * n + 2 * col;
                const float4 p = position_row(position, c, channels), q = position_row(position, c + 1, channels);
                float slope[2][4];
#pragma unroll
                for (u32 v = 0; v < 8; ++v) slope[v / 4][v % 4] = 0.0f;
#pragma unroll
                for (u32 i = 0; i < 2; ++i) {
                    const u32 part = warp + i * WARPS, point = part / parts;
                    if (point >= rows) break;
                    const float4 a = t.offset[part * 16 + row], b = t.offset[part * 16 + row + 8];
                    const float h[4] = {hidden(p, a.x, a.y, a.z), hidden(p, b.x, b.y, b.z), hidden(q, a.x, a.y, a.z),
                                        hidden(q, b.x, b.y, b.z)};
                    const Left left = left_of(h[0], h[1], h[2], h[3]);
                    float d_h[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
                    for (u32 tile = 0; tile < 2; ++tile) {
                        if (8 * tile >= count) break;
                        const float* d = d_u + point * D_STRIDE + n * 128 + tile * 64;
                        const float2 by_channel = ((const float2*)d)[lane_number()];
                        multiply(sum[i][tile], left, right_of(by_channel.x, by_channel.y));
                        float w[4];
#pragma unroll
                        for (u32 v = 0; v < 4; ++v)
                            w[v] = weight_at(t, part * 16 + row + v % 2 * 8, tile * 8 + col + v / 2 * 4);
                        multiply(d_h, left_of(w[0], w[1], w[2], w[3]), right_of(d[col * 8 + row], d[(col + 4) * 8 + row]));
                    }
#pragma unroll
                    for (u32 v = 0; v < 4; ++v) {
                        const float4 offset = v / 2 ? b : a;
                        const float d = h[v / 2 + v % 2 * 2] > 0.0f ? d_h[v] : 0.0f;
                        slope[v % 2][0] += d * offset.x;
                        slope[v % 2][1] += d * offset.y;
                        slope[v % 2][2] += d * offset.z;
                        slope[v % 2][3] += d;
                    }
                }
#pragma unroll
                for (u32 v = 0; v < 8; ++v) {
                    float total = slope[v / 4][v % 4];
#pragma unroll
                    for (u32 step = 4; step < 32; step *= 2) total += __shfl_xor_sync(0xFFFFFFFFu, total, step);
                    if (row == 0) slopes[warp][8 * n + 2 * col + v / 4][v % 4] = total;
                }
            }
            __syncthreads();
            if (threadIdx.x < CHUNK * 4 && c0 + threadIdx.x / 4 < channels) {
                float total = 0.0f;
                for (u32 w = 0; w < WARPS; ++w) total += slopes[w][threadIdx.x / 4][threadIdx.x % 4];
                float& place = partial[c0 * 4 + threadIdx.x];
                place = number == first_tile ? total : place + total;
            }
        }
#pragma unroll
        for (u32 i = 0; i < 16; ++i) {
            const u32 place = (warp + i / 8 * WARPS) * 16 + row + i % 4 / 2 * 8, g = i / 4 % 2 * 8 + 2 * col + i % 2;
            const u32 point = place / (16 * parts), j = place % (16 * parts);
            if (point < rows && j < k && g < count)
                d_w[((first + point) * k + j) * groups + g0 + g] = sum[i / 8][i / 4 % 2][i % 4];
        }
        __syncthreads();
    }
}

// Per chunk of points: d_W2 = d_y^T u and d_b2. A block takes a chunk of the tiles of points (blockIdx.x), 16 slots of
// rows of W2 (blockIdx.y) and 16 of its columns (blockIdx.z).
extern "C" __global__ void __launch_bounds__(THREADS, 2) aggregate_backward_w2(
    const float* __restrict__ soft,      // [N * K, G]
    const float* __restrict__ position,  // [C, 4]
    const u32* __restrict__ index,       // [N * K]
    const float* __restrict__ x,         // [N * K], offsets
    const float* __restrict__ y,
    const float* __restrict__ z,
    const float* __restrict__ d_y,       // [N, C]
    u64 seed,                            // of dropout
    u64 stream,
    float rate,
    u64 points,                          // N
    u32 k,
    u32 groups,                          // G
    u32 channels,                        // C
    u32 tile_points,                     // points of a tile
    u32 parts,                           // parts of 16 pairs per point
    u64 chunk_tiles,                     // tiles of points of a chunk
    float* __restrict__ d_w2,            // [chunks, C, C]
    float* __restrict__ d_b2             // [chunks, C]
) {
    __shared__ Tile t;
    __shared__ __align__(16) float u[GROUPS * U_STRIDE];  // left operands of products over points: group, half of them
    __shared__ float weights[POINTS][GROUPS];             // sums over the pairs of a point
    const Sizes s = {points, k, groups, channels, tile_points, parts};
    const u32 row = lane_row(), col = lane_col(), warp = threadIdx.x / 32, c0 = blockIdx.z * CHUNK;
    const float4 p = position_row(position, c0 + row, channels), q = position_row(position, c0 + 8 + row, channels);
    u32 g0, count;
    slot_groups(s, blockIdx.y * SLOTS, g0, count);
    float sum[2][4], total = 0.0f;
#pragma unroll
    for (u32 v = 0; v < 8; ++v) sum[v / 4][v % 4] = 0.0f;
    // The channel whose d_b2 this thread adds up.
    const Slot bias = slot_of(s, blockIdx.y * SLOTS + threadIdx.x / 8);
    const bool is_bias = blockIdx.z == 0 && threadIdx.x / 8 < SLOTS && threadIdx.x % 8 < bias.length;
    const u32 bias_channel = bias.group * s.width() + bias.first + threadIdx.x % 8;
    const u64 first_tile = blockIdx.x * chunk_tiles;
    for (u64 number = first_tile; number < first_tile + chunk_tiles; ++number) {
        const u64 first = number * tile_points;
        if (first >= points) break;
        const u32 rows = s.rows(first);
        __syncthreads();
        load_tile(t, s, {soft, index, seed, stream, rate}, {x, y, z}, first, rows, g0, count);
        __syncthreads();
        for (u32 point = warp; point < POINTS; point += WARPS) {
            float d[2][4] = {{0.0f, 0.0f, 0.0f, 0.0f}, {0.0f, 0.0f, 0.0f, 0.0f}};
            if (point < rows) sum_hidden(d, t, parts, point, count, p, q);
#pragma unroll
            for (u32 v = 0; v < 8; ++v) {
                const u32 g = v / 4 * 8 + 2 * col + v % 2;
                u[g * U_STRIDE + (point / 8 * 32 + row * 4 + point % 4) * 4 + v % 4 / 2 + point / 4 % 2 * 2] =
                    d[v / 4][v % 4];
            }
        }
        if (blockIdx.z == 0) {
            const u32 point = threadIdx.x / GROUPS, g = threadIdx.x % GROUPS;
            float weight = 0.0f;
            if (point < rows)
                for (u32 j = 0; j < k; ++j) weight += weight_at(t, point * parts * 16 + j, g);
            weights[point][g] = weight;
        }
        __syncthreads();
        const float* own = d_y + first * channels;
#pragma unroll
        for (u32 i = 0; i < 2; ++i) {
            const Slot slot = slot_of(s, blockIdx.y * SLOTS + warp + i * WARPS);
            if (slot.length == 0) break;
            const Matrix matrix = {own + slot.group * s.width() + slot.first, slot.length, rows, 1, channels};
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                const float4 a = ((const float4*)(u + (slot.group - g0) * U_STRIDE))[half * 32 + lane_number()];
                multiply(sum[i], left_of(a.x, a.y, a.z, a.w), matrix.operand(0, 8 * half));
            }
        }
        if (is_bias)
            for (u32 point = 0; point < rows; ++point)
                total += own[(u64)point * channels + bias_channel] * weights[point][bias.group - g0];
    }
#pragma unroll
    for (u32 v = 0; v < 8; ++v) {
        const Slot slot = slot_of(s, blockIdx.y * SLOTS + warp + v / 4 * WARPS);
        const u32 within = 2 * col + v % 2, c = slot.group * s.width() + slot.first + within, inner = c0 + row + v % 4 / 2 * 8;
        if (within < slot.length && inner < channels)
            d_w2[((u64)blockIdx.x * channels + c) * channels + inner] = sum[v / 4][v % 4];
    }
    if (is_bias) d_b2[(u64)blockIdx.x * channels + bias_channel] = total;
}
