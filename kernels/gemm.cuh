// Matrix product of one tile: a block of 128 threads computes 64 x 64 values of C = A B.
//
// Tiles of 64 x 16 of A and of B lie in shared memory with k as the slow index; the next ones are on their way in
// registers meanwhile. Three ways to multiply them: plain multiply-adds; tensor cores with every f32 split into two TF32
// halves (Ootomo and Yokota 2022), which keeps the precision of f32 at three products instead of one; and tensor cores in
// half precision, with operands that are rounded on their way to shared memory.
// Bound by compute for wide matrices, by bandwidth for narrow ones.
#pragma once
#include "common.cuh"

#define TILE 64
#define TILE_K 16
#define TILE_STRIDE 72  // keeps the reads of tensor-core fragments free of bank conflicts
#define GEMM_THREADS 128
#define TILE_SHARE (TILE * TILE_K / GEMM_THREADS)

// A tile in shared memory: rows of 64 values with one k, in half precision of 64 pairs with two neighbouring k.
#if defined(HALF)
typedef u32 TileRow[TILE_STRIDE];
#define TILE_ROWS (TILE_K / 2)
__device__ __forceinline__ void put(TileRow* tile, u32 i, u32 k, float x) {
    ((unsigned short*)&tile[k / 2][i])[k % 2] = round_half(x);
}
#else
typedef float TileRow[TILE_STRIDE];
#define TILE_ROWS TILE_K
__device__ __forceinline__ void put(TileRow* tile, u32 i, u32 k, float x) { tile[k][i] = x; }
#endif

// One operand: element (i, k) lies at i * stride + k if K_FAST, else at k * stride + i. Where a mask is given, elements
// whose mask is not above 0 count as 0.
struct Operand {
    const float* data;
    const float* mask;
    u64 count;   // number of i
    u64 stride;
};

// The numbers of element `part` of this thread's share of a tile.
template <bool K_FAST>
__device__ __forceinline__ void tile_place(u32 part, u32& i, u32& k) {
    const u32 at = threadIdx.x + part * GEMM_THREADS;
    i = K_FAST ? at / TILE_K : at % TILE;
    k = K_FAST ? at % TILE_K : at / TILE;
}

template <bool K_FAST>
__device__ __forceinline__ void fetch_tile(const Operand& x, u64 first_i, u64 first_k, u64 end_k, float* share) {
#pragma unroll
    for (u32 part = 0; part < TILE_SHARE; ++part) {
        u32 i, k;
        tile_place<K_FAST>(part, i, k);
        const u64 row = first_i + i, inner = first_k + k;
        float value = 0.0f;
        if (row < x.count && inner < end_k) {
            const u64 at = K_FAST ? row * x.stride + inner : inner * x.stride + row;
            value = x.data[at];
            if (x.mask && !(x.mask[at] > 0.0f)) value = 0.0f;
        }
        share[part] = value;
    }
}

template <bool K_FAST>
__device__ __forceinline__ void store_tile(const float* share, TileRow* tile) {
#pragma unroll
    for (u32 part = 0; part < TILE_SHARE; ++part) {
        u32 i, k;
        tile_place<K_FAST>(part, i, k);
        put(tile, i, k, share[part]);
    }
}

#if !defined(HALF)
// Plain multiply-adds: 8 x 4 values per thread.
struct PlainProduct {
    float sum[8][4];

    __device__ __forceinline__ PlainProduct() {
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) sum[i][j] = 0.0f;
    }

    __device__ __forceinline__ void add(const TileRow* a, const TileRow* b) {
        const u32 i0 = threadIdx.x / 16 * 8, j0 = threadIdx.x % 16 * 4;
#pragma unroll
        for (int k = 0; k < TILE_K; ++k) {
            float x[8], y[4];
#pragma unroll
            for (int i = 0; i < 8; ++i) x[i] = a[k][i0 + i];
#pragma unroll
            for (int j = 0; j < 4; ++j) y[j] = b[k][j0 + j];
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) sum[i][j] += x[i] * y[j];
        }
    }

    // Calls put(i, j, values at j and j + 1), with even j, for all values of this thread.
    template <class Put>
    __device__ __forceinline__ void each_pair(const Put& put) const {
        const u32 i0 = threadIdx.x / 16 * 8, j0 = threadIdx.x % 16 * 4;
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int j = 0; j < 4; j += 2) put(i0 + i, j0 + j, make_float2(sum[i][j], sum[i][j + 1]));
    }
};
#endif

#if defined(HALF) || !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define TENSOR_PRODUCTS
// Tensor cores: each of four warps computes 32 x 32 values as 2 x 4 products of 16 x 8.
struct TensorProduct {
    float sum[2][4][4];

    __device__ __forceinline__ TensorProduct() {
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int v = 0; v < 4; ++v) sum[i][j][v] = 0.0f;
    }

    __device__ __forceinline__ void add(const TileRow* a, const TileRow* b) {
        const u32 warp = threadIdx.x / 32, row = lane_number() / 4, col = lane_number() % 4;
        const u32 i0 = warp / 2 * 32 + row, j0 = warp % 2 * 32 + row;
#if defined(HALF)
        u32 x[2][4], y[4][2];
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int v = 0; v < 4; ++v) x[i][v] = a[col + v / 2 * 4][i0 + i * 16 + v % 2 * 8];
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int v = 0; v < 2; ++v) y[j][v] = b[col + v * 4][j0 + j * 8];
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) multiply_half_16(sum[i][j], x[i], y[j]);
#else
#pragma unroll
        for (int k = 0; k < TILE_K; k += 8) {
            u32 a_high[2][4], a_low[2][4];
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int v = 0; v < 4; ++v)
                    split_tf32(a[k + col + v / 2 * 4][i0 + i * 16 + v % 2 * 8], a_high[i][v], a_low[i][v]);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                u32 b_high[2], b_low[2];
#pragma unroll
                for (int v = 0; v < 2; ++v) split_tf32(b[k + col + v * 4][j0 + j * 8], b_high[v], b_low[v]);
#pragma unroll
                for (int i = 0; i < 2; ++i) multiply_split(sum[i][j], a_high[i], a_low[i], b_high, b_low);
            }
        }
#endif
    }

    template <class Put>
    __device__ __forceinline__ void each_pair(const Put& put) const {
        const u32 warp = threadIdx.x / 32, row = lane_number() / 4, col = lane_number() % 4 * 2;
        const u32 i0 = warp / 2 * 32 + row, j0 = warp % 2 * 32 + col;
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int v = 0; v < 4; v += 2)
                    put(i0 + i * 16 + v / 2 * 8, j0 + j * 8, make_float2(sum[i][j][v], sum[i][j][v + 1]));
    }
};
#endif

// The tile of C at (first_i, first_j): the sum over k from first_k to end_k.
template <class Product, bool A_K_FAST, bool B_K_FAST>
__device__ __forceinline__ Product tile_product(const Operand& a, const Operand& b, u64 first_i, u64 first_j,
                                                u64 first_k, u64 end_k) {
    __shared__ TileRow a_tile[TILE_ROWS], b_tile[TILE_ROWS];
    float a_share[TILE_SHARE], b_share[TILE_SHARE];
    Product product;
    fetch_tile<A_K_FAST>(a, first_i, first_k, end_k, a_share);
    fetch_tile<B_K_FAST>(b, first_j, first_k, end_k, b_share);
    for (u64 k = first_k; k < end_k; k += TILE_K) {
        store_tile<A_K_FAST>(a_share, a_tile);
        store_tile<B_K_FAST>(b_share, b_tile);
        __syncthreads();
        fetch_tile<A_K_FAST>(a, first_i, k + TILE_K, end_k, a_share);
        fetch_tile<B_K_FAST>(b, first_j, k + TILE_K, end_k, b_share);
        product.add(a_tile, b_tile);
        __syncthreads();
    }
    return product;
}
