// Searches in a tree of boxes (tree.cu), by one warp per query: its lanes test the 32 children of a node or the 32 points
// of a block at once, and hold the best so far, sorted, between them. Children are visited nearest first, and only while
// their box may hold a better point. Distances are direct differences without fused operations, as on the CPU; a box's gap
// is computed like a distance and never larger than that of a point inside.
#pragma once
#include "tree.cuh"

#define SEARCH_WARPS 8
// Levels of 32 children over 2^27 blocks.
#define SEARCH_LEVELS 6

__device__ __forceinline__ float squared_length(float x, float y, float z) {
    return __fadd_rn(__fadd_rn(__fmul_rn(x, x), __fmul_rn(y, y)), __fmul_rn(z, z));
}

// How far q lies outside of low .. high.
__device__ __forceinline__ float gap_along(float q, float low, float high) {
    return fmaxf(fmaxf(__fsub_rn(low, q), __fsub_rn(q, high)), 0.0f);
}

// Smallest of the values of a warp, known to all its lanes.
__device__ __forceinline__ float warp_min(float x) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) x = fminf(x, __shfl_xor_sync(0xFFFFFFFFu, x, step));
    return x;
}

// The best so far: 32 REGS keys in ascending order, key r * 32 + lane in register r.
template <int REGS>
struct Best {
    u64 keys[REGS];
    u64 worst;  // the last of them

    // Room for k keys that are less than `none`; what is more is taken by keys that are better than any.
    __device__ __forceinline__ void clear(u32 k, u64 none) {
#pragma unroll
        for (int r = 0; r < REGS; ++r) keys[r] = r * 32 + lane_number() < 32 * REGS - k ? 0ull : none;
        worst = none;
    }

    __device__ __forceinline__ void insert(u64 key) {
#pragma unroll
        for (int r = REGS - 1; r >= 0; --r) {
            u64 below = __shfl_up_sync(0xFFFFFFFFu, keys[r], 1);
            const u64 carried = r > 0 ? __shfl_sync(0xFFFFFFFFu, keys[r > 0 ? r - 1 : 0], 31) : 0ull;
            if (lane_number() == 0) below = carried;
            if (key < keys[r]) keys[r] = key < below ? below : key;
        }
        worst = __shfl_sync(0xFFFFFFFFu, keys[REGS - 1], 31);
    }

    // Inserts the keys of all lanes that are good enough.
    __device__ __forceinline__ void take(u64 key) {
        u32 hits = __ballot_sync(0xFFFFFFFFu, key < worst);
        while (hits) {
            const u64 next = __shfl_sync(0xFFFFFFFFu, key, __ffs(hits) - 1);
            hits &= hits - 1;
            if (next < worst) insert(next);
        }
    }
};

// Size of one level of the tree, and where its boxes are.
struct Level {
    const float* boxes;
    u32 count;
};
__device__ __forceinline__ Level level_of(const float* boxes, u32 blocks, u32 level) {
    Level l = {boxes, blocks};
    for (u32 i = 0; i < level; ++i) {
        l.boxes += 7ull * l.count;
        l.count = (l.count + 31) / 32;
    }
    return l;
}

// Finds the neighbours of q among the blocks first .. end: the nearest, whose keys are the squared distance and the row, or
// by row, whose keys are the row alone, those within the squared distance `reach`. `gaps` is 32 floats per level for this
// warp alone, of which a lane touches its own only.
template <int REGS, bool BY_ROW>
__device__ __forceinline__ void search(const float4* points, const float* boxes, u32 blocks, u32 levels, u32 first,
                                       u32 end, float4 q, float reach, float* gaps, Best<REGS>& best) {
    const u32 lane = lane_number();
    u32 level = levels - 1, node = 0;
    bool is_new = true;
    for (;;) {
        const Level l = level_of(boxes, blocks, level);
        float* mine = gaps + 32 * level + lane;
        if (is_new) {
            const u32 child = node * 32 + lane;
            const u64 covers = (u64)child << (5 * level), width = 1ull << (5 * level);
            float gap = INFINITY;
            if (child < l.count && covers < end && covers + width > first) {
                const Box box = load_box(l.boxes, l.count, child);
                gap = squared_length(gap_along(q.x, box.low[0], box.high[0]), gap_along(q.y, box.low[1], box.high[1]),
                                     gap_along(q.z, box.low[2], box.high[2]));
            }
            *mine = gap;
            is_new = false;
        }
        const float gap = *mine;
        const float least = warp_min(gap);
        const float limit = BY_ROW ? reach : __uint_as_float((u32)(best.worst >> 32));
        if (!(least <= limit)) {
            // Nothing near is left here.
            if (level + 1 == levels) return;
            ++level;
            node /= 32;
            continue;
        }
        const u32 chosen = __ffs(__ballot_sync(0xFFFFFFFFu, gap == least)) - 1;
        if (lane == chosen) *mine = INFINITY;
        const u32 child = node * 32 + chosen;
        // Where distance does not decide, the lowest row inside may.
        if ((BY_ROW || least == limit) && __float_as_uint(l.boxes[6ull * l.count + child]) >= (u32)best.worst) continue;
        if (level > 0) {
            --level;
            node = child;
            is_new = true;
            continue;
        }
        const float4 p = points[(u64)child * 32 + lane];
        const float squared = squared_length(__fsub_rn(p.x, q.x), __fsub_rn(p.y, q.y), __fsub_rn(p.z, q.z));
        const u32 row = __float_as_uint(p.w);
        if (BY_ROW) best.take(squared <= reach ? row : MISSING);
        else best.take((u64)__float_as_uint(squared) << 32 | row);
    }
}

// Where a query's neighbours are looked for: the tree of points, and the tree that holds the queries.
struct Trees {
    const float4* points;
    const float* boxes;
    const u32* first_blocks;
    u32 blocks, levels;
    const float4* queries;
    const u32* query_blocks;
    u32 elements;
};

// Searches for the query in place `place` of its tree; false when no query is there.
template <int REGS, bool BY_ROW>
__device__ __forceinline__ bool search_for(const Trees& t, u64 place, float reach, float4& q, Best<REGS>& best) {
    __shared__ float gaps[SEARCH_WARPS][SEARCH_LEVELS * 32];
    q = t.queries[place];
    if (__float_as_uint(q.w) == MISSING) return false;  // an unused place of the last block of an element
    const u32 element = element_of(t.query_blocks, t.elements, (u32)(place / 32));
    const u32 first = t.first_blocks[element], end = t.first_blocks[element + 1];
    if (first < end)
        search<REGS, BY_ROW>(t.points, t.boxes, t.blocks, t.levels, first, end, q, reach, gaps[threadIdx.x >> 5], best);
    return true;
}

// Writes where the neighbours are, [N, K] each, in the order of the queries' rows: keys from `none` on are missing.
template <int REGS>
__device__ __forceinline__ void store_neighbors(const Best<REGS>& best, u64 none, u32 k, float4 q, const float* coord,
                                                u32* index, float* squared, float* x, float* y, float* z) {
    const u32 skipped = 32 * REGS - k;
#pragma unroll
    for (int r = 0; r < REGS; ++r) {
        const u32 slot = r * 32 + lane_number();
        if (slot < skipped) continue;
        const u64 at = (u64)__float_as_uint(q.w) * k + (slot - skipped);
        const bool exists = best.keys[r] < none;
        const u32 found = exists ? (u32)best.keys[r] : MISSING;
        index[at] = found;
        if (squared) squared[at] = __uint_as_float((u32)(best.keys[r] >> 32));
        if (!x) continue;
        const float* p = coord + 3 * (u64)found;
        x[at] = exists ? __fsub_rn(p[0], q.x) : 0.0f;
        y[at] = exists ? __fsub_rn(p[1], q.y) : 0.0f;
        z[at] = exists ? __fsub_rn(p[2], q.z) : 0.0f;
    }
}

// The k best points for the query of this warp: the nearest ones, or BY_ROW the first ones whose squared distance is at
// most `reach`. Keys from `none` on are not found.
template <int REGS, bool BY_ROW>
__device__ __forceinline__ void neighbors_of(const Trees& trees, const float* coord, u32 places, u32 k, float reach,
                                             u64 none, u32* index, float* squared, float* x, float* y, float* z) {
    const u64 place = warp_number();
    if (place >= places) return;
    Best<REGS> best;
    best.clear(k, none);
    float4 q;
    if (search_for<REGS, BY_ROW>(trees, place, reach, q, best))
        store_neighbors(best, none, k, q, coord, index, squared, x, y, z);
}
