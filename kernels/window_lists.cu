// Attention windows as lists (geometry/windows): window numbers of all points, the order that puts a window's points side
// by side, groups of queries that have the same keys, sampled points of large windows, and tiles of all of them. Sorting
// and running totals are done by sort.cu and scan.cu in between; what is counted here are flags, in one scan for several
// lists at a time. One thread per point, list entry or group, in strides. Bound by bandwidth and the latency of scattered
// reads.
//
// N points, D sampled ones of which S differ, G groups, W small windows, L large windows with sampled points. `flags` are
// running totals of [group starts, N][window starts, N][sampled, N], `tiles` of [query tiles, N][key tiles, N]
// [lists, D][tiles of sampled keys, D].
#include "elements.cuh"

#define LIST_TILE 16  // most queries or keys of a tile; as TILE in geometry/windows/tiles.rs

// Flags that are set in [from, to) of running totals.
__device__ __forceinline__ u32 between(const u32* totals, u64 from, u64 to) { return totals[to] - totals[from]; }
__device__ __forceinline__ bool is_set(const u32* totals, u64 at) { return totals[at + 1] != totals[at]; }

// First of n ascending keys that is not below `key`.
__device__ __forceinline__ u32 first_not_below(const u64* keys, u32 n, u64 key) {
    u32 low = 0, high = n;
    while (low < high) {
        const u32 middle = low + (high - low) / 2;
        if (keys[middle] < key) low = middle + 1;
        else high = middle;
    }
    return low;
}

// Lowest and highest coordinates of the whole batch, by one block; a warp for each number.
extern "C" __global__ void __launch_bounds__(192) window_frame(
    const u32* __restrict__ bounds,    // [B, 6], of element_bounds
    u32 elements,                      // B
    float* __restrict__ frame          // [6], lowest x, y, z, highest x, y, z
) {
    const u32 number = threadIdx.x >> 5;
    u32 most = 0;
    for (u32 e = lane_number(); e < elements; e += 32) most = max(most, bounds[6 * e + number]);
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) most = max(most, __shfl_xor_sync(0xFFFFFFFFu, most, step));
    if (lane_number() == 0) frame[number] = of_ascending_bits(number < 3 ? ~most : most);
}

// The cell of a coordinate, rounded step by step as on the CPU.
__device__ __forceinline__ u64 window_cell(float x, float shift, float start, float size) {
    return (u64)__fdiv_rn(__fsub_rn(__fadd_rn(x, shift), start), size);
}

// keys[i] = number of the window of point i: x fastest, then y, z and the element
extern "C" __global__ void __launch_bounds__(256) window_keys(
    const float* __restrict__ coord,   // [N, 3]
    const u32* __restrict__ starts,    // [B + 1], where the elements start
    const float* __restrict__ frame,   // [6]
    float size,
    float shift,
    u64* __restrict__ keys             // [N]
) {
    u64 count[3];
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) count[axis] = window_cell(frame[3 + axis], shift, frame[axis], size) + 1;
    const u32 end = starts[blockIdx.x + 1];
    for (u64 first = first_of_element(starts); first < end; first += element_step()) {
        float p[3];
        load_points(coord, first, end, p);
        const u64 i = first + lane_number();
        if (i >= end) continue;
        const u64 x = window_cell(p[0], shift, frame[0], size), y = window_cell(p[1], shift, frame[1], size),
                  z = window_cell(p[2], shift, frame[2], size);
        keys[i] = x + count[0] * (y + count[1] * (z + count[2] * blockIdx.x));
    }
}

// y[i] = x[rows[i]]
extern "C" __global__ void window_pick(
    const u64* __restrict__ x,         // [N]
    const u32* __restrict__ rows,      // [N]
    u64 n,
    u64* __restrict__ y                // [N]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) y[i] = x[rows[i]];
}

// The rows by position, the positions of the rows, and places in metres or, inside a small window, in bins.
extern "C" __global__ void window_places(
    const float* __restrict__ coord,   // [N, 3]
    const float* __restrict__ frame,   // [6]
    const u32* __restrict__ by_small,  // [N], order of the small windows among the points in the order of the large ones
    const u32* __restrict__ by_large,  // [N], or null without large windows
    const u64* __restrict__ large,     // [N], large windows by row, or null
    u64 n,
    float size,
    float shift,
    float step,                        // edge of a bin; 0 where places are metres
    u32* __restrict__ order,           // [N]
    u32* __restrict__ positions,       // [N]
    u64* __restrict__ large_at,        // [N], large windows by position, or null
    float* __restrict__ x,             // [N]
    float* __restrict__ y,             // [N]
    float* __restrict__ z              // [N]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        const u32 row = by_large ? by_large[by_small[i]] : by_small[i];
        order[i] = row;
        positions[row] = (u32)i;
        if (large) large_at[i] = large[row];
        float place[3];
#pragma unroll
        for (int axis = 0; axis < 3; ++axis) {
            const float p = coord[3 * (u64)row + axis];
            place[axis] = p;
            if (step > 0.0f) {
                const float inside = fmodf(__fadd_rn(__fsub_rn(p, frame[axis]), shift), size);
                place[axis] = truncf(__fdiv_rn(inside, step));
            }
        }
        x[i] = place[0];
        y[i] = place[1];
        z[i] = place[2];
    }
}

// Marks the positions of the sampled points; one that comes twice is marked once.
extern "C" __global__ void window_marks(
    const u32* __restrict__ sampled,   // [D], rows
    const u32* __restrict__ positions, // [N]
    u64 n,                             // D
    u32* __restrict__ marks            // [N], 0 before
) {
    for (u64 i = first_element(); i < n; i += element_stride()) atomicOr(&marks[positions[sampled[i]]], 1u);
}

// Flags of the positions where groups and small windows start.
extern "C" __global__ void window_heads(
    const u64* __restrict__ small,     // [N], small windows by position
    const u64* __restrict__ large,     // [N], large windows by position, or null
    u64 n,
    u32* __restrict__ heads            // [2N]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        const bool starts = i == 0 || small[i - 1] != small[i];
        heads[i] = starts || (large && large[i - 1] != large[i]);
        heads[n + i] = starts;
    }
}

// Where groups and windows start, the window of each position, and the sampled positions with their large windows.
extern "C" __global__ void window_starts(
    const u32* __restrict__ flags,     // [3N + 1]
    const u64* __restrict__ large,     // [N], or null
    u64 n,
    u64 sampled,                       // D
    u32* __restrict__ group_starts,    // [G + 1]
    u32* __restrict__ window_starts,   // [W + 1]
    u32* __restrict__ window,          // [N]
    u32* __restrict__ entries,         // [D], S of them are filled
    u64* __restrict__ entry_keys       // [D], all bits set behind the first S
) {
    const u32 different = between(flags, 2 * n, 3 * n);
    for (u64 i = first_element(); i < max(n, sampled); i += element_stride()) {
        if (i >= different && i < sampled) entry_keys[i] = ~0ull;
        if (i >= n) continue;
        const u32 group = flags[i + 1] - 1, number = between(flags, n, n + i + 1) - 1;
        if (is_set(flags, i)) group_starts[group] = (u32)i;
        if (is_set(flags, n + i)) window_starts[number] = (u32)i;
        if (i == n - 1) group_starts[group + 1] = window_starts[number + 1] = (u32)n;
        window[i] = number;
        if (is_set(flags, 2 * n + i)) {
            const u32 entry = between(flags, 2 * n, 2 * n + i);
            entries[entry] = (u32)i;
            entry_keys[entry] = large[i];
        }
    }
}

// Flags of the positions where tiles start, and of the sorted entries where lists and their tiles start.
extern "C" __global__ void window_tile_heads(
    const u32* __restrict__ flags,          // [3N + 1]
    const u32* __restrict__ group_starts,   // [G + 1]
    const u32* __restrict__ window_starts,  // [W + 1]
    const u32* __restrict__ window,         // [N]
    const u64* __restrict__ entry_keys,     // [D], sorted
    u64 n,
    u64 sampled,                            // D
    u32* __restrict__ heads                 // [2N + 2D]
) {
    const u32 different = between(flags, 2 * n, 3 * n);
    for (u64 i = first_element(); i < max(n, sampled); i += element_stride()) {
        if (i < n) {
            heads[i] = ((u32)i - group_starts[flags[i + 1] - 1]) % LIST_TILE == 0;
            heads[n + i] = ((u32)i - window_starts[window[i]]) % LIST_TILE == 0;
        }
        if (i < sampled) {
            bool starts_list = false, starts_tile = false;
            if (i < different) {
                const u32 first = first_not_below(entry_keys, different, entry_keys[i]);
                starts_list = first == i;
                starts_tile = ((u32)i - first) % LIST_TILE == 0;
            }
            heads[2 * n + i] = starts_list;
            heads[2 * n + sampled + i] = starts_tile;
        }
    }
}

// What the host has to know, by one warp.
extern "C" __global__ void window_sizes(
    const u32* __restrict__ flags,     // [3N + 1]
    const u32* __restrict__ tiles,     // [2N + 2D + 1]
    const float* __restrict__ frame,   // [6]
    u64 n,
    u64 sampled,                       // D
    u32* __restrict__ sizes            // [12]: G, S, query tiles, key tiles, L, tiles of sampled keys, frame
) {
    const u32 i = threadIdx.x;
    const u64 lists = 2 * n + sampled;
    if (i == 0) sizes[i] = flags[n];
    if (i == 1) sizes[i] = between(flags, 2 * n, 3 * n);
    if (i == 2) sizes[i] = tiles[n];
    if (i == 3) sizes[i] = between(tiles, n, 2 * n);
    if (i == 4) sizes[i] = between(tiles, 2 * n, lists);
    if (i == 5) sizes[i] = between(tiles, lists, lists + sampled);
    if (i >= 6 && i < 12) sizes[i] = __float_as_uint(frame[i - 6]);
}

// groups[g] = end of the queries, first and end of the dense keys, list of the large window; list 0 is empty
extern "C" __global__ void window_groups(
    const u32* __restrict__ group_starts,   // [G + 1]
    const u32* __restrict__ window_starts,  // [W + 1]
    const u32* __restrict__ window,         // [N]
    const u64* __restrict__ large,          // [N], large windows by position, or null
    const u64* __restrict__ entry_keys,     // [S], sorted
    const u32* __restrict__ lists,          // [D + 1], running totals of the entries where lists start
    u32 entries,                            // S
    u64 count,                              // G
    uint4* __restrict__ groups              // [G]
) {
    for (u64 g = first_element(); g < count; g += element_stride()) {
        const u32 start = group_starts[g], number = window[start];
        u32 list = 0;
        if (large) {
            const u64 key = large[start];
            const u32 at = first_not_below(entry_keys, entries, key);
            if (at < entries && entry_keys[at] == key) list = lists[at + 1] - lists[0];
        }
        groups[g] = make_uint4(group_starts[g + 1], window_starts[number], window_starts[number + 1], list);
    }
}

// Tiles of queries and of dense keys, the list of each position, and the lists of sampled positions.
extern "C" __global__ void window_tiles(
    const u32* __restrict__ flags,      // [3N + 1]
    const u32* __restrict__ tiles,      // [2N + 2D + 1]
    const uint4* __restrict__ groups,   // [G]
    const u32* __restrict__ entries,    // [S], sampled positions
    const u32* __restrict__ by_large,   // [S], their order by large window
    u64 n,
    u64 sampled,                        // S
    uint2* __restrict__ queries,        // [query tiles], group and first query
    uint4* __restrict__ dense,          // [key tiles], keys from, to, queries from, to
    u32* __restrict__ list_of,          // [N]
    u32* __restrict__ offsets,          // [L + 2]
    u32* __restrict__ index             // [S]
) {
    const u32* lists = tiles + 2 * n;
    for (u64 i = first_element(); i < n; i += element_stride()) {
        const u32 group = flags[i + 1] - 1;
        const uint4 g = groups[group];
        list_of[i] = g.w;
        if (is_set(tiles, i)) queries[tiles[i]] = make_uint2(group, (u32)i);
        if (is_set(tiles, n + i))
            dense[between(tiles, n, n + i)] = make_uint4((u32)i, min((u32)i + LIST_TILE, g.z), g.y, g.z);
        // There are no more sampled positions than positions.
        if (i < sampled) {
            index[i] = entries[by_large[i]];
            if (is_set(lists, i)) offsets[between(lists, 0, i + 1)] = (u32)i;
        }
        if (i == 0) {
            offsets[0] = 0;
            offsets[between(lists, 0, sampled) + 1] = (u32)sampled;
        }
    }
}

// sparse[t] = entries of a list from, to, and the queries of its large window from, to
extern "C" __global__ void window_sparse_tiles(
    const u32* __restrict__ lists,      // [D + 1], running totals of the entries where lists start
    const u32* __restrict__ tiles,      // [D + 1], and of those where tiles start
    const u32* __restrict__ offsets,    // [L + 2]
    const u32* __restrict__ members,    // [L + 2], where the queries of the lists start
    u64 n,                              // S
    uint4* __restrict__ sparse          // [tiles]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        if (!is_set(tiles, i)) continue;
        const u32 list = between(lists, 0, i + 1);
        const u32 end = min((u32)i + LIST_TILE, offsets[list + 1]);
        sparse[between(tiles, 0, i)] = make_uint4((u32)i, end, members[list], members[list + 1]);
    }
}
