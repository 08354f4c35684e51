// Farthest point sampling over a search tree (tree.cu): exact, in the order of the reference code.
//
// Each sample depends on the one before, so what counts is the time from one sample to the next, not throughput. One block
// takes one element of the batch, all elements at once: more blocks per element would have to wait for each other through
// global memory. Barriers cost, too; so samples are taken in rounds of many, with five or six barriers each.
//
// A point's key is its squared distance to the nearest sample and, below that, its place in the order of ties. The next
// sample is the point of the highest key, and keys only fall: samples come in falling order of the keys at which they are
// taken. So the samples down to a key `from` are among the points whose key is `from` or more now, the candidates. A round
// 1. picks from the candidates until none that is left has a key of `from` or more. All candidates look at all others at
//    once, a warp at each. One is picked when none of a higher key that is still open lies so near that it would lower its
//    distance: whatever is sampled before it has a higher key at that time and so now, and is not near. One that lies near
//    a pick of a higher key, which is sampled before it, takes the lower distance and stays, or is out of the round. The
//    highest one always is picked, so this ends, and soon, since few have more than one neighbour.
//    In the order of their keys the picks are the next samples;
// 2. lists the buckets with a point which a pick may be closer to than all samples before, or with a candidate of the next
//    round, each with its picks: a warp tests 32 picks at once against a node, then the 32 buckets of the node against
//    each pick that is near;
// 3. shares the listed buckets among the warps: one coalesced read of 32 points and distances each, then the minimum over
//    the picks that are near, in any order. Candidates for the next round are gathered on the way.
// `from` falls by a step that grows while there are few candidates and shrinks while there are many. Where there are none,
// it starts again below the farthest point. Where there are more than fit, none is picked, and `from` rises to the key of
// one of those that fit, chosen so that about the wanted number of all is above. So lattices are no trouble, where
// thousands of points are equally far: a step may be less than a distance, some places in the order of ties.
//
// The points lie in buckets of 32 (a block of the tree; several where an element has more than 2^20 points), 32 buckets to
// a node. What is known of a bucket, its box, its largest distance and its place in the list, lies in shared memory where
// it fits: 52 bytes, so 80 000 points take 130 KB. Boxes of nodes live in registers: node w + l * warps in lane l of warp
// w. Bound by the instructions that one multiprocessor issues, half of them for listed buckets.
#include "candidates.cuh"

#define FARTHEST_THREADS 1024
#define PREFIX_SAMPLES 256    // of a warp of farthest_point_prefix; as PREFIX in geometry/cuda/farthest_point.rs
#define UNSAMPLED 1e10f       // squared distance of a point before any sample, m^2

// What is known of the buckets of one element: 13 words each, as STATE in geometry/cuda/farthest_point.rs.
struct Buckets {
    float4* low;   // [count], lowest x, y, z; largest squared distance of a point
    float4* high;  // [count], highest x, y, z
    uint4* hits;   // [count], picks near to the bucket in the same place of the list, a bit each
    u32* list;     // [count], buckets to go through in this round
    u32 count;

    __device__ __forceinline__ Box box(const float4& low, u32 bucket) const {
        const float4 top = high[bucket];
        return {{low.x, low.y, low.z}, {top.x, top.y, top.z}, MISSING};
    }
};

// Buckets that start at `first` of `all` in memory.
__device__ __forceinline__ Buckets buckets_of(float4* state, u64 all, u64 first, u32 count) {
    return {state + first, state + all + first, (uint4*)(state + 2 * all) + first, (u32*)(state + 3 * all) + first, count};
}

// Squared gap between a point and a box; computed like a distance, and so never larger than that of a point inside.
__device__ __forceinline__ float gap_to(const Box& box, const float4& p) {
    return squared_length(gap_along(p.x, box.low[0], box.high[0]), gap_along(p.y, box.low[1], box.high[1]),
                          gap_along(p.z, box.low[2], box.high[2]));
}

// Bits of the largest distance of any point, by all threads. Holds two barriers; round.most is 0 before the first.
__device__ __forceinline__ u32 farthest(Round& round, const Buckets& buckets) {
    __syncthreads();
    u32 most = 0;
    for (u32 bucket = threadIdx.x; bucket < buckets.count; bucket += blockDim.x) most = max(most, __float_as_uint(buckets.low[bucket].w));
    most = warp_highest(most);
    if (lane_number() == 0) atomicMax(&round.most, most);
    __syncthreads();
    return round.most;
}

// Reserves places for the lanes that want one: that of this lane, by a whole warp.
__device__ __forceinline__ u32 place_in(u32* count, bool is_wanted) {
    const u32 all = __ballot_sync(0xFFFFFFFFu, is_wanted);
    u32 first = 0;
    if (lane_number() == 0 && all) first = atomicAdd(count, (u32)__popc(all));
    return __shfl_sync(0xFFFFFFFFu, first, 0) + __popc(all & ((1u << lane_number()) - 1u));
}

// Lists the buckets of a node that a pick may change or that hold candidates, by one warp.
__device__ __forceinline__ void list_node(const Buckets& buckets, u32 node, const Box& around, Round& round,
                                          u32 count, Key from) {
    const u32 bucket = node * 32 + lane_number();
    const bool exists = bucket < buckets.count;
    float4 low = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (exists) low = buckets.low[bucket];
    const u32 squared = __float_as_uint(low.w), most = warp_highest(squared);
    Box box = {};
    if (exists) box = buckets.box(low, bucket);
    u32 hits[GROUPS], any = 0;
#pragma unroll
    for (u32 g = 0; g < GROUPS; ++g) {
        hits[g] = 0;
        if (32 * g >= count) continue;
        const u32 i = 32 * g + lane_number();
        const bool is_near = i < count && gap_to(around, round.picks[i]) < __uint_as_float(most);
        for (u32 left = __ballot_sync(0xFFFFFFFFu, is_near); left; left &= left - 1) {
            const u32 number = __ffs(left) - 1;
            if (gap_to(box, round.picks[32 * g + number]) < low.w) hits[g] |= 1u << number;
        }
        any |= hits[g];
    }
    const bool is_listed = any || squared >= squared_of(from);
    const u32 place = place_in(&round.listed, is_listed);
    if (!is_listed) return;
    buckets.list[place] = bucket;
    buckets.hits[place] = make_uint4(hits[0], hits[1], hits[2], hits[3]);
}

// Adds the lanes' points to the candidates where their key is `from` or more, by one warp.
__device__ __forceinline__ void gather(Round& round, const Element& e, const float4& p, u32 squared, Key from) {
    const u32 tie = e.ties.of(__float_as_uint(p.w) - e.start);  // an unused place has distance 0
    const bool is_candidate = key_of(squared, tie) >= from;
    const u32 place = place_in(&round.found, is_candidate);
    if (!is_candidate || place >= CANDIDATES) return;
    round.places[place] = make_float4(p.x, p.y, p.z, __uint_as_float(tie));
    round.squared[0][place] = squared;
}

// Lowers the distances of a bucket's points to those from the picks that `hits` names, where they are closer, and gathers
// candidates, by one warp. FIRST where there are no distances yet.
template <bool FIRST>
__device__ __forceinline__ void approach(const Element& e, const Buckets& buckets, u32 bucket, const u32* hits,
                                         Round& round, Key from, float* squared) {
    const u32 first = e.first + bucket * e.width, end = min(first + e.width, e.end);
    u32 most = 0;
    for (u32 block = first; block < end; ++block) {
        const u64 at = (u64)block * 32 + lane_number();
        const float4 p = e.points[at];
        const float before = !FIRST ? squared[at] : __float_as_uint(p.w) == MISSING ? 0.0f : UNSAMPLED;
        // An unused place is NaN and keeps its 0.
        float after = before;
#pragma unroll
        for (u32 g = 0; g < GROUPS; ++g)
            for (u32 left = hits[g]; left; left &= left - 1)
                after = fminf(__uint_as_float(bits_between(p, round.picks[32 * g + __ffs(left) - 1])), after);
        if (FIRST || after < before) squared[at] = after;
        const u32 farthest = warp_highest(__float_as_uint(after));
        if (!FIRST && farthest >= squared_of(from)) gather(round, e, p, __float_as_uint(after), from);
        most = max(most, farthest);
    }
    if (lane_number() == 0) buckets.low[bucket].w = __uint_as_float(most);
}

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
        buckets.low[bucket] = make_float4(box.low[0], box.low[1], box.low[2], 0.0f);
        buckets.high[bucket] = make_float4(box.high[0], box.high[1], box.high[2], 0.0f);
    }
}

// Box `lane` of those that the lanes hold, known to all of them.
__device__ __forceinline__ Box box_of(const Box& own, u32 lane) {
    Box box = own;
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
        box.low[axis] = __shfl_sync(0xFFFFFFFFu, own.low[axis], lane);
        box.high[axis] = __shfl_sync(0xFFFFFFFFu, own.high[axis], lane);
    }
    return box;
}

// The step by which the next candidates are looked for, after one that found so many.
__device__ __forceinline__ u64 next_step(u64 step, u32 found) {
    if (found < WANTED / 4) return min(4 * step, LARGEST_STEP);
    if (found < WANTED / 2) return min(2 * step, LARGEST_STEP);
    if (found < WANTED * 3 / 4) return step + step / 4;
    return found > WANTED * 5 / 4 ? step - step / 4 : step;
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
    float4* __restrict__ state,            // [M, 13] words, anything before, unless shared
    u32* __restrict__ rows                 // [samples]
) {
    extern __shared__ float4 shared_words[];
    __shared__ Round round;
    const u32 last = samples[blockIdx.x + 1], start = starts[blockIdx.x];
    u32 slot = samples[blockIdx.x];
    if (slot == last) return;  // the whole block, before any barrier
    const u32 first = first_blocks[blockIdx.x], end = first_blocks[blockIdx.x + 1];
    const u32 length = starts[blockIdx.x + 1] - start;
    const Ties ties = {tie_bits, (length + (1u << tie_bits) - 1) >> tie_bits};
    const Element e = {points, first, end, start, width, ties};
    const u32 count = (end - first + width - 1) / width;
    const Buckets buckets = is_shared ? buckets_of(shared_words, count, 0, count) : buckets_of(state, blocks, first, count);
    const u32 warp = threadIdx.x >> 5, lane = lane_number(), warps = blockDim.x >> 5;
    const u32 nodes = (count + 31) / 32;
    fill_boxes(e, buckets, boxes, blocks);
    if (threadIdx.x == 0) {
        rows[slot] = start;
        round.picks[0] = make_float4(coord[3 * (u64)start], coord[3 * (u64)start + 1], coord[3 * (u64)start + 2], 0.0f);
        round.found = 0;
    }
    __syncthreads();
    Box own = {};  // of this lane's node
    for (u32 node = warp, l = 0; node < nodes; node += warps, ++l) {
        Box box = {{INFINITY, INFINITY, INFINITY}, {-INFINITY, -INFINITY, -INFINITY}, MISSING};
        if (node * 32 + lane < buckets.count) box = buckets.box(buckets.low[node * 32 + lane], node * 32 + lane);
        box = warp_union(box);
        if (lane == l) own = box;
    }
    __syncthreads();
    for (u32 bucket = warp; bucket < buckets.count; bucket += warps) {
        const u32 hits[GROUPS] = {1u};
        approach<true>(e, buckets, bucket, hits, round, 0, squared);
    }
    ++slot;
    __syncthreads();
    Key from = 0;
    u64 step = FIRST_STEP;
    while (slot < last) {
        const u32 found = round.found;
        u32 picked = 0;
        if (threadIdx.x == 0) round.listed = round.most = 0;
        if (found == 0) {
            const u32 most = farthest(round, buckets);
            if (most == 0) {  // all places are sampled: the first again
                for (u32 i = slot + threadIdx.x; i < last; i += blockDim.x) rows[i] = start;
                return;
            }
            from = lower((u64)most << 32, step);
        } else if (found > CANDIDATES) {
            raise(round, found);
            from = round.from;
            step = max(round.top - from, 1ull);
        } else {
            picked = pick(round, found, from, e, last - slot, rows + slot);
            slot += picked;
            if (slot == last) return;
            step = next_step(step, found);
            from = lower(from, step);
        }
        if (threadIdx.x == 0) round.found = 0;
        for (u32 node = warp, l = 0; node < nodes; node += warps, ++l)
            list_node(buckets, node, box_of(own, l), round, picked, from);
        __syncthreads();
        const u32 listed = round.listed;
        for (u32 i = warp; i < listed; i += warps) {
            const uint4 near = buckets.hits[i];
            const u32 hits[GROUPS] = {near.x, near.y, near.z, near.w};
            approach<false>(e, buckets, buckets.list[i], hits, round, from, squared);
        }
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
