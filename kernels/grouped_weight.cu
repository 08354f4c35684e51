// One weight per channel as a block-diagonal matrix. One thread per value. Bound by latency: it is small.
#include "common.cuh"

// A[g, c] = w[c] where channel c belongs to group g, else 0
extern "C" __global__ void grouped_weight_forward(
    const float* __restrict__ w,  // [C]
    u64 n,                        // G * C
    u32 channels,                 // C
    u32 groups,                   // G
    float* __restrict__ a         // [G, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        u64 group;
        u32 c;
        place_of(i, channels, group, c);
        a[i] = c / (channels / groups) == group ? w[c] : 0.0f;
    }
}

// d_w[c] += d_A[g(c), c]
extern "C" __global__ void grouped_weight_backward(
    const float* __restrict__ d_a,  // [G, C]
    u64 n,                          // C
    u32 groups,                     // G
    float* __restrict__ d_w         // [C]
) {
    for (u64 c = first_element(); c < n; c += element_stride()) d_w[c] += d_a[c / (n / groups) * n + c];
}
