// Attention weights from the relation: the second weight-encoding layer and the softmax over the neighbours. Products run
// on tensor cores. Bound by bandwidth.
#include "fragments.cuh"
#include "pairs.cuh"

#define SOFTMAX_THREADS 128
#define SOFTMAX_PAIRS 128  // pairs of a block: each of four warps takes 32
#define TILES 6            // most tiles of 8 groups at once
#define STEPS 4            // steps of 8 groups held in shared memory at once

// s = B max(scale e + shift, 0) + b, and its softmax over the neighbours. A block takes whole points (blockIdx.x), at most
// 128 pairs, and 48 groups (blockIdx.y).
extern "C" __global__ void __launch_bounds__(SOFTMAX_THREADS, 4) aggregate_softmax(
    const float* __restrict__ e,         // [N * K, G]
    const float* __restrict__ st,        // [2, G]: scale, shift; null: 1, 0
    const float* __restrict__ mix,       // [G, G]: B
    const float* __restrict__ constant,  // [G]: b
    u64 points,                          // N
    u32 k,
    u32 groups,                          // G
    u32 tile_points,                     // points of a tile
    float* __restrict__ soft             // [N * K, G]
) {
    __shared__ Right operands[STEPS][TILES][32];
    __shared__ float logits[SOFTMAX_PAIRS][TILES * 8 + 1];
    const u32 g0 = blockIdx.y * TILES * 8, count = min(groups - g0, TILES * 8u), tiles = (count + 7) / 8;
    const u64 start = (u64)blockIdx.x * tile_points;
    const u32 rows = points - start < tile_points ? (u32)(points - start) : tile_points, pairs = rows * k;
    const float* own = e + start * k * groups;
    const u32 first = threadIdx.x / 32 * 32 + lane_row();
    const Matrix matrix = {mix + (u64)g0 * groups, groups - g0, groups, groups, 1};
    float sum[2][TILES][4];
#pragma unroll
    for (u32 i = 0; i < 2 * TILES * 4; ++i) sum[i / (TILES * 4)][i / 4 % TILES][i % 4] = 0.0f;
    for (u32 f0 = 0; f0 < groups; f0 += 8 * STEPS) {
        const u32 steps = (min(groups - f0, 8u * STEPS) + 7) / 8;
        for (u32 at = threadIdx.x / 32; at < steps * tiles; at += SOFTMAX_THREADS / 32)
            operands[at / tiles][at % tiles][lane_number()] = matrix.operand(at % tiles * 8, f0 + at / tiles * 8);
        __syncthreads();
        for (u32 step = 0; step < steps; ++step) {
            float r[8];
#pragma unroll
            for (u32 v = 0; v < 8; ++v) {
                const u32 pair = first + v % 4 * 8, f = f0 + 8 * step + lane_col() + v / 4 * 4;
                float value = 0.0f;
                if (pair < pairs && f < groups) {
                    value = own[(u64)pair * groups + f];
                    value = rectify(st ? st[f] * value + st[groups + f] : value);
                }
                r[v] = value;
            }
            const Left a[2] = {left_of(r[0], r[1], r[4], r[5]), left_of(r[2], r[3], r[6], r[7])};
#pragma unroll
            for (u32 t = 0; t < TILES; ++t) {
                if (t >= tiles) break;
                const Right b = operands[step][t][lane_number()];
                multiply(sum[0][t], a[0], b);
                multiply(sum[1][t], a[1], b);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (u32 i = 0; i < 2 * TILES * 4; ++i) {
        const u32 pair = first + i / (TILES * 4) * 16 + i % 4 / 2 * 8;
        const u32 g = i / 4 % TILES * 8 + 2 * lane_col() + i % 2;
        if (g < count) logits[pair][g] = sum[i / (TILES * 4)][i / 4 % TILES][i % 4] + constant[g0 + g];
    }
    __syncthreads();
    for (u32 at = threadIdx.x; at < rows * count; at += SOFTMAX_THREADS) {
        const u32 g = at % count, begin = at / count * k, end = begin + k;
        float largest = -INFINITY, total = 0.0f;
        for (u32 pair = begin; pair < end; ++pair) largest = fmaxf(largest, logits[pair][g]);
        for (u32 pair = begin; pair < end; ++pair) {
            const float value = expf(logits[pair][g] - largest);
            logits[pair][g] = value;
            total += value;
        }
        const float share = 1.0f / total;
        for (u32 pair = begin; pair < end; ++pair) logits[pair][g] *= share;
    }
    __syncthreads();
    float* out = soft + start * k * groups + g0;
    for (u32 at = threadIdx.x; at < pairs * count; at += SOFTMAX_THREADS)
        out[(u64)(at / count) * groups + at % count] = logits[at / count][at % count];
}

// Through dropout, the mask of missing neighbours and the softmax: d_w becomes d_s. A block takes several points
// (blockIdx.x) and up to 32 groups (blockIdx.y), and copies their numbers to shared memory, where each thread goes through
// the neighbours of its points and groups. Bound by bandwidth.
extern "C" __global__ void __launch_bounds__(256) aggregate_backward_softmax(
    const float* __restrict__ soft,  // [N * K, G]
    const u32* __restrict__ index,   // [N * K]
    u64 points,                      // N
    u32 tile_points,                 // points of a block
    u32 k,
    u32 groups,                      // G
    u32 tile_groups,                 // most groups of a block
    u64 seed,                        // of dropout
    u64 stream,
    float rate,
    float* __restrict__ d            // [N * K, G]
) {
    extern __shared__ float shared[];
    const Weights w = {soft, index, seed, stream, rate};
    const u64 first = (u64)blockIdx.x * tile_points, pair0 = first * k;
    const u32 g0 = blockIdx.y * tile_groups, width = min(groups - g0, tile_groups);
    const u32 count = points - first < tile_points ? (u32)(points - first) : tile_points;
    // One row of groups more per point, so that the points of a warp lie in different banks.
    const u32 pitch = (k + 1) * width;
    float *p = shared, *flow = shared + tile_points * (k + 1) * tile_groups;
    for (u32 i = threadIdx.x; i < count * k * width; i += blockDim.x) {
        const u32 pair = i / width, place = i + pair / k * width;
        const u64 at = (pair0 + pair) * groups + g0 + (i - pair * width);
        p[place] = soft[at];
        flow[place] = d[at] * w.factor(pair0 + pair, at);
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < count * width; i += blockDim.x) {
        const u32 point = i / width, start = point * pitch + (i - point * width);
        float mean = 0.0f;
        for (u32 j = 0; j < k; ++j) mean += p[start + j * width] * flow[start + j * width];
        for (u32 j = 0; j < k; ++j) flow[start + j * width] = p[start + j * width] * (flow[start + j * width] - mean);
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < count * k * width; i += blockDim.x) {
        const u32 pair = i / width;
        d[(pair0 + pair) * groups + g0 + (i - pair * width)] = flow[i + pair / k * width];
    }
}

// Through B, the ReLU and the norm: d_e, and per chunk of pairs (blockIdx.x) the gradients of scale and shift of 48 groups
// (blockIdx.y). Leaves r, what B was multiplied with.
extern "C" __global__ void __launch_bounds__(SOFTMAX_THREADS, 4) aggregate_backward_norm(
    const float* __restrict__ e,    // [N * K, G]
    const float* __restrict__ st,   // [2, G]
    const float* __restrict__ mix,  // [G, G]: B
    const float* __restrict__ d_s,  // [N * K, G]
    u64 pairs,                      // N * K
    u32 groups,                     // G
    u64 chunk_pairs,                // pairs of a chunk
    float* __restrict__ d_e,        // [N * K, G], or null
    float* __restrict__ r,          // [N * K, G]
    float* __restrict__ d_st        // [chunks, 2, G]
) {
    __shared__ Right operands[STEPS][TILES][32];
    __shared__ float sums[SOFTMAX_THREADS / 32][2][TILES * 8];
    const u32 f0 = blockIdx.y * TILES * 8, count = min(groups - f0, TILES * 8u), tiles = (count + 7) / 8;
    const u32 row = lane_row(), col = lane_col(), warp = threadIdx.x / 32;
    const Matrix matrix = {mix + f0, groups - f0, groups, 1, groups};
    const u64 start = (u64)blockIdx.x * chunk_pairs;
    const u64 end = start + chunk_pairs < pairs ? start + chunk_pairs : pairs;
    float d_scale[TILES][2], d_shift[TILES][2];
#pragma unroll
    for (u32 i = 0; i < 2 * TILES; ++i) d_scale[i / 2][i % 2] = d_shift[i / 2][i % 2] = 0.0f;
    for (u64 tile = start; tile < end; tile += SOFTMAX_PAIRS / 2) {
        const u64 first = tile + warp * 16 + row;
        float sum[TILES][4];
#pragma unroll
        for (u32 i = 0; i < TILES * 4; ++i) sum[i / 4][i % 4] = 0.0f;
        for (u32 g0 = 0; g0 < groups; g0 += 8 * STEPS) {
            const u32 steps = (min(groups - g0, 8u * STEPS) + 7) / 8;
            if (tile == start || groups > 8 * STEPS) {
                __syncthreads();
                for (u32 at = warp; at < steps * tiles; at += SOFTMAX_THREADS / 32)
                    operands[at / tiles][at % tiles][lane_number()] = matrix.paired(at % tiles * 8, g0 + at / tiles * 8);
                __syncthreads();
            }
            for (u32 step = 0; step < steps; ++step) {
                // Groups 2 col and 2 col + 1 are numbers col and col + 4 of the inner index, as B has them.
                const u32 g = g0 + 8 * step + 2 * col;
                float2 d[2];
#pragma unroll
                for (u32 v = 0; v < 2; ++v) {
                    const u64 pair = first + v * 8;
                    d[v] = pair < end && g < groups ? load_pair(d_s, pair * groups + g, g, groups) : make_float2(0.0f, 0.0f);
                }
                const Left a = left_of(d[0].x, d[1].x, d[0].y, d[1].y);
#pragma unroll
                for (u32 t = 0; t < TILES; ++t) {
                    if (t >= tiles) break;
                    multiply(sum[t], a, operands[step][t][lane_number()]);
                }
            }
        }
#pragma unroll
        for (u32 i = 0; i < TILES * 2; ++i) {
            const u64 pair = first + i % 2 * 8;
            const u32 t = i / 2, f = f0 + t * 8 + 2 * col;
            if (pair >= end || f >= groups) continue;
            const u64 at = pair * groups + f;
            const float2 value = load_pair(e, at, f, groups), scale = load_pair(st, f, f, groups),
                         shift = load_pair(st, groups + f, f, groups);
            const float2 norm = make_float2(scale.x * value.x + shift.x, scale.y * value.y + shift.y);
            const float2 d = make_float2(norm.x > 0.0f ? sum[t][i % 2 * 2] : 0.0f,
                                         norm.y > 0.0f ? sum[t][i % 2 * 2 + 1] : 0.0f);
            store_pair(r, at, f, groups, make_float2(rectify(norm.x), rectify(norm.y)));
            if (d_e) {
                const float2 before = load_pair(d_e, at, f, groups);
                store_pair(d_e, at, f, groups, make_float2(before.x + scale.x * d.x, before.y + scale.y * d.y));
            }
            d_scale[t][0] += d.x * value.x;
            d_scale[t][1] += d.y * value.y;
            d_shift[t][0] += d.x;
            d_shift[t][1] += d.y;
        }
    }
#pragma unroll
    for (u32 i = 0; i < 2 * TILES; ++i) {
        float scale = d_scale[i / 2][i % 2], shift = d_shift[i / 2][i % 2];
#pragma unroll
        for (u32 step = 4; step < 32; step *= 2) {
            scale += __shfl_xor_sync(0xFFFFFFFFu, scale, step);
            shift += __shfl_xor_sync(0xFFFFFFFFu, shift, step);
        }
        if (row != 0) continue;
        sums[warp][0][i / 2 * 8 + 2 * col + i % 2] = scale;
        sums[warp][1][i / 2 * 8 + 2 * col + i % 2] = shift;
    }
    __syncthreads();
    if (threadIdx.x >= count) return;
    for (u32 i = 0; i < 2; ++i) {
        float total = 0.0f;
        for (u32 w = 0; w < SOFTMAX_THREADS / 32; ++w) total += sums[w][i][threadIdx.x];
        d_st[((u64)blockIdx.x * 2 + i) * groups + f0 + threadIdx.x] = total;
    }
}
