// Products of small matrices by one warp, operands in registers.
//
// A product adds a b to d, where a is 16 x 8, b 8 x 8 and d 16 x 8. With row = lane / 4 and col = lane % 4 a lane holds
// a[row + 8 (v % 2)][col + 4 (v / 2)], b[col + 4 v][row] and d[row + 8 (v / 2)][2 col + v % 2]. The inner index may be
// numbered in any way, as long as a and b agree. Tensor cores multiply f32 split in two TF32 halves, as in gemm.cuh; GPUs
// whose tensor cores know no TF32 exchange values between lanes instead. In half precision operands are rounded when they
// are made; the instruction pairs neighbours of the inner index, which here are the numbers col and col + 4.
#pragma once
#include "common.cuh"

// Row and column of this lane in an operand.
__device__ __forceinline__ u32 lane_row() { return lane_number() / 4; }
__device__ __forceinline__ u32 lane_col() { return lane_number() % 4; }

#if defined(HALF)
struct Left {
    u32 pairs[2];
};
struct Right {
    u32 pair;
};

__device__ __forceinline__ Left left_of(float x0, float x1, float x2, float x3) {
    return {{half_pair(x0, x2), half_pair(x1, x3)}};
}
__device__ __forceinline__ Right right_of(float x0, float x1) { return {half_pair(x0, x1)}; }

__device__ __forceinline__ void multiply(float* d, const Left& a, const Right& b) { multiply_half_8(d, a.pairs, b.pair); }
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
struct Left {
    u32 high[4], low[4];
};
struct __align__(16) Right {
    u32 high[2], low[2];
};

__device__ __forceinline__ Left left_of(float x0, float x1, float x2, float x3) {
    Left a;
    split_tf32(x0, a.high[0], a.low[0]);
    split_tf32(x1, a.high[1], a.low[1]);
    split_tf32(x2, a.high[2], a.low[2]);
    split_tf32(x3, a.high[3], a.low[3]);
    return a;
}

__device__ __forceinline__ Right right_of(float x0, float x1) {
    Right b;
    split_tf32(x0, b.high[0], b.low[0]);
    split_tf32(x1, b.high[1], b.low[1]);
    return b;
}

__device__ __forceinline__ void multiply(float* d, const Left& a, const Right& b) {
    multiply_split(d, a.high, a.low, b.high, b.low);
}
#else
struct Left {
    float x[4];
};
struct Right {
    float x[2];
};

__device__ __forceinline__ Left left_of(float x0, float x1, float x2, float x3) { return {{x0, x1, x2, x3}}; }
__device__ __forceinline__ Right right_of(float x0, float x1) { return {{x0, x1}}; }

__device__ __forceinline__ void multiply(float* d, const Left& a, const Right& b) {
    const u32 first = lane_number() & ~3u, col = lane_col();
#pragma unroll
    for (u32 k = 0; k < 8; ++k) {
        const float a0 = __shfl_sync(0xFFFFFFFFu, a.x[k / 4 * 2], first + k % 4);
        const float a1 = __shfl_sync(0xFFFFFFFFu, a.x[k / 4 * 2 + 1], first + k % 4);
        const float b0 = __shfl_sync(0xFFFFFFFFu, b.x[k / 4], 8 * col + k % 4);
        const float b1 = __shfl_sync(0xFFFFFFFFu, b.x[k / 4], 8 * col + 4 + k % 4);
        d[0] += a0 * b0;
        d[1] += a0 * b1;
        d[2] += a1 * b0;
        d[3] += a1 * b1;
    }
}
#endif

// Value (n, k) of a matrix that is held as right operands: where the strides say, 0 outside.
struct Matrix {
    const float* data;
    u32 rows, cols;              // numbers of n and of k
    u32 row_stride, col_stride;  // of n and of k

    __device__ __forceinline__ float at(u32 n, u32 k) const {
        return n < rows && k < cols ? data[(u64)n * row_stride + (u64)k * col_stride] : 0.0f;
    }

    // The operand whose first value is (n, k).
    __device__ __forceinline__ Right operand(u32 n, u32 k) const {
        return right_of(at(n + lane_row(), k + lane_col()), at(n + lane_row(), k + lane_col() + 4));
    }

    // The same where the numbers col and col + 4 of the inner index are k + 2 col and k + 2 col + 1.
    __device__ __forceinline__ Right paired(u32 n, u32 k) const {
        return right_of(at(n + lane_row(), k + 2 * lane_col()), at(n + lane_row(), k + 2 * lane_col() + 1));
    }
};
