// Moving average of values: a thread per value, in strides. Bandwidth: reads two values and writes one.
#include "common.cuh"

extern "C" __global__ void average_update(
    const float* __restrict__ p,  // [n]
    float toward,                 // share of the way that the average goes
    u64 n,
    float* __restrict__ average   // [n], moved
) {
    for (u64 i = first_element(); i < n; i += element_stride()) average[i] += toward * (p[i] - average[i]);
}
