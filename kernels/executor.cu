// What the executor itself does on a GPU. Bound by bandwidth, small statistics by latency.
#include "common.cuh"

// y += x. One thread per value, in strides of the grid.
extern "C" __global__ void accumulate(
    const float* __restrict__ x,  // [n]
    u64 n,
    float* __restrict__ y         // [n]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) y[i] += x[i];
}

// Moves running statistics towards the values of a batch: r = (1 - momentum) r + momentum b. One warp for each.
extern "C" __global__ void running_updates(
    const u64* __restrict__ updates,  // [blocks, 3]: address of the batch's; first place and count of values; momentum
    float* __restrict__ params        // where the places count from
) {
    const u64* own = updates + 3 * blockIdx.x;
    const float* batch = (const float*)own[0];
    const u32 first = (u32)own[1], count = (u32)(own[1] >> 32);
    const float momentum = __uint_as_float((u32)own[2]);
    float* running = params + first;
#pragma unroll 4
    for (u32 i = lane_number(); i < count; i += 32)
        running[i] = (1.0f - momentum) * running[i] + momentum * batch[i];
}
