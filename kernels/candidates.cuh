// The candidates of a round of farthest point sampling (farthest_point.cu), and how the next samples are picked from them.
#pragma once
#include "search.cuh"
#include "triples.cuh"

#define GROUPS 4              // of 32 candidates that a round may have, words of a uint4
#define CANDIDATES (32 * GROUPS)
#define WANTED 96             // candidates that a round should have
#define TAKEN 0x80000000u     // beside the bits of the squared distance of a candidate that is picked

typedef u64 Key;  // bits of a squared distance, which are ordered as distances are, and below them the complement of the tie
#define FIRST_STEP (1ull << 52)  // an eighth to a quarter of a distance
#define LARGEST_STEP (1ull << 60)
#define LOWEST (1ull << 32)      // of all points but samples

__device__ __forceinline__ Key key_of(u32 squared, u32 tie) { return (u64)squared << 32 | ~tie; }
__device__ __forceinline__ u32 squared_of(Key key) { return (u32)(key >> 32); }
__device__ __forceinline__ Key lower(Key key, u64 step) { return key > step + LOWEST ? key - step : LOWEST; }

__device__ __forceinline__ u32 warp_highest(u32 x) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    return __reduce_max_sync(0xFFFFFFFFu, x);
#else
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) x = max(x, __shfl_xor_sync(0xFFFFFFFFu, x, step));
    return x;
#endif
}

// How equally far points are ordered: as the threads of the reference's kernel meet them. Thread t of T looks at the points
// t, t + T, ... of an element, and the lowest thread wins.
struct Ties {
    u32 bits;  // T = 2^bits
    u32 each;  // points per thread, rounded up

    __device__ __forceinline__ u32 of(u32 number) const {
        return (number & ((1u << bits) - 1u)) * each + (number >> bits);
    }
    __device__ __forceinline__ u32 number(u32 tie) const { return (tie % each << bits) + tie / each; }
};

// The points of one element.
struct Element {
    const float4* points;  // blocks of 32
    u32 first, end;        // blocks
    u32 start;             // row of the first point
    u32 width;             // blocks of a bucket
    Ties ties;
};

// What the warps of a block share in a round.
struct Round {
    float4 places[CANDIDATES];   // of the candidates, and the bits of their ties
    u32 squared[2][CANDIDATES];  // their distances, as they are and as they will be; 0 when out of the round
    float4 picks[CANDIDATES];    // places and ties of the next samples
    Key from, top;               // where too many candidates are found
    u32 found;                   // candidates, and those that had no room
    u32 listed;                  // buckets
    u32 most;                    // bits of the largest distance where no candidate is found
};

__device__ __forceinline__ u32 bits_between(const float4& p, const float4& q) {
    return __float_as_uint(squared_length(__fsub_rn(p.x, q.x), __fsub_rn(p.y, q.y), __fsub_rn(p.z, q.z)));
}

// The candidates that a lane compares with others: lane, lane + 32, ...
struct Others {
    float4 places[GROUPS];
    u32 squared[GROUPS];

    __device__ __forceinline__ void load_places(const Round& round, u32 found) {
#pragma unroll
        for (u32 g = 0; g < GROUPS; ++g) {
            places[g] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (32 * g + lane_number() < found) places[g] = round.places[32 * g + lane_number()];
        }
    }
    __device__ __forceinline__ void load_squared(const u32* from, u32 found) {
#pragma unroll
        for (u32 g = 0; g < GROUPS; ++g) {
            squared[g] = 0;
            if (32 * g + lane_number() < found) squared[g] = from[32 * g + lane_number()];
        }
    }
    // Whether this lane's candidate of group g comes before the one of key `key`.
    __device__ __forceinline__ bool is_before(u32 g, Key key) const {
        return key_of(squared[g], __float_as_uint(places[g].w)) > key;
    }
    // How many come before the candidate of key `key`.
    __device__ __forceinline__ u32 before(Key key) const {
        u32 count = 0;
#pragma unroll
        for (u32 g = 0; g < GROUPS; ++g) count += __popc(__ballot_sync(0xFFFFFFFFu, is_before(g, key)));
        return count;
    }
};

// Whether a candidate is neither taken nor out of the round.
__device__ __forceinline__ bool is_open(u32 squared) { return squared - 1u < TAKEN - 1u; }

// What becomes of an open candidate, by one warp: it is taken, lowered, left as it is, or out of the round.
__device__ __forceinline__ u32 settled(const Others& others, const float4& place, u32 squared, Key from) {
    const u32 tie = __float_as_uint(place.w);
    const Key key = key_of(squared, tie);
    u32 least = squared;
    bool is_blocked = false;
#pragma unroll
    for (u32 g = 0; g < GROUPS; ++g) {
        const u32 between = bits_between(others.places[g], place);
        if (between < squared) {
            const u32 other = others.squared[g];
            if (key_of(other & ~TAKEN, __float_as_uint(others.places[g].w)) <= key) continue;
            if (other & TAKEN) least = min(least, between);
            else is_blocked = true;
        }
    }
    least = ~warp_highest(~least);
    if (least < squared) return key_of(least, tie) >= from ? least : 0u;
    return __any_sync(0xFFFFFFFFu, is_blocked) ? squared : squared | TAKEN;
}

// Picks the candidates that are the next samples, at most `room`: how many. By all threads, with barriers.
__device__ __forceinline__ u32 pick(Round& round, u32 found, Key from, const Element& e, u32 room, u32* rows) {
    const u32 warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    Others others;
    others.load_places(round, found);
    u32 half = 0;
    bool is_any_open;
    do {
        is_any_open = false;
        others.load_squared(round.squared[half], found);
        for (u32 c = warp; c < found; c += warps) {
            u32 squared = round.squared[half][c];
            if (is_open(squared)) {
                squared = settled(others, round.places[c], squared, from);
                is_any_open |= is_open(squared);
            }
            if (lane_number() == 0) round.squared[half ^ 1u][c] = squared;
        }
        half ^= 1u;
    } while (__syncthreads_or(is_any_open));
    others.load_squared(round.squared[half], found);
    for (u32 c = warp; c < found; c += warps) {
        const u32 squared = round.squared[half][c];
        if (!squared) continue;
        const float4 place = round.places[c];
        const u32 rank = others.before(key_of(squared, __float_as_uint(place.w)));
        if (rank < room && lane_number() == 0) round.picks[rank] = place;
    }
    __syncthreads();
    const u32 picked = min(others.before(LOWEST), room);
    for (u32 i = threadIdx.x; i < picked; i += blockDim.x)
        rows[i] = e.start + e.ties.number(__float_as_uint(round.picks[i].w));
    return picked;
}

// A key that a share of WANTED / found of the candidates with room are above, and the highest of them: by all threads,
// ends with a barrier. Some candidates are below, so that repeating this ends.
__device__ __forceinline__ void raise(Round& round, u32 found) {
    const u32 share = max((u32)(WANTED * CANDIDATES) / found, 1u);
    Others others;
    others.load_places(round, CANDIDATES);
    others.load_squared(round.squared[0], CANDIDATES);
    for (u32 c = threadIdx.x >> 5; c < CANDIDATES; c += blockDim.x >> 5) {
        const Key key = key_of(round.squared[0][c], __float_as_uint(round.places[c].w));
        const u32 rank = others.before(key);
        if (lane_number() == 0 && rank == share) round.from = key;
        if (lane_number() == 0 && rank == 0) round.top = key;
    }
    __syncthreads();
}
