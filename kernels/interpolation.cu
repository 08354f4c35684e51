// Weights of an interpolation stencil from squared distances. One thread per fine point. Bound by bandwidth.
#include "tree.cuh"
#include "triples.cuh"

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
    const u32 lane = lane_number();
    for (u64 first = first_of_warp(); first < n; first += element_stride()) {
#pragma unroll
        for (u32 j = 0; j < 3; ++j) {
            const u64 at = 3 * first + 32 * j + lane;
            if (at >= 3 * n || index[at] != MISSING) continue;
            index[at] = last == MISSING ? starts[element_of(fine_starts, elements, (u32)(at / 3))] : last;
        }
        float r[3];
        load_points(weight, first, n, r);
#pragma unroll
        for (int j = 0; j < 3; ++j) r[j] = __fdiv_rn(1.0f, __fadd_rn(__fsqrt_rn(r[j]), 1e-8f));
        const float sum = __fadd_rn(__fadd_rn(r[0], r[1]), r[2]);
#pragma unroll
        for (int j = 0; j < 3; ++j) r[j] = __fdiv_rn(r[j], sum);
        store_points(weight, first, n, r);
    }
}
