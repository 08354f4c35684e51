// Mean and covariance of the offsets to neighbours, in double precision and a fixed order. A block of 256 threads adds up
// every 256th slot of a chunk; one block adds up the chunks. Bound by bandwidth; by double precision on consumer GPUs.
#include "common.cuh"

#define MOMENTS 9

// Sums of the values of a block of 256 threads, known to its first thread.
__device__ __forceinline__ void block_sums(double* sums, double (*parts)[8]) {
#pragma unroll
    for (int m = 0; m < MOMENTS; ++m) {
        sums[m] = warp_sum(sums[m]);
        if (lane_number() == 0) parts[m][threadIdx.x >> 5] = sums[m];
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
#pragma unroll
    for (int m = 0; m < MOMENTS; ++m) {
        sums[m] = 0.0;
        for (int warp = 0; warp < 8; ++warp) sums[m] += parts[m][warp];
    }
}

// parts[chunk] = sums of x, y, z, xx, xy, xz, yy, yz, zz
extern "C" __global__ void __launch_bounds__(256) moments_sums(
    const float* __restrict__ x,     // [N, K]
    const float* __restrict__ y,     // [N, K]
    const float* __restrict__ z,     // [N, K]
    u64 n,                           // N * K
    u64 chunk,                       // slots of a block
    double* __restrict__ parts       // [chunks, 9]
) {
    __shared__ double warps[MOMENTS][8];
    double sums[MOMENTS] = {};
    const u64 first = blockIdx.x * chunk, end = first + chunk < n ? first + chunk : n;
    for (u64 i = first + threadIdx.x; i < end; i += 256) {
        const double p[3] = {x[i], y[i], z[i]};
        int m = 3;
#pragma unroll
        for (int a = 0; a < 3; ++a) {
            sums[a] += p[a];
#pragma unroll
            for (int b = a; b < 3; ++b) sums[m++] += p[a] * p[b];
        }
    }
    block_sums(sums, warps);
    if (threadIdx.x == 0)
#pragma unroll
        for (int m = 0; m < MOMENTS; ++m) parts[(u64)blockIdx.x * MOMENTS + m] = sums[m];
}

// moments = means of x, y, z, covariances xx, xy, xz, yy, yz, zz; by one block
extern "C" __global__ void __launch_bounds__(256) moments_finish(
    const double* __restrict__ parts,  // [chunks, 9]
    u32 chunks,
    u64 n,                             // N * K
    double* __restrict__ moments       // [9]
) {
    __shared__ double warps[MOMENTS][8];
    double sums[MOMENTS] = {};
    for (u32 i = threadIdx.x; i < chunks; i += 256)
#pragma unroll
        for (int m = 0; m < MOMENTS; ++m) sums[m] += parts[(u64)i * MOMENTS + m];
    block_sums(sums, warps);
    if (threadIdx.x != 0) return;
#pragma unroll
    for (int m = 0; m < MOMENTS; ++m) sums[m] = n ? sums[m] / (double)n : 0.0;
    int m = 3;
#pragma unroll
    for (int a = 0; a < 3; ++a) {
        moments[a] = sums[a];
#pragma unroll
        for (int b = a; b < 3; ++b, ++m) {
            const double covariance = sums[m] - sums[a] * sums[b];
            moments[m] = a == b && covariance < 0.0 ? 0.0 : covariance;
        }
    }
}
