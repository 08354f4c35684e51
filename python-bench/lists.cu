// Index lists by brute force, as the CUDA extensions of the official code find them. `cuda_lists.py` launches these.
//
// Squared distances are ((x² + y²) + z²) in single precision without fused steps, so that ties fall as on the CPU.

#define TILE 128  // threads of a block of `nearest_*` and `ball`, and points that it holds in shared memory

__device__ __forceinline__ float squared(const float* a, float x, float y, float z) {
    const float dx = a[0] - x, dy = a[1] - y, dz = a[2] - z;
    return __fadd_rn(__fadd_rn(__fmul_rn(dx, dx), __fmul_rn(dy, dy)), __fmul_rn(dz, dz));
}

// Brings the next points of a cloud to shared memory, by all threads of the block; returns how many.
__device__ __forceinline__ int fetch(const float* points, int from, int end, float* tile) {
    const int count = min(TILE, end - from);
    __syncthreads();
    for (int i = threadIdx.x; i < 3 * count; i += TILE) tile[i] = points[3ll * from + i];
    __syncthreads();
    return count;
}

// A thread finds the K nearest of the points `first` to `end` of one query, sorted, in registers. A missing one is -1, 1e5 m
// away. Bound by arithmetic.
template <int K>
__device__ __forceinline__ void nearest(const float* points, int first, int end, const float* query, int query_first,
                                        int query_end, long long* index, float* distance) {
    __shared__ float tile[3 * TILE];
    const int row = query_first + blockIdx.x * TILE + threadIdx.x;
    const float* at = query + 3ll * min(row, query_end - 1);
    const float x = at[0], y = at[1], z = at[2];
    float best[K];
    int found[K];
#pragma unroll
    for (int j = 0; j < K; ++j) best[j] = 1e10f, found[j] = -1;
    for (int from = first; from < end; from += TILE) {
        const int count = fetch(points, from, end, tile);
        for (int i = 0; i < count; ++i) {
            const float d = squared(tile + 3 * i, x, y, z);
            if (d < best[K - 1]) {
#pragma unroll
                for (int j = K - 1; j >= 0; --j) {
                    if (j > 0 && d < best[j - 1]) {
                        best[j] = best[j - 1], found[j] = found[j - 1];
                    } else if (d < best[j]) {
                        best[j] = d, found[j] = from + i;
                    }
                }
            }
        }
    }
    if (row < query_end) {
#pragma unroll
        for (int j = 0; j < K; ++j) {
            index[(long long)row * K + j] = found[j];
            distance[(long long)row * K + j] = sqrtf(best[j]);
        }
    }
}

#define NEAREST(K)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(TILE) nearest_##K(                                                    \
        const float* points,                                                       /* [N, 3] */                        \
        int first, int end, const float* query,                                    /* [M, 3] */                        \
        int query_first, int query_end, long long* index, float* distance) { /* [M, K] each */                         \
        nearest<K>(points, first, end, query, query_first, query_end, index, distance);                                \
    }
NEAREST(3)
NEAREST(8)
NEAREST(16)

// A thread finds the first `most` points of `first` to `end` in row order that lie within the radius of one of them.
extern "C" __global__ void __launch_bounds__(TILE) ball(const float* points,  // [N, 3]
                                                        int first, int end, float squared_radius, int most,
                                                        long long* index) {  // [N, most], -1 where there are fewer
    __shared__ float tile[3 * TILE];
    const int row = first + blockIdx.x * TILE + threadIdx.x;
    const float* at = points + 3ll * min(row, end - 1);
    const float x = at[0], y = at[1], z = at[2];
    int found = row < end ? 0 : most;
    for (int from = first; from < end && __syncthreads_or(found < most); from += TILE) {
        const int count = fetch(points, from, end, tile);
        for (int i = 0; i < count && found < most; ++i) {
            if (squared(tile + 3 * i, x, y, z) <= squared_radius) index[(long long)row * most + found++] = from + i;
        }
    }
    for (; found < most; ++found) index[(long long)row * most + found] = -1;
}

// A block samples one cloud, each time the point that is furthest from all samples before, the first point first. Of equally
// far ones it takes that which the lowest thread meets first: thread t of T looks at the points t, t + T, ... Bound by the
// bandwidth of one multiprocessor to L2.
extern "C" __global__ void __launch_bounds__(1024) furthest(const float* points,     // [N, 3]
                                                            const int* offsets,      // [B + 1]
                                                            const int* sample_ends,  // [B + 1]
                                                            int looking,             // T <= threads of a block
                                                            float* nearest,          // [N], 1e10 everywhere
                                                            long long* rows) {       // samples of all clouds
    __shared__ unsigned long long best[2][32];
    __shared__ int chosen[2][1024];
    const int first = offsets[blockIdx.x], end = offsets[blockIdx.x + 1], thread = threadIdx.x;
    const int warps = blockDim.x / 32, lane = thread % 32;
    int at = first;
    for (int s = sample_ends[blockIdx.x]; s < sample_ends[blockIdx.x + 1]; ++s) {
        const int side = s & 1;  // two buffers, so that one barrier a sample is enough
        if (thread == 0) rows[s] = at;
        const float x = points[3ll * at], y = points[3ll * at + 1], z = points[3ll * at + 2];
        float most = -1.0f;
        int mine = first;
        if (thread < looking) {
            for (int i = first + thread; i < end; i += looking) {
                const float d = fminf(nearest[i], squared(points + 3ll * i, x, y, z));
                nearest[i] = d;
                if (d > most) most = d, mine = i;
            }
        }
        chosen[side][thread] = mine;
        // Distances are not negative, so their bits are ordered as they are; then the lower thread.
        unsigned long long key = most < 0.0f ? 0ull : ((unsigned long long)__float_as_uint(most) << 32) | (1023 - thread);
        for (int step = 16; step > 0; step /= 2) key = max(key, __shfl_xor_sync(~0u, key, step));
        if (lane == 0) best[side][thread / 32] = key;
        __syncthreads();
        key = lane < warps ? best[side][lane] : 0ull;
        for (int step = 16; step > 0; step /= 2) key = max(key, __shfl_xor_sync(~0u, key, step));
        at = chosen[side][1023 - (int)(key & 1023)];
    }
}
