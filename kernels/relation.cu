// The relation of grouped vector attention. The hidden layer h is computed in registers where it is multiplied and never
// stored. Products run on tensor cores. Bound by compute: G + 4 multiply-adds per pair and channel.
#include "fragments.cuh"
#include "pairs.cuh"

#define THREADS 128
#define PAIRS 128  // of a block in forward: each of four warps takes 32
#define TILES 6    // most tiles of 8 groups at once
#define CHUNK 32   // channels of M held in shared memory at once

// e = Ak_j - Aq_i + M h + c0. A block takes 128 pairs (blockIdx.x) and 48 groups (blockIdx.y).
extern "C" __global__ void __launch_bounds__(THREADS, 4) relation_forward(
    const float* __restrict__ keys,      // [M, G]
    const float* __restrict__ queries,   // [N, G]
    const float* __restrict__ position,  // [C, 4]
    const float* __restrict__ m,         // [G, C]
    const float* __restrict__ constant,  // [G]
    const u32* __restrict__ index,       // [N * K], rows of keys
    const float* __restrict__ x,         // [N * K], offsets
    const float* __restrict__ y,
    const float* __restrict__ z,
    u64 pairs,                           // N * K
    u32 k,
    u32 groups,                          // G
    u32 channels,                        // C, 0 without a position bias
    float* __restrict__ e                // [N * K, G]
) {
    __shared__ Right operands[CHUNK / 8][TILES][32];
    const u32 g0 = blockIdx.y * TILES * 8, tiles = (min(groups - g0, TILES * 8u) + 7) / 8;
    const u64 first = (u64)blockIdx.x * PAIRS + threadIdx.x / 32 * 32 + lane_row();
    const Matrix matrix = {m + (u64)g0 * channels, groups - g0, channels, channels, 1};
    float dx[4], dy[4], dz[4], sum[2][TILES][4];
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
        const u64 pair = first + 8 * i;
        dx[i] = pair < pairs ? x[pair] : 0.0f;
        dy[i] = pair < pairs ? y[pair] : 0.0f;
        dz[i] = pair < pairs ? z[pair] : 0.0f;
    }
#pragma unroll
    for (u32 i = 0; i < 2 * TILES * 4; ++i) sum[i / (TILES * 4)][i / 4 % TILES][i % 4] = 0.0f;
    for (u32 c0 = 0; c0 < channels; c0 += CHUNK) {
        const u32 steps = (min(channels - c0, (u32)CHUNK) + 7) / 8;
        for (u32 at = threadIdx.x / 32; at < steps * tiles; at += THREADS / 32)
            operands[at / tiles][at % tiles][lane_number()] = matrix.operand(at % tiles * 8, c0 + at / tiles * 8);
        __syncthreads();
        for (u32 step = 0; step < steps; ++step) {
            const u32 c = c0 + 8 * step + lane_col();
            const float4 p = position_row(position, c, channels), q = position_row(position, c + 4, channels);
            Left h[2];
#pragma unroll
            for (u32 i = 0; i < 2; ++i)
                h[i] = left_of(hidden(p, dx[2 * i], dy[2 * i], dz[2 * i]),
                               hidden(p, dx[2 * i + 1], dy[2 * i + 1], dz[2 * i + 1]),
                               hidden(q, dx[2 * i], dy[2 * i], dz[2 * i]),
                               hidden(q, dx[2 * i + 1], dy[2 * i + 1], dz[2 * i + 1]));
#pragma unroll
            for (u32 t = 0; t < TILES; ++t) {
                if (t >= tiles) break;
                const Right b = operands[step][t][lane_number()];
                multiply(sum[0][t], h[0], b);
                multiply(sum[1][t], h[1], b);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
        const u64 pair = first + 8 * i;
        if (pair >= pairs) continue;
        const u32 neighbor = index[pair];
        const u64 key = (u64)neighbor * groups, query = pair / k * groups;
#pragma unroll
        for (u32 t = 0; t < TILES; ++t)
#pragma unroll
            for (u32 v = 0; v < 2; ++v) {
                const u32 g = g0 + 8 * t + 2 * lane_col() + v;
                if (g >= groups) continue;
                const float shift = constant[g] - queries[query + g] + (neighbor == MISSING ? 0.0f : keys[key + g]);
                e[pair * groups + g] = sum[i / 2][t][i % 2 * 2 + v] + shift;
            }
    }
}

// d_Aq -= sum over the pairs of a point. A block takes several points, whose numbers lie side by side: it copies them to
// shared memory, where each thread adds up those of its points and groups. Without it, for numbers that do not fit there,
// the threads read them themselves.
extern "C" __global__ void __launch_bounds__(256) relation_backward_queries(
    const float* __restrict__ d_e,  // [N, K, G]
    u64 n,                          // N
    u32 points,                     // of a block
    u32 k,
    u32 groups,                     // G
    u32 is_shared,                  // whether points (K + 1) G numbers fit into shared memory
    float* __restrict__ d_queries   // [N, G]
) {
    extern __shared__ float tile[];
    const u64 first = (u64)blockIdx.x * points;
    const u32 count = n - first < points ? (u32)(n - first) : points, words = k * groups;
    const float* numbers = d_e + first * words;
    u32 pitch = words;
    if (is_shared) {
        // One row of groups more per point, so that the points of a warp lie in different banks.
        pitch += groups;
        for (u32 i = threadIdx.x; i < count * words; i += blockDim.x) {
            const u32 point = i / words;
            tile[i + point * groups] = numbers[i];
        }
        __syncthreads();
        numbers = tile;
    }
    for (u32 i = threadIdx.x; i < count * groups; i += blockDim.x) {
        const u32 point = i / groups;
        const float* own = numbers + point * pitch + (i - point * groups);
        float sum = 0.0f;
        for (u32 j = 0; j < k; ++j) sum += own[j * groups];
        d_queries[first * groups + i] -= sum;
    }
}

// The gradients of P and of M from a chunk of pairs (blockIdx.x) through 48 groups (blockIdx.z). Each of four warps takes
// 16 channels of the block's 64 (blockIdx.y) and goes through the pairs by eights: d_M = d_e^T h, d_h = d_e M.
extern "C" __global__ void __launch_bounds__(THREADS) relation_backward_bias(
    const float* __restrict__ position,   // [C, 4]
    const float* __restrict__ m,          // [G, C]
    const float* __restrict__ x,          // [N * K], offsets
    const float* __restrict__ y,
    const float* __restrict__ z,
    const float* __restrict__ d_e,        // [N * K, G]
    u64 pairs,                            // N * K
    u32 groups,                           // G
    u32 channels,                         // C
    u64 chunk_pairs,                      // pairs of a chunk
    float* __restrict__ d_position,       // [chunks, tiles of groups, C, 4]
    float* __restrict__ d_m               // [chunks, G, C]
) {
    const u32 g0 = blockIdx.z * TILES * 8, tiles = (min(groups - g0, TILES * 8u) + 7) / 8;
    const u32 row = lane_row(), col = lane_col(), c = blockIdx.y * 64 + threadIdx.x / 32 * 16 + row;
    if (c - row >= channels) return;
    const u64 start = (u64)blockIdx.x * chunk_pairs;
    const u64 end = start + chunk_pairs < pairs ? start + chunk_pairs : pairs;
    const float4 p[2] = {position_row(position, c, channels), position_row(position, c + 8, channels)};
    Left weight[TILES];
    float sum[TILES][4], slope[2][4];
#pragma unroll
    for (u32 t = 0; t < TILES; ++t) {
        float w[4];
#pragma unroll
        for (u32 v = 0; v < 4; ++v) {
            const u32 g = g0 + 8 * t + col + v / 2 * 4, of = c + v % 2 * 8;
            w[v] = g < groups && of < channels ? m[(u64)g * channels + of] : 0.0f;
            sum[t][v] = 0.0f;
        }
        weight[t] = left_of(w[0], w[1], w[2], w[3]);
    }
#pragma unroll
    for (u32 i = 0; i < 8; ++i) slope[i / 4][i % 4] = 0.0f;
    for (u64 first = start; first < end; first += 8) {
        const u32 count = end - first < 8 ? (u32)(end - first) : 8;
        // Pairs 2 col and 2 col + 1 are numbers col and col + 4 of the inner index, so that d_h and h lie alike.
        float dx[2], dy[2], dz[2], h[4], d_h[4];
#pragma unroll
        for (u32 v = 0; v < 2; ++v) {
            const bool is_pair = 2 * col + v < count;
            const u64 pair = first + 2 * col + v;
            dx[v] = is_pair ? x[pair] : 0.0f;
            dy[v] = is_pair ? y[pair] : 0.0f;
            dz[v] = is_pair ? z[pair] : 0.0f;
        }
#pragma unroll
        for (u32 v = 0; v < 4; ++v) {
            h[v] = hidden(p[v % 2], dx[v / 2], dy[v / 2], dz[v / 2]);
            d_h[v] = 0.0f;
        }
        const Left a = left_of(h[0], h[1], h[2], h[3]);
        const float* tile = d_e + first * groups + g0;
        const Matrix by_pair = {tile, groups - g0, count, 1, groups}, by_group = {tile, count, groups - g0, groups, 1};
#pragma unroll
        for (u32 t = 0; t < TILES; ++t) {
            if (t >= tiles) break;
            const Right b = right_of(by_pair.at(8 * t + row, 2 * col), by_pair.at(8 * t + row, 2 * col + 1));
            multiply(sum[t], a, b);
            multiply(d_h, weight[t], by_group.operand(0, 8 * t));
        }
#pragma unroll
        for (u32 v = 0; v < 4; ++v) {
            const float d = h[v / 2 + v % 2 * 2] > 0.0f ? d_h[v] : 0.0f;
            slope[v / 2][0] += d * dx[v % 2];
            slope[v / 2][1] += d * dy[v % 2];
            slope[v / 2][2] += d * dz[v % 2];
            slope[v / 2][3] += d;
        }
    }
#pragma unroll
    for (u32 i = 0; i < 8; ++i) {
        float total = slope[i / 4][i % 4];
        total += __shfl_xor_sync(0xFFFFFFFFu, total, 1);
        total += __shfl_xor_sync(0xFFFFFFFFu, total, 2);
        const u64 of = ((u64)blockIdx.x * gridDim.z + blockIdx.z) * channels + c + i / 4 * 8;
        if (col == 0 && c + i / 4 * 8 < channels) d_position[of * 4 + i % 4] = total;
    }
#pragma unroll
    for (u32 t = 0; t < TILES; ++t)
#pragma unroll
        for (u32 v = 0; v < 4; ++v) {
            const u32 g = g0 + 8 * t + 2 * col + v % 2, of = c + v / 2 * 8;
            if (g < groups && of < channels) d_m[((u64)blockIdx.x * groups + g) * channels + of] = sum[t][v];
        }
}
