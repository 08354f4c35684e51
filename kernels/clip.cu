// Length of a gradient, and its limit. Bandwidth: each value is read once; shortening reads and writes it once more.
#include "common.cuh"

#define CLIP_THREADS 256

// Sum over the threads of a block of CLIP_THREADS, known to its first thread. The order of the additions is fixed.
__device__ __forceinline__ double sum_of_block(double x) {
    __shared__ double sums[CLIP_THREADS / 32];
    x = warp_sum(x);
    if (lane_number() == 0) sums[threadIdx.x >> 5] = x;
    __syncthreads();
    double all = 0.0;
    if (threadIdx.x == 0) {
        for (u32 warp = 0; warp < CLIP_THREADS / 32; ++warp) all += sums[warp];
    }
    return all;
}

// A block adds up the squares of `piece` values.
extern "C" __global__ void __launch_bounds__(CLIP_THREADS) clip_squares(
    const float* __restrict__ x,   // [n]
    u64 n,
    u64 piece,
    double* __restrict__ squares   // [ceil(n / piece)]
) {
    const u64 start = blockIdx.x * piece;
    const u64 end = start + piece < n ? start + piece : n;
    double sum = 0.0;
    for (u64 i = start + threadIdx.x; i < end; i += CLIP_THREADS) sum += (double)x[i] * (double)x[i];
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

// One block: the root of the sum of the squares.
extern "C" __global__ void __launch_bounds__(CLIP_THREADS) clip_length(
    const double* __restrict__ squares,  // [count]
    u64 count,
    double* __restrict__ length          // [1]
) {
    double sum = 0.0;
    for (u64 i = threadIdx.x; i < count; i += CLIP_THREADS) sum += squares[i];
    sum = sum_of_block(sum);
    if (threadIdx.x == 0) *length = sqrt(sum);
}

// A thread per value, in strides.
extern "C" __global__ void clip_shorten(
    float factor,
    u64 n,
    float* __restrict__ x  // [n], multiplied
) {
    for (u64 i = first_element(); i < n; i += element_stride()) x[i] *= factor;
}
