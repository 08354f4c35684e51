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
    float start[3];
    const float extreme = frame[min(lane_number(), 5u)];
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
        start[axis] = __shfl_sync(0xFFFFFFFFu, extreme, axis);
        count[axis] = window_cell(__shfl_sync(0xFFFFFFFFu, extreme, 3 + axis), shift, start[axis], size) + 1;
    }
    const u32 end = starts[blockIdx.x + 1];
    for (u64 first = first_of_element(starts); first < end; first += element_step()) {
        float p[3];
        load_points(coord, first, end, p);
        const u64 i = first + lane_number();
        if (i >= end) continue;
        const u64 x = window_cell(p[0], shift, start[0], size), y = window_cell(p[1], shift, start[1], size),
                  z = window_cell(p[2], shift, start[2], size);
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
    for (u64 first = first_of_warp(); first < n; first += element_stride()) {
        const u64 i = first + lane_number();
        const u32 row = i >= n ? MISSING : by_large ? by_large[by_small[i]] : by_small[i];
        float place[3];
        gather_points(coord, row, place);
        if (i >= n) continue;
        order[i] = row;
        positions[row] = (u32)i;
        if (large) large_at[i] = large[row];
        if (step > 0.0f)
#pragma unroll
            for (int axis = 0; axis < 3; ++axis) {
                const float inside = fmodf(__fadd_rn(__fsub_rn(place[axis], frame[axis]), shift), size);
                place[axis] = truncf(__fdiv_rn(inside, step));
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
    for (u64 first = first_of_warp(); first < n; first += element_stride()) {
        const u64 i = first + lane_number();
        u64 previous, outer = 0, previous_outer = 0;
        const u64 inner = with_previous(small, i, n, previous);
        if (large) outer = with_previous(large, i, n, previous_outer);
        if (i >= n) continue;
        const bool starts = i == 0 || previous != inner;
        heads[i] = starts || previous_outer != outer;
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
    const u32 groups = flags[n], windows = flags[2 * n], different = flags[3 * n] - windows;
    for (u64 first = first_of_warp(); first < max(n, sampled); first += element_stride()) {
        const u64 i = first + lane_number();
        if (i >= different && i < sampled) entry_keys[i] = ~0ull;
        if (first >= n) continue;
        u32 group, number, entry;  // of what follows the position
        const u32 groups_before = with_next(flags, i, n, group);
        const u32 windows_before = with_next(flags + n, i, n, number);
        const u32 entries_before = with_next(flags + 2 * n, i, n, entry);
        if (i >= n) continue;
        if (group != groups_before) group_starts[groups_before] = (u32)i;
        if (number != windows_before) window_starts[windows_before - groups] = (u32)i;
        if (i == n - 1) group_starts[group] = window_starts[number - groups] = (u32)n;
        window[i] = number - groups - 1;
        if (entry != entries_before) {
            entries[entries_before - windows] = (u32)i;
            entry_keys[entries_before - windows] = large[i];
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
    for (u64 first = first_of_warp(); first < max(n, sampled); first += element_stride()) {
        const u64 i = first + lane_number();
        if (i < n) {
            heads[i] = ((u32)i - group_starts[flags[i + 1] - 1]) % LIST_TILE == 0;
            heads[n + i] = ((u32)i - window_starts[window[i]]) % LIST_TILE == 0;
        }
        if (first >= sampled) continue;
        u64 previous;
        const u64 key = with_previous(entry_keys, i, sampled, previous);
        const bool exists = i < different, starts_list = exists && (i == 0 || previous != key);
        // Where the list of the entry starts: in this warp, or where the list of the warp's first entry does.
        const u32 before = __ballot_sync(0xFFFFFFFFu, starts_list) & (0xFFFFFFFFu >> (31 - lane_number()));
        u32 start = first_not_below(entry_keys, (u32)first, __shfl_sync(0xFFFFFFFFu, key, 0));
        if (before) start = (u32)first + 31 - __clz(before);
        if (i >= sampled) continue;
        heads[2 * n + i] = starts_list;
        heads[2 * n + sampled + i] = exists && ((u32)i - start) % LIST_TILE == 0;
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
    // The totals that sizes are differences of, one per lane.
    const u32 i = threadIdx.x;
    const u64 lists = 2 * n + sampled, place = i < 3 ? (i + 1) * n : i < 5 ? (i - 2) * n : i == 5 ? lists : lists + sampled;
    const u32 mine = i < 7 ? i < 3 ? flags[place] : tiles[place] : 0;
    const u32 to = i == 0 ? 0 : i == 1 ? 2 : min(i + 1, 31u), from = i == 1 ? 1 : i;
    const u32 total = __shfl_sync(0xFFFFFFFFu, mine, to), before = __shfl_sync(0xFFFFFFFFu, mine, from);
    u32 size = i == 0 || i == 2 ? total : total - before;
    if (i >= 6 && i < 12) size = __float_as_uint(frame[i - 6]);
    if (i < 12) sizes[i] = size;
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
    const u32 tiles_before = tiles[n], lists_before = sampled ? lists[0] : 0;
    for (u64 first = first_of_warp(); first < n; first += element_stride()) {
        const u64 i = first + lane_number();
        u32 tile, key_tile, list = 0, through = 0;  // of what follows the position
        const u32 own_tile = with_next(tiles, i, n, tile), own_key_tile = with_next(tiles + n, i, n, key_tile);
        // There are no more sampled positions than positions.
        if (first < sampled) list = with_next(lists, i, sampled, through);
        if (i >= n) continue;
        const u32 group = flags[i + 1] - 1;
        const uint4 g = groups[group];
        list_of[i] = g.w;
        if (tile != own_tile) queries[own_tile] = make_uint2(group, (u32)i);
        if (key_tile != own_key_tile)
            dense[own_key_tile - tiles_before] = make_uint4((u32)i, min((u32)i + LIST_TILE, g.z), g.y, g.z);
        if (i < sampled) {
            index[i] = entries[by_large[i]];
            if (through != list) offsets[through - lists_before] = (u32)i;
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
    const u32 lists_before = lists[0], tiles_before = tiles[0];
    for (u64 first = first_of_warp(); first < n; first += element_stride()) {
        const u64 i = first + lane_number();
        u32 through;
        const u32 tile = with_next(tiles, i, n, through);
        if (i >= n || tile == through) continue;
        const u32 list = lists[i + 1] - lists_before;
        const u32 end = min((u32)i + LIST_TILE, offsets[list + 1]);
        sparse[tile - tiles_before] = make_uint4((u32)i, end, members[list], members[list + 1]);
    }
}
