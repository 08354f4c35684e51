// Kernel point convolution: what its matrix products are fed with. The products themselves are those of linear.cu.
#include "common.cuh"

#define CONV_WARPS 4
#define TURN 32      // edge of a tile that is turned around; as TURN in ops/kernel_point_conv/cuda.rs
#define CONV_SUMS 8  // sums that a lane holds in registers

// sums[i, m, c] = sum over the pairs of point i of h_m(pair) * features[row of the pair, c], with
// h_m = max(0, 1 - |delta - p_m| / influence). One warp per point: 32 pairs at a time their influences go to shared
// memory, then each lane adds up its own sums over them. Bound by the multiply-adds and the cache that holds the features.
//
// A point's pairs are its K slots; with lists they are those that the lists name, and the row of pair p is p / K instead
// of index[p].
extern "C" __global__ void __launch_bounds__(32 * CONV_WARPS, 1) kernel_point_conv_sums(
    const float* __restrict__ features,  // [rows, C]
    const float* __restrict__ points,    // [M, 3]: p
    const float* __restrict__ x,         // [N * K]: delta
    const float* __restrict__ y,         // [N * K]
    const float* __restrict__ z,         // [N * K]
    const u32* __restrict__ index,       // [N * K], null with lists
    const u32* __restrict__ offsets,     // [points + 1], null without lists
    const u32* __restrict__ pairs,       // null without lists
    u64 first,                           // first point
    u64 count,                           // number of points from there on
    u32 k,                               // K
    u32 kernel,                          // M
    u32 channels,                        // C
    float influence,
    float* __restrict__ sums             // [count, M, C]
) {
    extern __shared__ float shared[];
    const u32 lane = lane_number(), warp = threadIdx.x >> 5, words = kernel * channels;
    float* h = shared + warp * 32 * (kernel + 1);  // [32 pairs, M + 1]: without bank conflicts
    u32* rows = (u32*)(shared + CONV_WARPS * 32 * (kernel + 1)) + warp * 32;
    const u64 at = (u64)blockIdx.x * CONV_WARPS + warp;
    if (at >= count) return;
    const u64 point = first + at;
    const u64 begin = offsets ? offsets[point] : point * k;
    const u64 end = offsets ? offsets[point + 1] : begin + k;
    for (u32 tile = 0; tile < words; tile += 32 * CONV_SUMS) {
        float sum[CONV_SUMS];
        u32 m[CONV_SUMS], c[CONV_SUMS];
#pragma unroll
        for (u32 s = 0; s < CONV_SUMS; ++s) {
            const u32 word = min(tile + s * 32 + lane, words - 1);
            m[s] = word / channels;
            c[s] = word % channels;
            sum[s] = 0.0f;
        }
        for (u64 batch = begin; batch < end; batch += 32) {
            u32 row = MISSING;
            if (batch + lane < end) {
                const u64 pair = offsets ? pairs[batch + lane] : batch + lane;
                row = offsets ? (u32)(pair / k) : index[pair];
                if (row != MISSING) {
                    const float a = x[pair], b = y[pair], d = z[pair];
                    for (u32 i = 0; i < kernel; ++i) {
                        const float u = a - points[3 * i], v = b - points[3 * i + 1], w = d - points[3 * i + 2];
                        h[lane * (kernel + 1) + i] = fmaxf(0.0f, 1.0f - sqrtf(u * u + v * v + w * w) / influence);
                    }
                }
            }
            rows[lane] = row;
            __syncwarp();
            const u32 here = end - batch < 32 ? (u32)(end - batch) : 32;
            for (u32 pair = 0; pair < here; ++pair) {
                if (rows[pair] == MISSING) continue;
                const float* f = features + (u64)rows[pair] * channels;
#pragma unroll
                for (u32 s = 0; s < CONV_SUMS; ++s)
                    if (tile + s * 32 < words) sum[s] += h[pair * (kernel + 1) + m[s]] * f[c[s]];
            }
            __syncwarp();
        }
#pragma unroll
        for (u32 s = 0; s < CONV_SUMS; ++s) {
            const u32 word = tile + s * 32 + lane;
            if (word < words) sums[at * words + word] = sum[s];
        }
    }
}

// turned[m, o, i] = weight[m, i, o]. A block turns a tile of 32 inputs (blockIdx.z) and 32 outputs (blockIdx.y) of a kernel
// point (blockIdx.x) around in shared memory, so that both sides are contiguous.
extern "C" __global__ void __launch_bounds__(256) kernel_point_conv_turn(
    const float* __restrict__ weight,  // [M, I, O]
    u32 inputs,                        // I
    u32 outputs,                       // O
    float* __restrict__ turned         // [M, O, I]
) {
    __shared__ float tile[TURN][TURN + 1];  // [output, input]
    const u32 o0 = blockIdx.y * TURN, i0 = blockIdx.z * TURN;
    const u32 width = min(outputs - o0, (u32)TURN), height = min(inputs - i0, (u32)TURN);
    const u64 first = (u64)blockIdx.x * inputs * outputs;
    for (u32 at = threadIdx.x; at < height * width; at += 256) {
        const u32 i = at / width, o = at - i * width;
        tile[o][i] = weight[first + (u64)(i0 + i) * outputs + o0 + o];
    }
    __syncthreads();
    for (u32 at = threadIdx.x; at < height * width; at += 256) {
        const u32 o = at / height, i = at - o * height;
        turned[first + (u64)(o0 + o) * inputs + i0 + i] = tile[o][i];
    }
}
