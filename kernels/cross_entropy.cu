// Cross entropy of logits and labels. One warp per row for what looks at logits, one thread per row for weights, one
// block for sums. Bound by bandwidth.
#include "common.cuh"

#define LOSS_THREADS 256
#define LOSS_ROWS 64  // of a block in backward; as ROWS_OF_BLOCK in ops/cross_entropy.rs

// Weight of every row: 0 for the ignored label, else class weight times row weight
extern "C" __global__ void cross_entropy_weights(
    const u32* __restrict__ target,           // [N], labels
    const float* __restrict__ class_weights,  // [C], or null: 1
    const float* __restrict__ row_weights,    // [N], or null: 1
    u64 rows,                                 // N
    u32 ignore,
    float* __restrict__ weights               // [N]
) {
    for (u64 i = first_element(); i < rows; i += element_stride()) {
        const u32 label = target[i];
        const float class_weight = label == ignore ? 0.0f : class_weights ? class_weights[label] : 1.0f;
        weights[i] = class_weight * (row_weights ? row_weights[i] : 1.0f);
    }
}

// Divides the weights by their sum, unless that is 0. One block.
extern "C" __global__ void __launch_bounds__(1024) cross_entropy_normalise(
    u64 rows,       // N
    float* weights  // [N]
) {
    __shared__ double total;
    const double sum = block_sum(weights, rows);
    if (threadIdx.x == 0) total = sum;
    __syncthreads();
    if (!(total > 0.0)) return;
    for (u64 i = threadIdx.x; i < rows; i += blockDim.x) weights[i] = (float)(weights[i] / total);
}

// Probabilities and weighted losses of all rows; a row of weight 0 has loss 0 whatever its logits are
extern "C" __global__ void cross_entropy_forward(
    const float* __restrict__ x,        // [N, C]
    const u32* __restrict__ target,     // [N]
    const float* __restrict__ weights,  // [N], they add up to 1
    u64 rows,                           // N
    u32 cols,                           // C
    float* __restrict__ p,              // [N, C], or null
    float* __restrict__ losses          // [N]
) {
    const u64 row = warp_number();
    if (row >= rows) return;
    const float* logits = x + row * cols;
    const float log_sum = softmax_row(logits, cols, p ? p + row * cols : nullptr);
    if (lane_number() == 0)
        losses[row] = weights[row] == 0.0f ? 0.0f : weights[row] * (log_sum - logits[target[row]]);
}

// The loss: the sum over all rows. One block.
extern "C" __global__ void __launch_bounds__(1024) cross_entropy_total(
    const float* __restrict__ losses,  // [N]
    u64 rows,                          // N
    float* __restrict__ loss           // [1]
) {
    const double sum = block_sum(losses, rows);
    if (threadIdx.x == 0) loss[0] = (float)sum;
}

// d_x += weight (p - onehot) d_loss. A block takes whole rows, whose weights and labels lie in shared memory.
extern "C" __global__ void __launch_bounds__(LOSS_THREADS) cross_entropy_backward(
    const float* __restrict__ p,        // [N, C]
    const float* __restrict__ weights,  // [N]
    const u32* __restrict__ target,     // [N]
    const float* __restrict__ d_loss,   // [1]
    u64 rows,                           // N
    u32 cols,                           // C
    float* __restrict__ d_x             // [N, C]
) {
    __shared__ float weight[LOSS_ROWS];
    __shared__ u32 label[LOSS_ROWS];
    const u64 first = (u64)blockIdx.x * LOSS_ROWS;
    const u32 count = rows - first < LOSS_ROWS ? (u32)(rows - first) : LOSS_ROWS;
    if (threadIdx.x < count) {
        weight[threadIdx.x] = weights[first + threadIdx.x];
        label[threadIdx.x] = target[first + threadIdx.x];
    }
    __syncthreads();
    const float d = d_loss[0];
    const u64 start = first * cols;
    for (u32 i = threadIdx.x; i < count * cols; i += LOSS_THREADS) {
        const u32 row = i / cols;
        if (weight[row] == 0.0f) continue;
        d_x[start + i] += weight[row] * d * (p[start + i] - (label[row] == i - row * cols ? 1.0f : 0.0f));
    }
}
