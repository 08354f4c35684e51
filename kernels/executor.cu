// What the executor itself does on a GPU. One thread per value, in strides of the grid. Bound by bandwidth.
#include "common.cuh"

// y += x
extern "C" __global__ void accumulate(
    const float* __restrict__ x,  // [n]
    u64 n,
    float* __restrict__ y         // [n]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) y[i] += x[i];
}

// Moves a running statistic towards the value of a batch: r = (1 - momentum) r + momentum b
extern "C" __global__ void running_update(
    const float* __restrict__ batch,  // [n]
    u64 n,
    float momentum,
    float* __restrict__ running       // [n]
) {
    for (u64 i = first_element(); i < n; i += element_stride())
        running[i] = (1.0f - momentum) * running[i] + momentum * batch[i];
}
