// Gradient descent with momentum, one step: a block moves one piece of a trained tensor, its threads walk over the
// piece. Bandwidth: reads three values and writes two per value that moves.
#include "common.cuh"

extern "C" __global__ void sgd_step(
    const float* __restrict__ g,         // [words], gradient
    const u64* __restrict__ starts,      // [pieces], first value of a piece
    const u32* __restrict__ lengths,     // [pieces]
    const double* __restrict__ factors,  // [pieces], on the rate
    double lr,
    float momentum,
    float weight_decay,
    u32 nesterov,                        // 0, 1
    float* __restrict__ p,               // [words], moved
    float* __restrict__ velocity         // [words], moved
) {
    const u64 start = starts[blockIdx.x], end = start + lengths[blockIdx.x];
    const float rate = (float)(lr * factors[blockIdx.x]);
    for (u64 i = start + threadIdx.x; i < end; i += blockDim.x) {
        const float d = g[i] + weight_decay * p[i];
        const float v = momentum * velocity[i] + d;
        velocity[i] = v;
        p[i] -= rate * (nesterov ? d + momentum * v : v);
    }
}
