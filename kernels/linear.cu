// Linear layer: one block per tile of 64 x 64 values of the result; see gemm.cuh. The kernels that end in _plain run
// everywhere and exist in f32 only; those that end in _tensor need compute capability 8.0, or 7.5 in f16.
#include "gemm.cuh"

__device__ __forceinline__ float2 add(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }

// y = x W^T + b + r, then max(y, 0) if asked
template <class Product>
__device__ __forceinline__ void forward(const float* x, const float* w, const float* bias, const float* residual,
                                        u64 rows, u64 inputs, u64 outputs, u32 relu, float* y) {
    const u64 i0 = (u64)blockIdx.x * TILE, j0 = (u64)blockIdx.y * TILE;
    const Operand a = {x, nullptr, rows, inputs}, b = {w, nullptr, outputs, inputs};
    const Product product = tile_product<Product, true, true>(a, b, i0, j0, 0, inputs);
    product.each_pair([&](u32 i, u32 j, float2 value) {
        const u64 row = i0 + i, col = j0 + j, at = row * outputs + col;
        if (row >= rows || col >= outputs) return;
        if (bias) value = add(value, load_pair(bias, col, col, outputs));
        if (residual) value = add(value, load_pair(residual, at, col, outputs));
        if (relu) value = make_float2(rectify(value.x), rectify(value.y));
        store_pair(y, at, col, outputs, value);
    });
}

// d_x += dz W, where dz is d_y where y > 0, or all of it without y
template <class Product>
__device__ __forceinline__ void backward_x(const float* w, const float* y, const float* d_y, u64 rows, u64 inputs,
                                           u64 outputs, float* d_x) {
    const u64 i0 = (u64)blockIdx.x * TILE, j0 = (u64)blockIdx.y * TILE;
    const Operand a = {d_y, y, rows, outputs}, b = {w, nullptr, inputs, inputs};
    const Product product = tile_product<Product, true, false>(a, b, i0, j0, 0, outputs);
    product.each_pair([&](u32 i, u32 j, float2 value) {
        const u64 row = i0 + i, col = j0 + j, at = row * inputs + col;
        if (row >= rows || col >= inputs) return;
        store_pair(d_x, at, col, inputs, add(load_pair(d_x, at, col, inputs), value));
    });
}

// dz^T x over one part of the rows (blockIdx.z)
template <class Product>
__device__ __forceinline__ void backward_w(const float* x, const float* y, const float* d_y, u64 rows, u64 inputs,
                                           u64 outputs, u64 part_rows, float* partials) {
    const u64 i0 = (u64)blockIdx.x * TILE, j0 = (u64)blockIdx.y * TILE, first = blockIdx.z * part_rows;
    const u64 end = first + part_rows < rows ? first + part_rows : rows;
    const Operand a = {d_y, y, outputs, outputs}, b = {x, nullptr, inputs, inputs};
    const Product product = tile_product<Product, false, false>(a, b, i0, j0, first, end);
    float* out = partials + blockIdx.z * outputs * inputs;
    product.each_pair([&](u32 i, u32 j, float2 value) {
        const u64 row = i0 + i, col = j0 + j;
        if (row < outputs && col < inputs) store_pair(out, row * inputs + col, col, inputs, value);
    });
}

#if !defined(HALF)
extern "C" __global__ void __launch_bounds__(GEMM_THREADS) linear_forward_plain(
    const float* __restrict__ x,         // [N, I]
    const float* __restrict__ w,         // [O, I]
    const float* __restrict__ bias,      // [O], or null
    const float* __restrict__ residual,  // [N, O], or null
    u64 rows,                            // N
    u64 inputs,                          // I
    u64 outputs,                         // O
    u32 relu,
    float* __restrict__ y                // [N, O]
) {
    forward<PlainProduct>(x, w, bias, residual, rows, inputs, outputs, relu, y);
}

extern "C" __global__ void __launch_bounds__(GEMM_THREADS) linear_backward_x_plain(
    const float* __restrict__ w,    // [O, I]
    const float* __restrict__ y,    // [N, O], or null
    const float* __restrict__ d_y,  // [N, O]
    u64 rows,                       // N
    u64 inputs,                     // I
    u64 outputs,                    // O
    float* __restrict__ d_x         // [N, I]
) {
    backward_x<PlainProduct>(w, y, d_y, rows, inputs, outputs, d_x);
}

extern "C" __global__ void __launch_bounds__(GEMM_THREADS) linear_backward_w_plain(
    const float* __restrict__ x,    // [N, I]
    const float* __restrict__ y,    // [N, O], or null
    const float* __restrict__ d_y,  // [N, O]
    u64 rows,                       // N
    u64 inputs,                     // I
    u64 outputs,                    // O
    u64 part_rows,                  // rows of a part
    float* __restrict__ partials    // [parts, O, I]
) {
    backward_w<PlainProduct>(x, y, d_y, rows, inputs, outputs, part_rows, partials);
}
#endif

#if defined(TENSOR_PRODUCTS)
extern "C" __global__ void __launch_bounds__(GEMM_THREADS) linear_forward_tensor(
    const float* __restrict__ x,         // [N, I]
    const float* __restrict__ w,         // [O, I]
    const float* __restrict__ bias,      // [O], or null
    const float* __restrict__ residual,  // [N, O], or null
    u64 rows,                            // N
    u64 inputs,                          // I
    u64 outputs,                         // O
    u32 relu,
    float* __restrict__ y                // [N, O]
) {
    forward<TensorProduct>(x, w, bias, residual, rows, inputs, outputs, relu, y);
}

extern "C" __global__ void __launch_bounds__(GEMM_THREADS) linear_backward_x_tensor(
    const float* __restrict__ w,    // [O, I]
    const float* __restrict__ y,    // [N, O], or null
    const float* __restrict__ d_y,  // [N, O]
    u64 rows,                       // N
    u64 inputs,                     // I
    u64 outputs,                    // O
    float* __restrict__ d_x         // [N, I]
) {
    backward_x<TensorProduct>(w, y, d_y, rows, inputs, outputs, d_x);
}

extern "C" __global__ void __launch_bounds__(GEMM_THREADS) linear_backward_w_tensor(
    const float* __restrict__ x,    // [N, I]
    const float* __restrict__ y,    // [N, O], or null
    const float* __restrict__ d_y,  // [N, O]
    u64 rows,                       // N
    u64 inputs,                     // I
    u64 outputs,                    // O
    u64 part_rows,                  // rows of a part
    float* __restrict__ partials    // [parts, O, I]
) {
    backward_w<TensorProduct>(x, y, d_y, rows, inputs, outputs, part_rows, partials);
}
#endif

// d_r += dz. One thread per value, in strides of the grid.
extern "C" __global__ void linear_backward_r(
    const float* __restrict__ y,    // [N, O]
    const float* __restrict__ d_y,  // [N, O]
    u64 n,                          // N * O
    float* __restrict__ d_r         // [N, O]
) {
    for (u64 i = first_element(); i < n; i += element_stride())
        if (y[i] > 0.0f) d_r[i] += d_y[i];
}
