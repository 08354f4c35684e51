// Attention weights over the neighbours and the weighted sum of values. The hidden layer h and the sums u are computed
// where they are used and never leave a block. Products run on tensor cores. Bound by compute.
//
// The heavier kernels work on tiles of at most 16 points and 16 parts of 16 pairs, in which every point has whole parts,
// and on tiles of 16 groups or of 16 slots; a slot is up to 8 channels of one group. They go through the channels of h in
// chunks of 16.
#include "fragments.cuh"
#include "pairs.cuh"

#define SOFTMAX_THREADS 128
#define SOFTMAX_PAIRS 128  // pairs of a block: each of four warps takes 32
#define TILES 6            // most tiles of 8 groups at once
#define STEPS 4            // steps of 8 groups held in shared memory at once

#define THREADS 256
#define WARPS (THREADS / 32)
#define POINTS 16
#define PARTS 16
#define PAIRS (PARTS * 16)
#define GROUPS 16  // two tiles of 8
#define SLOTS 16   // two for every warp
#define CHUNK 16   // channels of h at once
#define U_STRIDE 260  // words of u per group
#define D_STRIDE 264  // words of d_u per point

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

// Sizes of the op and of its tiles.
struct Sizes {
    u64 points;                 // N
    u32 k, groups, channels;    // K, G, C
    u32 tile_points, parts;     // points of a tile, parts of 16 pairs per point
    __device__ __forceinline__ u32 width() const { return channels / groups; }
    __device__ __forceinline__ u32 rows(u64 first) const {
        return points - first < tile_points ? (u32)(points - first) : tile_points;
    }
};

// What a block knows of its tile of pairs. Pair j of a point has the place 16 parts point + j; places without a pair have
// weight 0.
struct Tile {
    float4 offset[PAIRS];
    u32 neighbor[PAIRS];
    float weight[PARTS][2][2][64];  // right operands of products over pairs: part, half of it, tile of groups
};

// Where the weight of a place and a group of the tile lies.
__device__ __forceinline__ float& weight_at(Tile& t, u32 place, u32 g) {
    return t.weight[place / 16][place / 8 % 2][g / 8][(g % 8 * 4 + place % 4) * 2 + place / 4 % 2];
}

// Loads neighbours, offsets and the weights of groups g0 to g0 + count of `rows` points from `first` on.
__device__ __forceinline__ void load_tile(Tile& t, const Sizes& s, const Weights& w, const Offsets& offsets, u64 first,
                                          u32 rows, u32 g0, u32 count) {
    const u32 places = s.parts * 16;
    for (u32 at = threadIdx.x; at < PAIRS; at += THREADS) {
        const u32 point = at / places, j = at % places;
        const bool is_pair = point < rows && j < s.k;
        const u64 pair = (first + point) * s.k + j;
        t.neighbor[at] = is_pair ? w.index[pair] : MISSING;
        t.offset[at] = is_pair ? make_float4(offsets.x[pair], offsets.y[pair], offsets.z[pair], 0.0f)
                               : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    for (u32 at = threadIdx.x; at < PAIRS * GROUPS; at += THREADS) {
        const u32 place = at / GROUPS, g = at % GROUPS, point = place / places, j = place % places;
        float weight = 0.0f;
        if (g < count && point < rows && j < s.k) {
            const u64 pair = (first + point) * s.k + j, of = pair * s.groups + g0 + g;
            weight = w.soft[of] * w.factor(pair, of);
        }
        weight_at(t, place, g) = weight;
    }
}

// The sum over a point's pairs of w h for 16 channels from c0 on: d[tile][v] is channel lane_row() + 8 (v / 2) of group
// 8 tile + 2 lane_col() + v % 2. By one warp.
__device__ __forceinline__ void sum_hidden(float (*d)[4], Tile& t, u32 parts, u32 point, u32 count, float4 p, float4 q) {
#pragma unroll
    for (u32 v = 0; v < 8; ++v) d[v / 4][v % 4] = 0.0f;
    for (u32 part = point * parts; part < (point + 1) * parts; ++part)
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            const u32 place = part * 16 + half * 8 + lane_col();
            const float4 a = t.offset[place], b = t.offset[place + 4];
            const Left h = left_of(hidden(p, a.x, a.y, a.z), hidden(q, a.x, a.y, a.z), hidden(p, b.x, b.y, b.z),
                                   hidden(q, b.x, b.y, b.z));
#pragma unroll
            for (u32 tile = 0; tile < 2; ++tile) {
                if (8 * tile >= count) break;
                const float2 w = ((const float2*)t.weight[part][half][tile])[lane_number()];
                multiply(d[tile], h, right_of(w.x, w.y));
            }
        }
}

// A slot: up to 8 channels of one group.
struct Slot {
    u32 group, first, length;  // first: channel within the group
};

__device__ __forceinline__ Slot slot_of(const Sizes& s, u32 number) {
    const u32 per_group = (s.width() + 7) / 8;
    Slot slot = {number / per_group, number % per_group * 8, 0};
    if (slot.group < s.groups) slot.length = min(s.width() - slot.first, 8u);
    return slot;
}

// Groups of the slots of a tile: the first, and how many.
__device__ __forceinline__ void slot_groups(const Sizes& s, u32 first_slot, u32& g0, u32& count) {
    const u32 per_group = (s.width() + 7) / 8, end = min(first_slot + SLOTS, s.groups * per_group);
    g0 = first_slot / per_group;
    count = (end - 1) / per_group - g0 + 1;
}

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

// Through dropout, the mask of missing neighbours and the softmax: d_w becomes d_s. One thread per point and group, in
// strides of the grid. Bound by bandwidth.
extern "C" __global__ void aggregate_backward_softmax(
    const float* __restrict__ soft,  // [N * K, G]
    const u32* __restrict__ index,   // [N * K]
    u64 n,                           // N * G
    u32 k,
    u32 groups,                      // G
    u64 seed,                        // of dropout
    u64 stream,
    float rate,
    float* __restrict__ d            // [N * K, G]
) {
    const Weights w = {soft, index, seed, stream, rate};
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 point;
        u32 g;
        place_of(i, groups, point, g);
        float mean = 0.0f;
        for (u32 j = 0; j < k; ++j) {
            const u64 pair = point * k + j, at = pair * groups + g;
            d[at] *= w.factor(pair, at);
            mean += soft[at] * d[at];
        }
        for (u32 j = 0; j < k; ++j) {
            const u64 at = (point * k + j) * groups + g;
            d[at] = soft[at] * (d[at] - mean);
        }
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
                    operands[at / tiles][at % tiles][lane_number()] = matrix.operand(at % tiles * 8, g0 + at / tiles * 8);
                __syncthreads();
            }
            for (u32 step = 0; step < steps; ++step) {
                float d[4];
#pragma unroll
                for (u32 v = 0; v < 4; ++v) {
                    const u64 pair = first + v % 2 * 8;
                    const u32 g = g0 + 8 * step + col + v / 2 * 4;
                    d[v] = pair < end && g < groups ? d_s[pair * groups + g] : 0.0f;
                }
                const Left a = left_of(d[0], d[1], d[2], d[3]);
#pragma unroll
                for (u32 t = 0; t < TILES; ++t) {
                    if (t >= tiles) break;
                    multiply(sum[t], a, operands[step][t][lane_number()]);
                }
            }
        }
#pragma unroll
        for (u32 i = 0; i < TILES * 4; ++i) {
            const u64 pair = first + i % 4 / 2 * 8;
            const u32 f = f0 + i / 4 * 8 + 2 * col + i % 2;
            if (pair >= end || f >= groups) continue;
            const u64 at = pair * groups + f;
            const float value = e[at], norm = st[f] * value + st[groups + f], d = norm > 0.0f ? sum[i / 4][i % 4] : 0.0f;
            r[at] = rectify(norm);
            if (d_e) d_e[at] += st[f] * d;
            d_scale[i / 4][i % 2] += d * value;
            d_shift[i / 4][i % 2] += d;
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
