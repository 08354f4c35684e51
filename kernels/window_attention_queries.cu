// Window attention, backward by queries: dq and the gradients of the tables. Scores are computed again, once per query here
// and once per key in window_attention_keys.cu, so that every sum has one owner and a fixed order. With D_i = dy_i y_i,
// dp = dy_i (v_j + Tv[b]) and ds = p (dp - D_i):
//   dq_i += ds (k_j + Tq[b])
//   per axis dTq[b] += ds q_i, dTk[b] += ds k_j, dTv[b] += p dy_i
// Blocks as in window_attention.cu. Bound by shared memory: the tables' gradients are read and written once per pair.
#include "triples.cuh"
#include "windows.cuh"

// flow[h, position] = dy . y of a head. One warp per pair of them, its lanes across the channels.
extern "C" __global__ void window_attention_flow(
    const float* __restrict__ y,    // [N, C]
    const float* __restrict__ d_y,  // [N, C]
    const u32* __restrict__ order,  // [N], rows by position
    u64 points,                     // N
    u32 channels,                   // C
    u32 heads,                      // H
    float* __restrict__ flow        // [H, N]
) {
    const u64 at = warp_number();
    if (at >= points * heads) return;
    const u32 width = channels / heads, head = (u32)(at % heads);
    const u64 position = at / heads, first = (u64)order[position] * channels + head * width;
    float sum = 0.0f;
    for (u32 c = lane_number(); c < width; c += 32) sum += y[first + c] * d_y[first + c];
    sum = warp_sum(sum);
    if (lane_number() == 0) flow[head * points + position] = sum;
}

// dq and the gradients of the tables. As forward, and then: p and ds of 16 x 32 pairs go to shared memory, where each
// thread adds up its own column (axis, table, channel) of the tables' gradients, pair after pair.
template <int D, bool SHARED>
__device__ __forceinline__ void backward_queries(const float* qkv, const float* packed, const float* d_y, const float* saved,
                                                 const float* flow, const Lists& lists, u32 channels, u32 heads,
                                                 const Quantization& quantization, float* d_qkv, float* partials) {
    constexpr u32 ROW = Stride<D>::ROW;
    const Head h = head_of<D>(channels, heads);
    extern __shared__ float4 shared_words[];
    // what has a fixed size comes first, so that its addresses are constants
    float *keys = (float*)shared_words, *values = keys + WINDOW_BATCH * ROW, *queries = values + WINDOW_BATCH * ROW,
          *upstream = queries + WINDOW_TILE * ROW, *weights = upstream + WINDOW_TILE * ROW,
          *slopes = weights + WINDOW_TILE * WINDOW_BATCH;
    u32* bins = (u32*)(slopes + WINDOW_TILE * WINDOW_BATCH);  // [3, tile, batch]
    Place* places = (Place*)(bins + 3 * WINDOW_TILE * WINDOW_BATCH);
    u32 *key_rows = (u32*)(places + WINDOW_TILE), *query_rows = key_rows + WINDOW_BATCH;
    const u32 chunk_words = 3 * quantization.rows * Stride<D>::ENTRY, table_words = h.chunks * chunk_words;
    const u32 gradient_words = 3 * quantization.rows * 3 * D;
    const float* tables = packed + (u64)h.head * table_words;
    float* partial = partials + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * gradient_words;
    float* d_tables = partial;
    if (SHARED) {
        float* own = (float*)(query_rows + WINDOW_TILE);
        load_tables(tables, table_words, own);
        tables = own;
        d_tables = own + table_words;
    }
    for (u32 i = threadIdx.x; i < gradient_words; i += WINDOW_THREADS) d_tables[i] = 0.0f;
    const u32 warp = threadIdx.x >> 5, lane = lane_number();
    for (u32 tile = blockIdx.x; tile < lists.tile_count; tile += gridDim.x) {
        const u32* group = lists.groups + 4 * lists.tiles[2 * tile];
        const u32 first = lists.tiles[2 * tile + 1], count = min(group[0] - first, (u32)WINDOW_TILE);
        const u32 dense = group[1], dense_end = group[2], near = dense_end - dense;
        const u32 entry = lists.sampled_offsets[group[3]], all = near + lists.sampled_offsets[group[3] + 1] - entry;
        float d_q[2][D];
#pragma unroll
        for (u32 s = 0; s < 2; ++s)
#pragma unroll
            for (int c = 0; c < D; ++c) d_q[s][c] = 0.0f;
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
            float score[2] = {0.0f, 0.0f}, product[2] = {0.0f, 0.0f};
            for (u32 step = 1; step <= h.chunks; ++step) {
                const u32 chunk = (h.own + step) % h.chunks;
                if (step > 1) __syncthreads();
                load_rows<D>(qkv, 3 * h.channels, h, chunk, 1, key_rows, WINDOW_BATCH, 1.0f, keys);
                load_rows<D>(qkv, 3 * h.channels, h, chunk, 2, key_rows, WINDOW_BATCH, 1.0f, values);
                if (h.chunks > 1 || base == 0) {
                    load_rows<D>(qkv, 3 * h.channels, h, chunk, 0, query_rows, WINDOW_TILE, h.scale(), queries);
                    load_rows<D>(d_y, h.channels, h, chunk, 0, query_rows, WINDOW_TILE, 1.0f, upstream);
                }
                __syncthreads();
                const float* t = tables + chunk * chunk_words;
#pragma unroll 1
                for (u32 c = 0; c < D; c += 4) {
                    const float4 k = *(const float4*)(keys + lane * ROW + c), v = *(const float4*)(values + lane * ROW + c);
#pragma unroll
                    for (u32 s = 0; s < 2; ++s) {
                        const u32 query = warp + s * WINDOW_WARPS;
                        if (query >= count) break;
                        const float4 q = *(const float4*)(queries + query * ROW + c);
                        score[s] = dot(q, plus(k, entry_sum(t, e[s], c)), score[s]);
                        score[s] = dot(k, entry_sum(t, e[s], D + c), score[s]);
                        const float4 g = *(const float4*)(upstream + query * ROW + c);
                        product[s] = dot(g, plus(v, entry_sum(t, e[s], 2 * D + c)), product[s]);
                    }
                }
            }
            const float* t = tables + h.own * chunk_words;
#pragma unroll
            for (u32 s = 0; s < 2; ++s) {
                const u32 query = warp + s * WINDOW_WARPS, pair = query * WINDOW_BATCH + lane;
                if (query >= count) break;
                // read again for every batch of keys: the sums need the registers
                const Softmax softmax = softmax_of(saved, flow, h, lists.points, first + query);
                const float p = is_key ? expf(score[s] - softmax.largest) * softmax.inverse : 0.0f;
                const float ds = p * (product[s] - softmax.flow);
#pragma unroll
                for (u32 c = 0; c < D; c += 4) {
                    add_scaled(d_q[s] + c, ds, plus(*(const float4*)(keys + lane * ROW + c), entry_sum(t, e[s], c)));
                    // loads do not move up past this, where there is no register left for them
                    if (c % 8 == 4) __syncwarp();
                }
                weights[pair] = p;
                slopes[pair] = ds;
                // from words of the packed tables to words of their gradients
                bins[pair] = e[s].x / Stride<D>::ENTRY * 3 * D;
                bins[WINDOW_TILE * WINDOW_BATCH + pair] = e[s].y / Stride<D>::ENTRY * 3 * D;
                bins[2 * WINDOW_TILE * WINDOW_BATCH + pair] = e[s].z / Stride<D>::ENTRY * 3 * D;
            }
            __syncthreads();
            const u32 here = min(all - base, (u32)WINDOW_BATCH);
            for (u32 column = threadIdx.x; column < 9 * D; column += WINDOW_THREADS) {
                const u32 axis = column / (3 * D), word = column % (3 * D), table = word / D, c = word % D;
                const float* factor = table == 2 ? weights : slopes;
                const float* source = (table == 0 ? queries : table == 1 ? keys : upstream) + c;
                const u32 by_query = table == 1 ? 0 : ROW, by_key = table == 1 ? ROW : 0;
                for (u32 query = 0; query < count; ++query)
                    for (u32 n = 0; n < here; ++n) {
                        const u32 pair = query * WINDOW_BATCH + n;
                        d_tables[bins[axis * WINDOW_TILE * WINDOW_BATCH + pair] + word] +=
                            factor[pair] * source[query * by_query + n * by_key];
                    }
            }
        }
#pragma unroll
        for (u32 s = 0; s < 2; ++s) {
            const u32 query = warp + s * WINDOW_WARPS;
            if (query >= count) break;
            const float value = scatter_sum<D>(d_q[s]);
            const u32 c = lane / (32 / D);
            if (d_qkv && lane % (32 / D) == 0 && c < h.count(h.own, D))
                d_qkv[(u64)query_rows[query] * 3 * h.channels + h.first(h.own, D) + c] += h.scale() * value;
        }
    }
    if (!SHARED) return;
    __syncthreads();
    for (u32 i = threadIdx.x; i < gradient_words; i += WINDOW_THREADS) partial[i] = d_tables[i];
}

// Heads of up to 16 channels.
extern "C" __global__ void __launch_bounds__(WINDOW_THREADS, 1) window_attention_backward_queries_narrow(
    const float* __restrict__ qkv,            // [N, 3C]
    const float* __restrict__ packed,         // [H, chunks, 3, T, ENTRY]
    const float* __restrict__ d_y,            // [N, C]
    const float* __restrict__ saved,          // [2, H, N] by position: maximum, 1 / sum
    const float* __restrict__ flow,           // [H, N] by position
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
    u32 tables_fit,                           // whether tables and their gradients are kept in shared memory
    float* __restrict__ d_qkv,                // [N, 3C], or null
    float* __restrict__ partials              // [H, chunks, blocks, 3, T, 3, D]
) {
    const Lists lists = {order, x, y, z, groups, tiles, sampled_offsets, sampled, tile_count, points};
    const Quantization quantization = {reach, step, in_cells, rows};
    if (tables_fit)
        backward_queries<16, true>(qkv, packed, d_y, saved, flow, lists, channels, heads, quantization, d_qkv, partials);
    else
        backward_queries<16, false>(qkv, packed, d_y, saved, flow, lists, channels, heads, quantization, d_qkv, partials);
}

// Wider heads.
extern "C" __global__ void __launch_bounds__(WINDOW_THREADS, 1) window_attention_backward_queries_wide(
    const float* __restrict__ qkv,            // [N, 3C]
    const float* __restrict__ packed,         // [H, chunks, 3, T, ENTRY]
    const float* __restrict__ d_y,            // [N, C]
    const float* __restrict__ saved,          // [2, H, N] by position: maximum, 1 / sum
    const float* __restrict__ flow,           // [H, N] by position
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
    u32 tables_fit,                           // whether tables and their gradients are kept in shared memory
    float* __restrict__ d_qkv,                // [N, 3C], or null
    float* __restrict__ partials              // [H, chunks, blocks, 3, T, 3, D]
) {
    const Lists lists = {order, x, y, z, groups, tiles, sampled_offsets, sampled, tile_count, points};
    const Quantization quantization = {reach, step, in_cells, rows};
    if (tables_fit)
        backward_queries<32, true>(qkv, packed, d_y, saved, flow, lists, channels, heads, quantization, d_qkv, partials);
    else
        backward_queries<32, false>(qkv, packed, d_y, saved, flow, lists, channels, heads, quantization, d_qkv, partials);
}

// Where the gradient of entry i of all tables goes: its three numbers, one per axis, or nowhere.
struct TableEntries {
    u32 rows, heads, width, chunk_width, chunks;
    float* tables[3];

    __device__ __forceinline__ float* of(u64 i) const {
        const u32 words = 3 * rows * chunk_width, own = (u32)(i / words), word = (u32)(i % words);
        const u32 table = word / chunk_width % 3, row = word / (3 * chunk_width);
        const u32 head = own / chunks, channel = own % chunks * chunk_width + word % chunk_width;
        float* out = table == 0 ? tables[0] : table == 1 ? tables[1] : tables[2];
        return out && channel < width ? out + (((u64)row * heads + head) * width + channel) * 3 : nullptr;
    }
};

// Adds the blocks' gradients to those of the tables, in order. One thread per entry, three numbers, of a block's, in strides
// of the grid; what a warp adds changes lanes, so that the three numbers of an entry are written side by side.
extern "C" __global__ void window_attention_add_tables(
    const float* __restrict__ partials,  // [H, chunks, blocks, 3, T, 3, D]
    u64 n,                               // H * chunks * T * 3 * D
    u32 blocks,
    u32 rows,                            // T
    u32 heads,                           // H
    u32 width,                           // d
    u32 chunk_width,                     // D
    float* __restrict__ query,           // [T, H, d, 3], or null
    float* __restrict__ key,             // [T, H, d, 3], or null
    float* __restrict__ value            // [T, H, d, 3], or null
) {
    const u32 words = 3 * rows * chunk_width;  // of an axis
    const TableEntries entries = {rows, heads, width, chunk_width, (width + chunk_width - 1) / chunk_width, {query, key, value}};
    for (u64 first = first_of_warp(); first < n; first += element_stride()) {
        const u64 at = first + lane_number();
        float sum[3] = {0.0f, 0.0f, 0.0f}, lines[3] = {0.0f, 0.0f, 0.0f};
        if (at < n) {
            const u64 own = at / words;
            const float* partial = partials + own * blocks * 3 * words + (at - own * words);
            for (u32 block = 0; block < blocks; ++block)
#pragma unroll
                for (u32 axis = 0; axis < 3; ++axis) sum[axis] += partial[((u64)block * 3 + axis) * words];
        }
        lines_of(sum, lines);
#pragma unroll
        for (u32 j = 0; j < 3; ++j) {
            const u32 number = 32 * j + lane_number();
            if (first + number / 3 >= n) continue;
            float* out = entries.of(first + number / 3);
            if (out) out[number % 3] += lines[j];
        }
    }
}
