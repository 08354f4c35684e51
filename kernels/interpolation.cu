// Weights of an interpolation stencil from squared distances. One thread per fine point. Bound by bandwidth.
#include "tree.cuh"

// index: rows of neighbours that do not exist become `pad`, or the first coarse row of the element.
// weight[i] = r[i] / (r[0] + r[1] + r[2]) with r[i] = 1 / (distance[i] + 1e-8); squared distances before.
extern "C" __global__ void interpolation_weights(
    u64 n,                                // N
    const u32* __restrict__ fine_starts,  // [B + 1], where the elements start among the fine points
    const u32* __restrict__ starts,       // [B + 1], and among the coarse ones
    u32 elements,                         // B
    u32 last,                             // the row to read, or MISSING: the first of the element
    u32* __restrict__ index,              // [N, 3]
    float* __restrict__ weight            // [N, 3]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) {
        float r[3];
#pragma unroll
        for (int j = 0; j < 3; ++j) {
            r[j] = __fdiv_rn(1.0f, __fadd_rn(__fsqrt_rn(weight[3 * i + j]), 1e-8f));
            if (index[3 * i + j] != MISSING) continue;
            index[3 * i + j] = last == MISSING ? starts[element_of(fine_starts, elements, (u32)i)] : last;
        }
        const float sum = __fadd_rn(__fadd_rn(r[0], r[1]), r[2]);
#pragma unroll
        for (int j = 0; j < 3; ++j) weight[3 * i + j] = __fdiv_rn(r[j], sum);
    }
}
