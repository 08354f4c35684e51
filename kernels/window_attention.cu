// Window attention, forward. A block takes one head (or one chunk of 32 channels of a wide one), keeps its position tables
// in shared memory where they fit, and walks over tiles of up to 16 queries of a group. 32 keys at a time go to shared
// memory; lanes are keys, each of the eight warps has two queries, whose maxima, sums and weighted values stay in
// registers. Nothing per pair is stored. Bound by reads of the tables from shared memory: 36 words of four per pair.
#include "windows.cuh"

// Packs the tables as [H, chunks, 3 axes, T, ENTRY]: the rows of Tq, Tk and Tv of a chunk side by side, 0 where there is
// none. One thread per word, in strides of the grid.
extern "C" __global__ void window_attention_pack(
    const float* __restrict__ query,  // [T, H, d, 3], or null
    const float* __restrict__ key,    // [T, H, d, 3], or null
    const float* __restrict__ value,  // [T, H, d, 3], or null
    u64 n,                            // words of the packed tables
    u32 rows,                         // T
    u32 heads,                        // H
    u32 width,                        // d
    u32 chunk_width,                  // channels of a chunk
    float* __restrict__ packed
) {
    const u32 entry = 3 * chunk_width + 4, chunks = (width + chunk_width - 1) / chunk_width;
    for (u64 at = first_element(); at < n; at += element_stride()) {
        const u32 word = (u32)(at % entry);
        u64 rest = at / entry;
        const u32 row = (u32)(rest % rows);
        rest /= rows;
        const u32 axis = (u32)(rest % 3);
        rest /= 3;
        const u32 channel = (u32)(rest % chunks) * chunk_width + word % chunk_width;
        const u32 head = (u32)(rest / chunks), table = word / chunk_width;
        const float* source = table == 0 ? query : table == 1 ? key : table == 2 ? value : nullptr;
        const bool is_there = source && channel < width;
        packed[at] = is_there ? source[(((u64)row * heads + head) * width + channel) * 3 + axis] : 0.0f;
    }
}

template <int D, bool SHARED>
__device__ __forceinline__ void forward(const float* qkv, const float* packed, const Lists& lists, u32 channels, u32 heads,
                                        const Quantization& quantization, float* y, float* saved) {
    constexpr u32 ROW = Stride<D>::ROW;
    const Head h = head_of<D>(channels, heads);
    extern __shared__ float4 shared_words[];
    float* shared = (float*)shared_words;
    // what has a fixed size comes first, so that its addresses are constants
    float *keys = shared, *values = keys + WINDOW_BATCH * ROW, *queries = values + WINDOW_BATCH * ROW;
    Place* places = (Place*)(queries + WINDOW_TILE * ROW);
    u32 *key_rows = (u32*)(places + WINDOW_TILE), *query_rows = key_rows + WINDOW_BATCH;
    const u32 chunk_words = 3 * quantization.rows * Stride<D>::ENTRY, table_words = h.chunks * chunk_words;
    const float* tables = packed + (u64)h.head * table_words;
    if (SHARED) {
        float* own = (float*)(query_rows + WINDOW_TILE);
        load_tables(tables, table_words, own);
        tables = own;
    }
    const u32 warp = threadIdx.x >> 5, lane = lane_number();
    for (u32 tile = blockIdx.x; tile < lists.tile_count; tile += gridDim.x) {
        const u32* group = lists.groups + 4 * lists.tiles[2 * tile];
        const u32 first = lists.tiles[2 * tile + 1], count = min(group[0] - first, (u32)WINDOW_TILE);
        const u32 dense = group[1], dense_end = group[2], near = dense_end - dense;
        const u32 entry = lists.sampled_offsets[group[3]], all = near + lists.sampled_offsets[group[3] + 1] - entry;
        float largest[2], total[2], sum[2][D];
#pragma unroll
        for (u32 s = 0; s < 2; ++s) {
            largest[s] = NEVER;
            total[s] = 0.0f;
#pragma unroll
            for (int c = 0; c < D; ++c) sum[s][c] = 0.0f;
        }
        for (u32 base = 0; base < all; base += WINDOW_BATCH) {
            const u32 at = base + lane;
            u32 position = at < near ? dense + at : at < all ? lists.sampled[entry + at - near] : MISSING;
            if (at >= near && position >= dense && position < dense_end) position = MISSING;
            const bool is_key = position != MISSING;
            __syncthreads();
            if (warp == 0) key_rows[lane] = is_key ? lists.order[position] : MISSING;
            if (base == 0 && threadIdx.x < WINDOW_TILE) {
                const u32 query = first + min(threadIdx.x, count - 1);
                query_rows[threadIdx.x] = threadIdx.x < count ? lists.order[query] : MISSING;
                places[threadIdx.x] = {lists.x[query], lists.y[query], lists.z[query]};
            }
            __syncthreads();
            const u32 known = is_key ? position : first;
            const Place key = {lists.x[known], lists.y[known], lists.z[known]};
            const Entries e[2] = {entries_of<D>(quantization, places[warp], key),
                                  entries_of<D>(quantization, places[warp + WINDOW_WARPS], key)};
            float score[2] = {0.0f, 0.0f};
            for (u32 step = 1; step <= h.chunks; ++step) {
                const u32 chunk = (h.own + step) % h.chunks;
                if (step > 1) __syncthreads();
                load_rows<D>(qkv, 3 * h.channels, h, chunk, 1, key_rows, WINDOW_BATCH, 1.0f, keys);
                if (step == h.chunks) load_rows<D>(qkv, 3 * h.channels, h, chunk, 2, key_rows, WINDOW_BATCH, 1.0f, values);
                if (h.chunks > 1 || base == 0)
                    load_rows<D>(qkv, 3 * h.channels, h, chunk, 0, query_rows, WINDOW_TILE, h.scale(), queries);
                __syncthreads();
                const float* t = tables + chunk * chunk_words;
#pragma unroll 1
                for (u32 c = 0; c < D; c += 4) {
                    const float4 k = *(const float4*)(keys + lane * ROW + c);
#pragma unroll
                    for (u32 s = 0; s < 2; ++s) {
                        const u32 query = warp + s * WINDOW_WARPS;
                        if (query >= count) continue;
                        const float4 q = *(const float4*)(queries + query * ROW + c);
                        score[s] = dot(q, plus(k, entry_sum(t, e[s], c)), score[s]);
                        score[s] = dot(k, entry_sum(t, e[s], D + c), score[s]);
                    }
                }
            }
            const float* t = tables + h.own * chunk_words;
#pragma unroll
            for (u32 s = 0; s < 2; ++s) {
                if (warp + s * WINDOW_WARPS >= count) continue;
                const float most = fmaxf(largest[s], warp_max(is_key ? score[s] : NEVER));
                const float factor = expf(largest[s] - most), p = is_key ? expf(score[s] - most) : 0.0f;
                largest[s] = most;
                total[s] = fmaf(factor, total[s], p);
#pragma unroll
                for (u32 c = 0; c < D; c += 4) {
                    const float4 v = plus(*(const float4*)(values + lane * ROW + c), entry_sum(t, e[s], 2 * D + c));
#pragma unroll
                    for (u32 i = 0; i < 4; ++i) sum[s][c + i] *= factor;
                    add_scaled(sum[s] + c, p, v);
                }
            }
        }
#pragma unroll
        for (u32 s = 0; s < 2; ++s) {
            const u32 query = warp + s * WINDOW_WARPS;
            if (query >= count) break;
            const float inverse = 1.0f / warp_sum(total[s]), value = scatter_sum<D>(sum[s]);
            const u32 c = lane / (32 / D);
            if (lane % (32 / D) == 0 && c < h.count(h.own, D))
                y[(u64)query_rows[query] * h.channels + h.first(h.own, D) + c] = inverse * value;
            if (saved && lane == 0 && h.own == 0) {
                float* out = saved + h.head * lists.points + first + query;
                out[0] = largest[s];
                out[h.heads * lists.points] = inverse;
            }
        }
    }
}

// Heads of up to 16 channels.
extern "C" __global__ void __launch_bounds__(WINDOW_THREADS, 1) window_attention_forward_narrow(
    const float* __restrict__ qkv,            // [N, 3C]
    const float* __restrict__ packed,         // [H, chunks, 3, T, ENTRY]
    const u32* __restrict__ order,            // [N], rows by position
    const float* __restrict__ x,              // [N], by position
    const float* __restrict__ y,              // [N]
    const float* __restrict__ z,              // [N]
    const u32* __restrict__ groups,           // [G, 4]: end of the queries, dense keys, list of sampled keys
    const u32* __restrict__ tiles,            // [tiles, 2]: group, first query
    const u32* __restrict__ sampled_offsets,  // [lists + 1]
    const u32* __restrict__ sampled,          // positions
    u32 tile_count,
    u64 points,                               // N
    u32 channels,                             // C
    u32 heads,                                // H
    float reach,
    float step,
    u32 in_cells,
    u32 rows,                                 // T
    u32 tables_fit,                           // whether the tables are kept in shared memory
    float* __restrict__ out,                  // [N, C]
    float* __restrict__ saved                 // [2, H, N] by position: maximum, 1 / sum; or null
) {
    const Lists lists = {order, x, y, z, groups, tiles, sampled_offsets, sampled, tile_count, points};
    const Quantization quantization = {reach, step, in_cells, rows};
    if (tables_fit) forward<16, true>(qkv, packed, lists, channels, heads, quantization, out, saved);
    else forward<16, false>(qkv, packed, lists, channels, heads, quantization, out, saved);
}

// Wider heads.
extern "C" __global__ void __launch_bounds__(WINDOW_THREADS, 1) window_attention_forward_wide(
    const float* __restrict__ qkv,            // [N, 3C]
    const float* __restrict__ packed,         // [H, chunks, 3, T, ENTRY]
    const u32* __restrict__ order,            // [N], rows by position
    const float* __restrict__ x,              // [N], by position
    const float* __restrict__ y,              // [N]
    const float* __restrict__ z,              // [N]
    const u32* __restrict__ groups,           // [G, 4]: end of the queries, dense keys, list of sampled keys
    const u32* __restrict__ tiles,            // [tiles, 2]: group, first query
    const u32* __restrict__ sampled_offsets,  // [lists + 1]
    const u32* __restrict__ sampled,          // positions
    u32 tile_count,
    u64 points,                               // N
    u32 channels,                             // C
    u32 heads,                                // H
    float reach,
    float step,
    u32 in_cells,
    u32 rows,                                 // T
    u32 tables_fit,                           // whether the tables are kept in shared memory
    float* __restrict__ out,                  // [N, C]
    float* __restrict__ saved                 // [2, H, N] by position: maximum, 1 / sum; or null
) {
    const Lists lists = {order, x, y, z, groups, tiles, sampled_offsets, sampled, tile_count, points};
    const Quantization quantization = {reach, step, in_cells, rows};
    if (tables_fit) forward<32, true>(qkv, packed, lists, channels, heads, quantization, out, saved);
    else forward<32, false>(qkv, packed, lists, channels, heads, quantization, out, saved);
}
