// Farthest point sampling over a search tree (tree.cu): exact, in the order of the reference code.
//
// Each sample depends on the one before, so what counts is the time from one sample to the next, not throughput. One block
// takes one element of the batch, all elements at once: more blocks per element would have to wait for each other through
// global memory twice per sample, which takes longer than the work of a sample. The points lie in buckets of 32 (a block of
// the tree; several where an element has more than 2^20 points), 32 buckets to a node. What is known of a bucket, its box
// and its farthest point, lies in shared memory where it fits: 48 bytes, so 80 000 points take 120 KB. Nodes live in
// registers: node w + l * warps in lane l of warp w. For every sample
// 1. a warp tests all of its nodes at once, then the 32 buckets of each node that holds a point which the sample may be
//    closer to than all samples before, and lists those buckets;
// 2. the warps share the listed buckets, whichever node they belong to: one coalesced read of 32 points and distances each;
// 3. a warp finds the farthest of the nodes it listed buckets of, and all warps the farthest of all.
// Three barriers. The coordinates of a farthest point travel with its distance, so that the next sample is known without a
// read from memory. After a few hundred samples a handful of buckets is listed per sample: work is O(N log M + M log N)
// for M samples, not O(N M). Bound by latency: one read from L2 and some ten warp reductions a sample.
#include "search.cuh"
#include "triples.cuh"

#define FARTHEST_THREADS 1024
#define PREFIX_SAMPLES 256    // of a warp of farthest_point_prefix; as PREFIX in geometry/cuda/farthest_point.rs
#define STATE_WORDS 12       // per bucket: box, distance, tie, x, y, z, list
#define UNSAMPLED 1e10f      // squared distance of a point before any sample, m^2

// A point that is farthest from all samples so far, of those that a bucket, a node or a warp holds.
struct Farthest {
    u32 squared;  // bits of its squared distance, which are ordered as the distances are
    u32 tie;      // its place in the order of equally far points
    float x, y, z;
};

__device__ __forceinline__ u32 warp_highest(u32 x) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    return __reduce_max_sync(0xFFFFFFFFu, x);
#else
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) x = max(x, __shfl_xor_sync(0xFFFFFFFFu, x, step));
    return x;
#endif
}

// The farthest of the points that the lanes hold, known to all of them.
__device__ __forceinline__ Farthest warp_farthest(const Farthest& mine) {
    const u32 most = warp_highest(mine.squared);
    const u32 tie = ~warp_highest(mine.squared == most ? ~mine.tie : 0u);
    const u32 lane = __ffs(__ballot_sync(0xFFFFFFFFu, mine.squared == most && mine.tie == tie)) - 1;
    return {most, tie, __shfl_sync(0xFFFFFFFFu, mine.x, lane), __shfl_sync(0xFFFFFFFFu, mine.y, lane),
            __shfl_sync(0xFFFFFFFFu, mine.z, lane)};
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

// What is known of the buckets of one element: planes of one word per bucket.
struct Buckets {
    float* boxes;   // [6, count], lowest x, y, z, highest x, y, z
    u32* squared;   // [count], of the farthest point
    u32* tie;       // [count]
    float* place;   // [3, count]
    u32* list;      // [count], buckets that the sample at hand may change
    u32 count;

    __device__ __forceinline__ Farthest farthest(u32 bucket) const {
        if (bucket >= count) return {0u, MISSING, 0.0f, 0.0f, 0.0f};
        return {squared[bucket], tie[bucket], place[bucket], place[count + bucket], place[2 * count + bucket]};
    }
    __device__ __forceinline__ void put(u32 bucket, const Farthest& f) const {
        squared[bucket] = f.squared;
        tie[bucket] = f.tie;
        place[bucket] = f.x;
        place[count + bucket] = f.y;
        place[2 * count + bucket] = f.z;
    }
    __device__ __forceinline__ Box box(u32 bucket) const { return load_bounds(boxes, count, bucket); }
};

// The points of one element.
struct Element {
    const float4* points;  // blocks of 32
    u32 first, end;        // blocks
    u32 start;             // row of the first point
    u32 width;             // blocks of a bucket
    Ties ties;
};

__device__ __forceinline__ Buckets buckets_of(float* state, u32 count) {
    u32* words = (u32*)(state + 6ull * count);
    return {state, words, words + count, state + 8ull * count, words + 5ull * count, count};
}

// Squared gap between a sample and a box; computed like a distance, and so never larger than that of a point inside.
__device__ __forceinline__ float gap_to(const Box& box, const Farthest& sample) {
    return squared_length(gap_along(sample.x, box.low[0], box.high[0]), gap_along(sample.y, box.low[1], box.high[1]),
                          gap_along(sample.z, box.low[2], box.high[2]));
}

// Lowers the distances of a bucket's points to those from `sample`, where it is closer, by one warp. FIRST where there are
// no distances yet.
template <bool FIRST>
__device__ __forceinline__ void approach(const Element& e, const Buckets& buckets, u32 bucket, const Farthest& sample,
                                         float* squared) {
    const u32 first = e.first + bucket * e.width, end = min(first + e.width, e.end);
    Farthest best = {0u, MISSING, 0.0f, 0.0f, 0.0f};
    for (u32 block = first; block < end; ++block) {
        const u64 at = (u64)block * 32 + lane_number();
        const float4 p = e.points[at];
        const u32 row = __float_as_uint(p.w);
        const float before = !FIRST ? squared[at] : row == MISSING ? 0.0f : UNSAMPLED;
        // An unused place is NaN and keeps its 0, which loses every tie.
        const float after = fminf(squared_length(__fsub_rn(p.x, sample.x), __fsub_rn(p.y, sample.y), __fsub_rn(p.z, sample.z)),
                                  before);
        if (FIRST || after < before) squared[at] = after;
        const u32 bits = __float_as_uint(after), tie = row == MISSING ? MISSING : e.ties.of(row - e.start);
        if (bits > best.squared || (bits == best.squared && tie < best.tie)) best = {bits, tie, p.x, p.y, p.z};
    }
    best = warp_farthest(best);
    if (lane_number() == 0) buckets.put(bucket, best);
}

// Lists the buckets of a node that the sample may change, by one warp.
__device__ __forceinline__ void list_hits(const Buckets& buckets, u32 node, const Farthest& sample, u32* hits) {
    const u32 bucket = node * 32 + lane_number();
    const bool is_hit =
        bucket < buckets.count && gap_to(buckets.box(bucket), sample) < __uint_as_float(buckets.squared[bucket]);
    const u32 all = __ballot_sync(0xFFFFFFFFu, is_hit);
    u32 first = 0;
    if (lane_number() == 0 && all) first = atomicAdd(hits, (u32)__popc(all));
    first = __shfl_sync(0xFFFFFFFFu, first, 0);
    if (is_hit) buckets.list[first + __popc(all & ((1u << lane_number()) - 1u))] = bucket;
}

// The farthest points that the warps found, side by side.
struct Entries {
    u32 squared[32], tie[32];
    float x[32], y[32], z[32];

    // The farthest of all, known to all threads; `mine` is that of this warp. Holds a barrier.
    __device__ __forceinline__ Farthest farthest(const Farthest& mine) {
        const u32 warp = threadIdx.x >> 5, lane = lane_number();
        if (lane == 0) {
            squared[warp] = mine.squared;
            tie[warp] = mine.tie;
            x[warp] = mine.x;
            y[warp] = mine.y;
            z[warp] = mine.z;
        }
        __syncthreads();
        Farthest other = {0u, MISSING, 0.0f, 0.0f, 0.0f};
        if (lane < blockDim.x >> 5) other = {squared[lane], tie[lane], x[lane], y[lane], z[lane]};
        return warp_farthest(other);
    }
};

// Boxes of all buckets, by all threads of the block.
__device__ __forceinline__ void fill_boxes(const Element& e, const Buckets& buckets, const float* boxes, u32 blocks) {
    for (u32 bucket = threadIdx.x; bucket < buckets.count; bucket += blockDim.x) {
        const u32 first = e.first + bucket * e.width, end = min(first + e.width, e.end);
        Box box = load_bounds(boxes, blocks, first);
        for (u32 block = first + 1; block < end; ++block) {
            const Box other = load_bounds(boxes, blocks, block);
#pragma unroll
            for (int axis = 0; axis < 3; ++axis) {
                box.low[axis] = fminf(box.low[axis], other.low[axis]);
                box.high[axis] = fmaxf(box.high[axis], other.high[axis]);
            }
        }
#pragma unroll
        for (int axis = 0; axis < 3; ++axis) {
            buckets.boxes[(u64)axis * buckets.count + bucket] = box.low[axis];
            buckets.boxes[(u64)(3 + axis) * buckets.count + bucket] = box.high[axis];
        }
    }
}

extern "C" __global__ void __launch_bounds__(FARTHEST_THREADS) farthest_point_samples(
    const float* __restrict__ coord,       // [N, 3]
    const float4* __restrict__ points,     // [M, 32], x, y, z and the bits of the row
    const float* __restrict__ boxes,       // [7, M], of the blocks
    const u32* __restrict__ first_blocks,  // [B + 1], where the elements start among the blocks
    const u32* __restrict__ starts,        // [B + 1], among the points
    const u32* __restrict__ samples,       // [B + 1], and among the samples
    u32 blocks,                            // M
    u32 width,                             // blocks of a bucket; at most 1024 buckets per warp
    u32 tie_bits,                          // 2^tie_bits threads has the reference's kernel
    u32 is_shared,                         // whether the buckets of any element fit into shared memory
    float* __restrict__ squared,           // [M, 32], anything before
    float* __restrict__ state,             // [M, 12], anything before, unless shared
    u32* __restrict__ rows                 // [samples]
) {
    extern __shared__ float4 shared_words[];
    __shared__ Entries entries;
    __shared__ u32 hits;
    const u32 last = samples[blockIdx.x + 1], start = starts[blockIdx.x];
    u32 slot = samples[blockIdx.x];
    if (slot == last) return;  // the whole block, before any barrier
    const u32 first = first_blocks[blockIdx.x], end = first_blocks[blockIdx.x + 1];
    const u32 length = starts[blockIdx.x + 1] - start;
    const Ties ties = {tie_bits, (length + (1u << tie_bits) - 1) >> tie_bits};
    const Element e = {points, first, end, start, width, ties};
    const Buckets buckets =
        buckets_of(is_shared ? (float*)shared_words : state + (u64)STATE_WORDS * first, (end - first + width - 1) / width);
    const u32 warp = threadIdx.x >> 5, lane = lane_number(), warps = blockDim.x >> 5;
    const u32 nodes = (buckets.count + 31) / 32;
    fill_boxes(e, buckets, boxes, blocks);
    Farthest sample = {0u, 0u, coord[3 * (u64)start], coord[3 * (u64)start + 1], coord[3 * (u64)start + 2]};
    for (u32 bucket = warp; bucket < buckets.count; bucket += warps)
        approach<true>(e, buckets, bucket, sample, squared);
    if (threadIdx.x == 0) rows[slot] = start;
    __syncthreads();
    // This lane's node: its box, which holds nothing where there is none, and its farthest point.
    Box own = {{INFINITY, INFINITY, INFINITY}, {-INFINITY, -INFINITY, -INFINITY}, MISSING};
    Farthest mine = {0u, MISSING, 0.0f, 0.0f, 0.0f};
    u32 reached = 0;  // nodes of this warp whose buckets changed
    for (u32 node = warp, l = 0; node < nodes; node += warps, ++l) {
        Box box = {{INFINITY, INFINITY, INFINITY}, {-INFINITY, -INFINITY, -INFINITY}, MISSING};
        if (node * 32 + lane < buckets.count) box = buckets.box(node * 32 + lane);
        box = warp_union(box);
        if (lane == l) own = box;
        reached |= 1u << l;
    }
    while (++slot < last) {
        for (u32 left = reached; left; left &= left - 1) {
            const u32 l = __ffs(left) - 1;
            const Farthest found = warp_farthest(buckets.farthest((warp + warps * l) * 32 + lane));
            if (lane == l) mine = found;
        }
        if (threadIdx.x == 0) hits = 0;
        sample = entries.farthest(warp_farthest(mine));
        if (threadIdx.x == 0) rows[slot] = start + ties.number(sample.tie);
        reached = __ballot_sync(0xFFFFFFFFu, gap_to(own, sample) < __uint_as_float(mine.squared));
        for (u32 left = reached; left; left &= left - 1)
            list_hits(buckets, warp + warps * (__ffs(left) - 1), sample, &hits);
        __syncthreads();
        for (u32 i = warp; i < hits; i += warps) approach<false>(e, buckets, buckets.list[i], sample, squared);
        __syncthreads();
    }
}

// The first samples of every element, of those that are known. A warp takes 256 wanted ones in a row, and looks for their
// element where the last one ends. Bound by latency.
extern "C" __global__ void farthest_point_prefix(
    const u32* __restrict__ rows,     // known samples
    const u32* __restrict__ known,    // [B + 1], where those of the elements start
    const u32* __restrict__ samples,  // [B + 1], and where the wanted ones do
    u32 elements,                     // B
    u64 n,                            // wanted samples
    u32* __restrict__ taken           // [n]
) {
    u32 end = 0;          // of the wanted samples of the element at hand
    u32 from = 0;         // what is added to a wanted sample to find the known one
    const u64 first = warp_number() * PREFIX_SAMPLES, last = min(first + PREFIX_SAMPLES, n);
    for (u64 i = first + lane_number(); i < last; i += 32) {
        if (i >= end) {
            const u32 element = element_of(samples, elements, (u32)i);
            end = samples[element + 1];
            from = known[element] - samples[element];
        }
        taken[i] = rows[(u32)i + from];
    }
}

// Coordinates of the samples. A warp takes 32 samples, in strides. Bound by latency.
extern "C" __global__ void farthest_point_coord(
    const float* __restrict__ coord,  // [N, 3]
    const u32* __restrict__ rows,     // [S]
    u64 n,                            // S
    float* __restrict__ sampled       // [S, 3]
) {
    for (u64 first = first_of_warp(); first < n; first += element_stride()) {
        const u64 i = first + lane_number();
        float lines[3];
        gather_lines(coord, i < n ? rows[i] : MISSING, lines);
#pragma unroll
        for (u32 j = 0; j < 3; ++j)
            if (3 * first + 32 * j + lane_number() < 3 * n) sampled[3 * first + 32 * j + lane_number()] = lines[j];
    }
}
