// Tiles of points and their pairs: what the kernels of the weighted sum share.
//
// A tile has at most 16 points and 16 parts of 16 pairs, and every point whole parts of its own. With it go 16 groups, or
// 16 slots; a slot is up to 8 channels of one group. The channels of h are gone through in chunks of 16.
#pragma once
#include "fragments.cuh"
#include "pairs.cuh"

#define THREADS 256
#define WARPS (THREADS / 32)
#define POINTS 16
#define PARTS 16
#define PAIRS (PARTS * 16)
#define GROUPS 16     // two tiles of 8
#define SLOTS 16      // two for every warp
#define CHUNK 16      // channels of h at once
#define U_STRIDE 260  // words of u per group
#define D_STRIDE 264  // words of d_u per point

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
