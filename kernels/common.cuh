// What every kernel file includes: types and the few instructions that C++ has no name for.
//
// Kernels need no toolkit header. Counts and places of elements are 64 bits wide, since a batch may hold more than 2^31
// values; row and column numbers are 32 bits wide.
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;

// An entry of an index list that names no row.
#define MISSING 0xFFFFFFFFu

#define INFINITY __int_as_float(0x7F800000)

// First element of this thread, and the step to its next one, in a kernel that walks over its elements in strides.
__device__ __forceinline__ u64 first_element() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ u64 element_stride() { return (u64)gridDim.x * blockDim.x; }

// max(x, 0); NaN stays NaN.
__device__ __forceinline__ float rectify(float x) { return x < 0.0f ? 0.0f : x; }

// Row and column of element i of a matrix. Divides in 32 bits wherever the numbers allow it.
__device__ __forceinline__ void place_of(u64 i, u32 cols, u64& row, u32& col) {
    if (i >> 32) {
        row = i / cols;
        col = (u32)(i - row * cols);
    } else {
        const u32 r = (u32)i / cols;
        row = r;
        col = (u32)i - r * cols;
    }
}

// Writes two values at once, which the compiler would write one by one.
__device__ __forceinline__ void store_two(float* x, float2 value) {
    asm volatile("st.global.v2.f32 [%0], {%1,%2};" ::"l"(__cvta_generic_to_global(x)), "f"(value.x), "f"(value.y)
                 : "memory");
}

// Columns c and c + 1 of a row of x, of which the second may not exist, from element `at` on: one read or write where rows
// of an even width keep them aligned.
__device__ __forceinline__ float2 load_pair(const float* x, u64 at, u64 c, u64 cols) {
    if (cols % 2 == 0) return *(const float2*)(x + at);
    return make_float2(x[at], c + 1 < cols ? x[at + 1] : 0.0f);
}
__device__ __forceinline__ void store_pair(float* x, u64 at, u64 c, u64 cols, float2 value) {
    if (cols % 2 == 0) {
        store_two(x + at, value);
        return;
    }
    x[at] = value.x;
    if (c + 1 < cols) x[at + 1] = value.y;
}

// Number of this warp in the grid, and of this thread in its warp.
__device__ __forceinline__ u64 warp_number() { return ((u64)blockIdx.x * blockDim.x + threadIdx.x) >> 5; }
__device__ __forceinline__ u32 lane_number() { return threadIdx.x & 31u; }

// Sum and maximum over the lanes of a whole warp, known to all of them. The order of the additions is fixed.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(0xFFFFFFFFu, x, step);
    return x;
}
__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(0xFFFFFFFFu, x, step);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, step));
    return x;
}

// x[i] and x[i - 1] of consecutive lanes, x[i] itself where i = 0: one read of a line, whose values change lanes.
template <typename T>
__device__ __forceinline__ T with_previous(const T* x, u64 i, u64 n, T& previous) {
    const T own = x[i < n ? i : n - 1];
    previous = __shfl_up_sync(0xFFFFFFFFu, own, 1);
    if (lane_number() == 0 && i < n) previous = x[i > 0 ? i - 1 : 0];
    return own;
}

// x[i] and x[i + 1] of consecutive lanes, i < n; x has more than n entries.
template <typename T>
__device__ __forceinline__ T with_next(const T* x, u64 i, u64 n, T& next) {
    const T own = x[i < n ? i : n];
    next = __shfl_down_sync(0xFFFFFFFFu, own, 1);
    if (lane_number() == 31) next = x[i < n ? i + 1 : n];
    return own;
}

// Running total of a warp: the sum over this lane and all before it.
__device__ __forceinline__ u32 warp_totals_through(u32 x) {
#pragma unroll
    for (u32 step = 1; step < 32; step <<= 1) {
        const u32 below = __shfl_up_sync(0xFFFFFFFFu, x, step);
        if (lane_number() >= step) x += below;
    }
    return x;
}

// Running total of a block of up to 1024 threads, whole warps: the sum over all threads before this one, and over all.
// `places` has an entry per warp and may be used again after the next barrier.
__device__ __forceinline__ u32 block_totals_before(u32 x, u32* places, u32& total) {
    const u32 warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const u32 through = warp_totals_through(x);
    __syncthreads();
    if (lane_number() == 31) places[warp] = through;
    __syncthreads();
    u32 before = through - x;
    total = 0;
    for (u32 w = 0; w < warps; ++w) {
        const u32 sum = places[w];
        if (w < warp) before += sum;
        total += sum;
    }
    return before;
}

// Sum of n values by one block of 1024 threads, known to its first thread. Each thread adds up every 1024th value.
__device__ __forceinline__ double block_sum(const float* x, u64 n) {
    __shared__ double sums[32];
    double sum = 0.0;
    for (u64 i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
    sum = warp_sum(sum);
    if (lane_number() == 0) sums[threadIdx.x >> 5] = sum;
    __syncthreads();
    if (threadIdx.x < 32) sum = warp_sum(sums[threadIdx.x]);
    return sum;
}

// Softmax of one row by one warp, its lanes across the channels; p may be null. Gives the logarithm of the sum of the
// exponentials.
__device__ __forceinline__ float softmax_row(const float* x, u32 cols, float* p) {
    float largest = -INFINITY;
    for (u32 c = lane_number(); c < cols; c += 32) largest = fmaxf(largest, x[c]);
    largest = warp_max(largest);
    float sum = 0.0f;
    for (u32 c = lane_number(); c < cols; c += 32) sum += expf(x[c] - largest);
    sum = warp_sum(sum);
    if (p) {
        const float share = 1.0f / sum;
        for (u32 c = lane_number(); c < cols; c += 32) p[c] = expf(x[c] - largest) * share;
    }
    return largest + logf(sum);
}

// Adds one step of a matrix product, which a tensor core has summed up from 0. A tensor core cuts its sums off where f32
// ends instead of rounding them (Ootomo and Yokota 2022), so a sum that stayed in it from step to step would shrink a
// little at each.
__device__ __forceinline__ void add_step(float* d, const float* step) {
#pragma unroll
    for (int v = 0; v < 4; ++v) d[v] += step[v];
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
// x as the sum of two TF32 numbers of 11 significant bits each, nearly exactly.
__device__ __forceinline__ u32 round_tf32(float x) {
    u32 bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}
__device__ __forceinline__ void split_tf32(float x, u32& high, u32& low) {
    high = round_tf32(x);
    low = round_tf32(x - __uint_as_float(high));
}

// d = a b + c on a tensor core by one warp: a is 16 x 8, b 8 x 8, c and d 16 x 8. With row = lane / 4 and col = lane % 4 a
// lane holds a[row + 8 (v % 2)][col + 4 (v / 2)], b[col + 4 v][row] and d[row + 8 (v / 2)][2 col + v % 2].
__device__ __forceinline__ void mma_tf32(float* d, const u32* a, const u32* b, const float* c) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

// d += a b for f32 in two halves each, placed as in mma_tf32; see add_step. The product of the low halves is left out: it
// is smaller than what rounding d loses.
__device__ __forceinline__ void multiply_split(float* d, const u32* a_high, const u32* a_low, const u32* b_high,
                                               const u32* b_low) {
    const float zero[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    float step[4];
    mma_tf32(step, a_low, b_high, zero);
    mma_tf32(step, a_high, b_low, step);
    mma_tf32(step, a_high, b_high, step);
    add_step(d, step);
}
#endif

// Products of half precision: the compiler is told which of the two kinds a file is compiled for, if any. Operands are
// rounded to nearest; sums and everything else stay f32.
#if defined(PRODUCTS_BF16)
#define HALF "bf16"
#elif defined(PRODUCTS_F16)
#define HALF "f16"
#endif

#if defined(HALF)
// One value rounded to half.
__device__ __forceinline__ unsigned short round_half(float x) {
    unsigned short bits;
    asm("cvt.rn." HALF ".f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}

// Two values rounded to half, the first in the low bits.
__device__ __forceinline__ u32 half_pair(float low, float high) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    u32 bits;
    asm("cvt.rn." HALF "x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
#else
    return round_half(low) | (u32)round_half(high) << 16;
#endif
}

// d = a b + c on a tensor core by one warp: a is 16 x 8, b 8 x 8, c and d 16 x 8. With row = lane / 4 and col = lane % 4 a
// lane holds the pairs a[row + 8 v][2 col, 2 col + 1], b[2 col, 2 col + 1][row] and d[row + 8 (v / 2)][2 col + v % 2].
__device__ __forceinline__ void mma_half(float* d, const u32* a, u32 b, const float* c) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32." HALF "." HALF ".f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

// d += a b, placed as in mma_half; see add_step.
__device__ __forceinline__ void multiply_half_8(float* d, const u32* a, u32 b) {
    const float zero[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    float step[4];
    mma_half(step, a, b, zero);
    add_step(d, step);
}

// The same for a of 16 x 16 and b of 16 x 8: behind the operands of the first eight numbers of the inner index lie
// those of the other eight.
__device__ __forceinline__ void multiply_half_16(float* d, const u32* a, const u32* b) {
    const float zero[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    float step[4];
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32." HALF "." HALF ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%10,%11,%12,%13};"
        : "=f"(step[0]), "=f"(step[1]), "=f"(step[2]), "=f"(step[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(zero[0]), "f"(zero[1]), "f"(zero[2]),
          "f"(zero[3]));
#else
    mma_half(step, a, b[0], zero);
    mma_half(step, a + 2, b[1], step);
#endif
    add_step(d, step);
}
#endif

// First word of Philox 4x32-10 (Salmon et al. 2011) at a counter; the same numbers as device/random.rs.
__device__ __forceinline__ u32 philox_word(u64 seed, u64 stream, u64 index) {
    u32 k0 = (u32)seed, k1 = (u32)(seed >> 32);
    u32 x0 = (u32)index, x1 = (u32)(index >> 32), x2 = (u32)stream, x3 = (u32)(stream >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const u64 p0 = (u64)0xD2511F53u * x0, p1 = (u64)0xCD9E8D57u * x2;
        x0 = (u32)(p1 >> 32) ^ x1 ^ k0;
        x1 = (u32)p1;
        x2 = (u32)(p0 >> 32) ^ x3 ^ k1;
        x3 = (u32)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return x0;
}

// What a random mask multiplies number `index` of its stream by: 0 with probability rate, else 1 / (1 - rate).
__device__ __forceinline__ float dropout_factor(u64 seed, u64 stream, u64 index, float rate) {
    const float uniform = (float)(philox_word(seed, stream, index) >> 8) * (1.0f / 16777216.0f);
    return uniform < rate ? 0.0f : 1.0f / (1.0f - rate);
}
