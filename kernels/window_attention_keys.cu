// Window attention, backward by keys: dk and dv; see window_attention_queries.cu.
//   dk_j += ds (q_i + Tk[b])   dv_j += p dy_i
// Bound by shared memory.
#include "windows.cuh"

// Keys with the same queries; see geometry/windows/tiles.rs.
struct KeyLists {
    const u32* order;
    const float *x, *y, *z;
    const u32 *window, *tiles;
    const u32 *keys, *queries;  // positions; null where entries are positions
    u32 tile_count;
    u64 points;
};

// dk and dv: lanes are queries, each warp has one key at a time, or two of narrow heads.
template <int D, bool SHARED>
__device__ __forceinline__ void backward_keys(const float* qkv, const float* packed, const float* d_y, const float* saved,
                                              const float* flow, const KeyLists& lists, u32 channels, u32 heads,
                                              const Quantization& quantization, float* d_qkv) {
    constexpr u32 ROW = Stride<D>::ROW, EACH = 32 / D, PASS = WINDOW_WARPS * EACH;
    const Head h = head_of<D>(channels, heads);
    extern __shared__ float4 shared_words[];
    float *queries = (float*)shared_words, *upstream = queries + WINDOW_BATCH * ROW, *keys = upstream + WINDOW_BATCH * ROW,
          *values = keys + PASS * ROW;
    Place* places = (Place*)(values + PASS * ROW);
    u32 *query_rows = (u32*)(places + PASS), *key_rows = query_rows + WINDOW_BATCH, *windows = key_rows + PASS;
    const u32 chunk_words = 3 * quantization.rows * Stride<D>::ENTRY, table_words = h.chunks * chunk_words;
    const float* tables = packed + (u64)h.head * table_words;
    if (SHARED) {
        float* own = (float*)(windows + PASS);
        load_tables(tables, table_words, own);
        tables = own;
    }
    const u32 warp = threadIdx.x >> 5, lane = lane_number();
    const bool is_sparse = lists.keys;
    for (u32 tile = blockIdx.x; tile < lists.tile_count; tile += gridDim.x) {
        const u32 *ends = lists.tiles + 4 * tile, last_key = ends[1], first_query = ends[2], last_query = ends[3];
        for (u32 pass = ends[0]; pass < last_key; pass += PASS) {
            const u32 count = min(last_key - pass, PASS);
            float d_k[EACH][D], d_v[EACH][D];
#pragma unroll
            for (u32 s = 0; s < EACH; ++s)
#pragma unroll
                for (int c = 0; c < D; ++c) d_k[s][c] = d_v[s][c] = 0.0f;
            for (u32 base = first_query; base < last_query; base += WINDOW_BATCH) {
                const u32 at = base + lane;
                const u32 position = at >= last_query ? MISSING : is_sparse ? lists.queries[at] : at;
                const bool is_query = position != MISSING;
                __syncthreads();
                if (warp == 0) query_rows[lane] = is_query ? lists.order[position] : MISSING;
                if (base == first_query && threadIdx.x < PASS) {
                    const u32 key = pass + min(threadIdx.x, count - 1), place = is_sparse ? lists.keys[key] : key;
                    key_rows[threadIdx.x] = threadIdx.x < count ? lists.order[place] : MISSING;
                    places[threadIdx.x] = {lists.x[place], lists.y[place], lists.z[place]};
                    windows[threadIdx.x] = lists.window[place];
                }
                __syncthreads();
                const u32 known = is_query ? position : is_sparse ? lists.queries[first_query] : first_query;
                const Place query = {lists.x[known], lists.y[known], lists.z[known]};
                const u32 window = lists.window[known];
                const Softmax softmax = softmax_of(saved, flow, h, lists.points, known);
                Entries e[EACH];
                float score[EACH], product[EACH];
#pragma unroll
                for (u32 s = 0; s < EACH; ++s) {
                    e[s] = entries_of<D>(quantization, query, places[warp + s * WINDOW_WARPS]);
                    score[s] = product[s] = 0.0f;
                }
                for (u32 step = 1; step <= h.chunks; ++step) {
                    const u32 chunk = (h.own + step) % h.chunks;
                    if (step > 1) __syncthreads();
                    load_rows<D>(qkv, 3 * h.channels, h, chunk, 0, query_rows, WINDOW_BATCH, h.scale(), queries);
                    load_rows<D>(d_y, h.channels, h, chunk, 0, query_rows, WINDOW_BATCH, 1.0f, upstream);
                    if (h.chunks > 1 || base == first_query) {
                        load_rows<D>(qkv, 3 * h.channels, h, chunk, 1, key_rows, PASS, 1.0f, keys);
                        load_rows<D>(qkv, 3 * h.channels, h, chunk, 2, key_rows, PASS, 1.0f, values);
                    }
                    __syncthreads();
                    const float* t = tables + chunk * chunk_words;
#pragma unroll 1
                    for (u32 c = 0; c < D; c += 4) {
                        const float4 q = *(const float4*)(queries + lane * ROW + c),
                                     g = *(const float4*)(upstream + lane * ROW + c);
#pragma unroll
                        for (u32 s = 0; s < EACH; ++s) {
                            const u32 key = warp + s * WINDOW_WARPS;
                            if (key >= count) break;
                            const float4 k = *(const float4*)(keys + key * ROW + c), v = *(const float4*)(values + key * ROW + c);
                            score[s] = dot(q, plus(k, entry_sum(t, e[s], c)), score[s]);
                            score[s] = dot(k, entry_sum(t, e[s], D + c), score[s]);
                            product[s] = dot(g, plus(v, entry_sum(t, e[s], 2 * D + c)), product[s]);
                        }
                    }
                }
                const float* t = tables + h.own * chunk_words;
#pragma unroll
                for (u32 s = 0; s < EACH; ++s) {
                    const u32 key = warp + s * WINDOW_WARPS;
                    if (key >= count) break;
                    // a sampled point of the query's own small window is a dense key
                    const bool is_pair = is_query && !(is_sparse && window == windows[key]);
                    const float p = is_pair ? expf(score[s] - softmax.largest) * softmax.inverse : 0.0f;
                    const float ds = p * (product[s] - softmax.flow);
#pragma unroll
                    for (u32 c = 0; c < D; c += 4) {
                        add_scaled(d_v[s] + c, p, *(const float4*)(upstream + lane * ROW + c));
                        add_scaled(d_k[s] + c, ds,
                                   plus(*(const float4*)(queries + lane * ROW + c), entry_sum(t, e[s], D + c)));
                    }
                }
            }
#pragma unroll
            for (u32 s = 0; s < EACH; ++s) {
                const u32 key = warp + s * WINDOW_WARPS;
                if (key >= count) break;
                const float by_key = scatter_sum<D>(d_k[s]), by_value = scatter_sum<D>(d_v[s]);
                const u32 c = lane / (32 / D);
                if (lane % (32 / D) != 0 || c >= h.count(h.own, D)) continue;
                float* out = d_qkv + (u64)key_rows[key] * 3 * h.channels + h.first(h.own, D) + c;
                out[h.channels] += by_key;
                out[2 * h.channels] += by_value;
            }
        }
    }
}

// Heads of up to 16 channels.
extern "C" __global__ void __launch_bounds__(WINDOW_THREADS, 1) window_attention_backward_keys_narrow(
    const float* __restrict__ qkv,     // [N, 3C]
    const float* __restrict__ packed,  // [H, chunks, 3, T, ENTRY]
    const float* __restrict__ d_y,     // [N, C]
    const float* __restrict__ saved,   // [2, H, N] by position: maximum, 1 / sum
    const float* __restrict__ flow,    // [H, N] by position
    const u32* __restrict__ order,     // [N], rows by position
    const float* __restrict__ x,       // [N], by position
    const float* __restrict__ y,       // [N]
    const float* __restrict__ z,       // [N]
    const u32* __restrict__ window,    // [N], small window of each position
    const u32* __restrict__ tiles,     // [tiles, 4]: keys and queries from, to
    const u32* __restrict__ keys,      // positions of the keys, null where they are positions themselves
    const u32* __restrict__ queries,   // the same of the queries
    u32 tile_count,
    u64 points,                        // N
    u32 channels,                      // C
    u32 heads,                         // H
    float reach,
    float step,
    u32 in_cells,
    u32 rows,                          // T
    u32 tables_fit,                    // whether the tables are kept in shared memory
    float* __restrict__ d_qkv          // [N, 3C]
) {
    const KeyLists lists = {order, x, y, z, window, tiles, keys, queries, tile_count, points};
    const Quantization quantization = {reach, step, in_cells, rows};
    if (tables_fit) backward_keys<16, true>(qkv, packed, d_y, saved, flow, lists, channels, heads, quantization, d_qkv);
    else backward_keys<16, false>(qkv, packed, d_y, saved, flow, lists, channels, heads, quantization, d_qkv);
}

// Wider heads.
extern "C" __global__ void __launch_bounds__(WINDOW_THREADS, 1) window_attention_backward_keys_wide(
    const float* __restrict__ qkv,     // [N, 3C]
    const float* __restrict__ packed,  // [H, chunks, 3, T, ENTRY]
    const float* __restrict__ d_y,     // [N, C]
    const float* __restrict__ saved,   // [2, H, N] by position: maximum, 1 / sum
    const float* __restrict__ flow,    // [H, N] by position
    const u32* __restrict__ order,     // [N], rows by position
    const float* __restrict__ x,       // [N], by position
    const float* __restrict__ y,       // [N]
    const float* __restrict__ z,       // [N]
    const u32* __restrict__ window,    // [N], small window of each position
    const u32* __restrict__ tiles,     // [tiles, 4]: keys and queries from, to
    const u32* __restrict__ keys,      // positions of the keys, null where they are positions themselves
    const u32* __restrict__ queries,   // the same of the queries
    u32 tile_count,
    u64 points,                        // N
    u32 channels,                      // C
    u32 heads,                         // H
    float reach,
    float step,
    u32 in_cells,
    u32 rows,                          // T
    u32 tables_fit,                    // whether the tables are kept in shared memory
    float* __restrict__ d_qkv          // [N, 3C]
) {
    const KeyLists lists = {order, x, y, z, window, tiles, keys, queries, tile_count, points};
    const Quantization quantization = {reach, step, in_cells, rows};
    if (tables_fit) backward_keys<32, true>(qkv, packed, d_y, saved, flow, lists, channels, heads, quantization, d_qkv);
    else backward_keys<32, false>(qkv, packed, d_y, saved, flow, lists, channels, heads, quantization, d_qkv);
}
