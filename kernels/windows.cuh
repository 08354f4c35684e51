// What the kernels of window attention share: bins of offsets, packed position tables, rows in shared memory.
//
// Heads are worked on in chunks of D channels, zero behind the end of the head: one chunk of 16 for narrow heads, as many
// of 32 as it takes for wide ones.
#pragma once
#include "common.cuh"

#define WINDOW_THREADS 256
#define WINDOW_WARPS 8
#define WINDOW_BATCH 32  // rows that the lanes of every warp hold, one each
#define WINDOW_TILE 16   // rows that are spread over the warps, two each
#define NEVER (-1e30f)   // score of a pair that is none

// Words between rows in shared memory: a multiple of 4 whose quarter is odd, so that four words of eight rows lie in
// different banks.
template <int D>
struct Stride {
    static constexpr u32 ROW = D + 4;
    static constexpr u32 ENTRY = 3 * D + 4;  // a row of Tq, of Tk, of Tv
};

// How offsets become bins; see geometry/windows/quantization.rs.
struct Quantization {
    float reach;  // largest offset, metres; in cells the bin of offset 0
    float step;   // edge of a bin, metres
    u32 in_cells;
    u32 rows;     // rows of a table
};

// a / b, rounded as a division is (Markstein), with 1 / b given.
__device__ __forceinline__ float quotient(float a, float b, float inverse) {
    float q = __fmul_rn(a, inverse);
    q = fmaf(fmaf(-q, b, a), inverse, q);
    return fmaf(fmaf(-q, b, a), inverse, q);
}

__device__ __forceinline__ u32 bin_of(const Quantization& z, float offset) {
    float bin;
    if (z.in_cells) {
        bin = offset + z.reach;
    } else {
        const float r = quotient(rintf(__fmul_rn(offset, 100000.0f)), 100000.0f, 1.0f / 100000.0f);
        bin = quotient(__fsub_rn(__fadd_rn(r, z.reach), 1e-4f), z.step, 1.0f / z.step);
    }
    return (u32)fminf(fmaxf(bin, 0.0f), (float)(z.rows - 1));
}

struct Place {
    float x, y, z;
};

// Where the entries of a pair begin in one chunk of the tables.
struct Entries {
    u32 x, y, z;
};

template <int D>
__device__ __forceinline__ Entries entries_of(const Quantization& z, const Place& query, const Place& key) {
    const u32 x = bin_of(z, query.x - key.x), y = bin_of(z, query.y - key.y), w = bin_of(z, query.z - key.z);
    return {x * Stride<D>::ENTRY, (z.rows + y) * Stride<D>::ENTRY, (2 * z.rows + w) * Stride<D>::ENTRY};
}

// Sum of four words of the entries of a pair, from word `at` of the entries on.
__device__ __forceinline__ float4 entry_sum(const float* tables, const Entries& e, u32 at) {
    const float4 x = *(const float4*)(tables + e.x + at), y = *(const float4*)(tables + e.y + at),
                 z = *(const float4*)(tables + e.z + at);
    return make_float4(x.x + y.x + z.x, x.y + y.y + z.y, x.z + y.z + z.z, x.w + y.w + z.w);
}

__device__ __forceinline__ float4 plus(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// sum + a b
__device__ __forceinline__ float dot(float4 a, float4 b, float sum) {
    return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
}

// sum + factor a, for four words
__device__ __forceinline__ void add_scaled(float* sum, float factor, float4 a) {
    sum[0] = fmaf(factor, a.x, sum[0]);
    sum[1] = fmaf(factor, a.y, sum[1]);
    sum[2] = fmaf(factor, a.z, sum[2]);
    sum[3] = fmaf(factor, a.w, sum[3]);
}

// Sums of D values over the lanes of a warp: lane l gets the sum of value l / (32 / D). The order is fixed. A call per
// halving, not a loop: the values stay in registers only where the compiler knows their places.
template <int D, int HALF = D / 2>
__device__ __forceinline__ float scatter_sum(float* x) {
    if constexpr (HALF > 0) {
        constexpr int STEP = 32 * HALF / D;
        const bool upper = lane_number() & STEP;
#pragma unroll
        for (int i = 0; i < HALF; ++i) {
            const float low = x[i], high = x[i + HALF];
            x[i] = (upper ? high : low) + __shfl_xor_sync(0xFFFFFFFFu, upper ? low : high, STEP);
        }
        return scatter_sum<D, HALF / 2>(x);
    }
#pragma unroll
    for (int step = 16 / D; step > 0; step /= 2) x[0] += __shfl_xor_sync(0xFFFFFFFFu, x[0], step);
    return x[0];
}

// The channels of a head at hand.
struct Head {
    u32 channels;  // C
    u32 heads;     // H
    u32 width;     // d = C / H
    u32 chunks;    // chunks of the head
    u32 head;      // which head
    u32 own;       // which chunk of it this block computes

    // what q is multiplied by
    __device__ __forceinline__ float scale() const { return 1.0f / sqrtf((float)width); }
    __device__ __forceinline__ u32 first(u32 chunk, u32 d) const { return head * width + chunk * d; }
    __device__ __forceinline__ u32 count(u32 chunk, u32 d) const { return min(width - chunk * d, d); }
};

template <int D>
__device__ __forceinline__ Head head_of(u32 channels, u32 heads) {
    const u32 width = channels / heads, chunks = (width + D - 1) / D;
    return {channels, heads, width, chunks, blockIdx.y / chunks, blockIdx.y % chunks};
}

// out[r] = factor * the chunk of row rows[r] of `source` for r < capacity, all 0 where there is no such row. `part` is
// 0, 1, 2 for q, k, v of qkv.
template <int D>
__device__ __forceinline__ void load_rows(const float* source, u64 stride, const Head& h, u32 chunk, u32 part,
                                          const u32* rows, u32 capacity, float factor, float* out) {
    const u32 first = part * h.channels + h.first(chunk, D), count = h.count(chunk, D);
    for (u32 i = threadIdx.x; i < capacity * D; i += WINDOW_THREADS) {
        const u32 r = i / D, c = i % D, row = rows[r];
        out[r * Stride<D>::ROW + c] = row != MISSING && c < count ? factor * source[row * stride + first + c] : 0.0f;
    }
}

// Lists of the windows; see geometry/windows/tiles.rs.
struct Lists {
    const u32* order;
    const float *x, *y, *z;
    const u32 *groups, *tiles;
    const u32 *sampled_offsets, *sampled;
    u32 tile_count;
    u64 points;
};

// Copies the packed tables of a head to shared memory.
__device__ __forceinline__ void load_tables(const float* packed, u32 words, float* out) {
    for (u32 i = 4 * threadIdx.x; i < words; i += 4 * WINDOW_THREADS) *(float4*)(out + i) = *(const float4*)(packed + i);
}

// What the softmax of a query was, and its flow.
struct Softmax {
    float largest, inverse, flow;
};

__device__ __forceinline__ Softmax softmax_of(const float* saved, const float* flow, const Head& h, u64 points, u32 position) {
    const u64 at = h.head * points + position;
    return {saved[at], saved[h.heads * points + at], flow[at]};
}
