// AdamW, one step: a block moves one piece of a trained tensor, its threads walk over the piece. Bandwidth: reads four
// values and writes three per value that moves.
#include "common.cuh"

extern "C" __global__ void adamw_step(
    const float* __restrict__ g,          // [words], gradient
    const u64* __restrict__ starts,       // [pieces], first value of a piece
    const u32* __restrict__ lengths,      // [pieces]
    const double* __restrict__ factors,   // [pieces], on the rate
    double lr,
    double weight_decay,
    double correction,                    // 1 - beta1^t
    float toward,                         // 1 - beta1
    float beta2,
    float fresh,                          // 1 - beta2
    float root,                           // sqrt(1 - beta2^t)
    float eps,
    float* __restrict__ p,                // [words], moved
    float* __restrict__ mean,             // [words], moved
    float* __restrict__ square            // [words], moved
) {
    const u64 start = starts[blockIdx.x], end = start + lengths[blockIdx.x];
    const double rate = lr * factors[blockIdx.x];
    const float keep = (float)(1.0 - rate * weight_decay), step = (float)(rate / correction);
    for (u64 i = start + threadIdx.x; i < end; i += blockDim.x) {
        const float d = g[i];
        const float m = mean[i] + toward * (d - mean[i]);
        const float v = beta2 * square[i] + fresh * d * d;
        mean[i] = m;
        square[i] = v;
        p[i] = p[i] * keep - step * m / (sqrtf(v) / root + eps);
    }
}
