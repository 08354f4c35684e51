// The position map P from the moments of the offsets, and its backward. One thread per channel, in f64. Bound by latency:
// there are a few hundred channels.
#include "triples.cuh"

struct Moments {
    double mean[3], xx, xy, xz, yy, yz, zz;
};

// Read once by every warp, all of it.
__device__ __forceinline__ Moments load_moments(const double* moments) {
    const double mine = moments[min(lane_number(), 8u)];
    double m[9];
#pragma unroll
    for (int i = 0; i < 9; ++i) m[i] = __shfl_sync(0xFFFFFFFFu, mine, i);
    return {{m[0], m[1], m[2]}, m[3], m[4], m[5], m[6], m[7], m[8]};
}

// What a norm knows of channel c, whose weights are w.
struct Channel {
    double w[3], covariance_w[3], mean, variance, r;
};

__device__ __forceinline__ double dot(const double* a, const double* b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

__device__ __forceinline__ Channel channel_of(const float* w, const float* b, const float* running_mean,
                                              const float* running_variance, const Moments& m, u64 c, u32 batch,
                                              float epsilon) {
    Channel k;
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) k.w[axis] = w[axis];
    k.covariance_w[0] = m.xx * k.w[0] + m.xy * k.w[1] + m.xz * k.w[2];
    k.covariance_w[1] = m.xy * k.w[0] + m.yy * k.w[1] + m.yz * k.w[2];
    k.covariance_w[2] = m.xz * k.w[0] + m.yz * k.w[1] + m.zz * k.w[2];
    k.mean = batch ? dot(k.w, m.mean) + b[c] : (double)running_mean[c];
    k.variance = batch ? fmax(dot(k.w, k.covariance_w), 0.0) : (double)running_variance[c];
    k.r = 1.0 / sqrt(k.variance + (double)epsilon);
    return k;
}

extern "C" __global__ void position_norm_forward(
    const float* __restrict__ w,                 // [C, 3]
    const float* __restrict__ b,                 // [C]
    const float* __restrict__ gamma,             // [C]
    const float* __restrict__ beta,              // [C]
    const float* __restrict__ running_mean,      // [C]
    const float* __restrict__ running_variance,  // [C]
    const double* __restrict__ moments,          // [9], means x, y, z and covariances xx, xy, xz, yy, yz, zz of offsets
    u64 channels,                                // C
    u64 pairs,                                   // N * K
    u32 batch,                                   // 1: batch statistics
    float epsilon,
    float* __restrict__ position,                // [C, 4]
    float* __restrict__ batch_mean,              // [C], or null
    float* __restrict__ batch_variance           // [C], or null: unbiased
) {
    const Moments m = load_moments(moments);
    for (u64 first = first_of_warp(); first < channels; first += element_stride()) {
        float weights[3];
        load_points(w, first, channels, weights);
        const u64 c = first + lane_number();
        if (c >= channels) continue;
        const Channel k = channel_of(weights, b, running_mean, running_variance, m, c, batch, epsilon);
        const double a = gamma[c] * k.r;
        ((float4*)position)[c] = make_float4((float)(a * k.w[0]), (float)(a * k.w[1]), (float)(a * k.w[2]),
                                             (float)(a * (b[c] - k.mean) + beta[c]));
        if (batch_mean) batch_mean[c] = (float)k.mean;
        const double unbias = pairs > 1 ? (double)pairs / (double)(pairs - 1) : (double)pairs;
        if (batch_variance) batch_variance[c] = (float)(k.variance * unbias);
    }
}

extern "C" __global__ void position_norm_backward(
    const float* __restrict__ w,                 // [C, 3]
    const float* __restrict__ b,                 // [C]
    const float* __restrict__ gamma,             // [C]
    const float* __restrict__ running_mean,      // [C]
    const float* __restrict__ running_variance,  // [C]
    const double* __restrict__ moments,          // [9], means x, y, z and covariances xx, xy, xz, yy, yz, zz of offsets
    const float* __restrict__ d_position,        // [C, 4]
    u64 channels,                                // C
    u32 batch,                                   // 1: batch statistics
    float epsilon,
    float* __restrict__ d_w,                     // [C, 3], or null
    float* __restrict__ d_b,                     // [C], or null
    float* __restrict__ d_gamma,                 // [C], or null
    float* __restrict__ d_beta                   // [C], or null
) {
    const Moments m = load_moments(moments);
    for (u64 first = first_of_warp(); first < channels; first += element_stride()) {
        float weights[3], flow[3] = {0.0f, 0.0f, 0.0f};
        load_points(w, first, channels, weights);
        const u64 c = first + lane_number();
        if (c < channels) {
            const Channel k = channel_of(weights, b, running_mean, running_variance, m, c, batch, epsilon);
            const float4 d = ((const float4*)d_position)[c];
            const double slope[3] = {d.x, d.y, d.z}, shift = d.w, a = gamma[c] * k.r;
            const double d_a = dot(slope, k.w) + shift * (b[c] - k.mean);
            // With batch statistics b - mean = -w mean(offsets): the shift depends on w, and not on b.
            const double d_variance = batch ? -0.5 * d_a * gamma[c] * k.r * k.r * k.r : 0.0;
            const double d_mean_w = batch ? -a * shift : 0.0;
#pragma unroll
            for (int axis = 0; axis < 3; ++axis)
                flow[axis] =
                    (float)(a * slope[axis] + d_mean_w * m.mean[axis] + 2.0 * d_variance * k.covariance_w[axis]);
            if (d_b && !batch) d_b[c] += (float)(a * shift);
            if (d_gamma) d_gamma[c] += (float)(d_a * k.r);
            if (d_beta) d_beta[c] += (float)shift;
        }
        if (d_w) add_points(d_w, first, channels, flow);
    }
}

// With batch statistics the moments depend on the offsets: what flows into the means, and into xx, xy, xz, yy, yz and zz.
// One warp; the channels are few.
extern "C" __global__ void position_norm_backward_moments(
    const float* __restrict__ w,                 // [C, 3]
    const float* __restrict__ b,                 // [C]
    const float* __restrict__ gamma,             // [C]
    const double* __restrict__ moments,          // [9], means x, y, z and covariances xx, xy, xz, yy, yz, zz of offsets
    const float* __restrict__ d_position,        // [C, 4]
    u64 channels,                                // C
    float epsilon,
    double* __restrict__ d_moments               // [9]
) {
    const Moments m = load_moments(moments);
    double sum[9] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
    for (u64 first = 0; first < channels; first += 32) {
        float weights[3];
        load_points(w, first, channels, weights);
        const u64 c = first + lane_number();
        if (c >= channels) continue;
        const Channel k = channel_of(weights, b, nullptr, nullptr, m, c, 1, epsilon);
        const float4 d = ((const float4*)d_position)[c];
        const double slope[3] = {d.x, d.y, d.z}, shift = d.w, a = gamma[c] * k.r;
        const double d_a = dot(slope, k.w) + shift * (b[c] - k.mean);
        const double d_variance = -0.5 * d_a * gamma[c] * k.r * k.r * k.r;
        for (int axis = 0; axis < 3; ++axis) sum[axis] -= a * shift * k.w[axis];
        int at = 3;
        for (int row = 0; row < 3; ++row)
            for (int col = row; col < 3; ++col) sum[at++] += d_variance * k.w[row] * k.w[col];
    }
    double mine = 0.0;
#pragma unroll
    for (int i = 0; i < 9; ++i) {
        const double total = warp_sum(sum[i]);
        if (lane_number() == i) mine = total;
    }
    if (lane_number() < 9) d_moments[lane_number()] = mine;
}

// From the moments back to the offsets. One thread per pair, in strides of the grid.
extern "C" __global__ void position_norm_backward_offsets(
    const double* __restrict__ moments,    // [9]
    const double* __restrict__ d_moments,  // [9]
    const float* __restrict__ x,           // [N * K], offsets
    const float* __restrict__ y,
    const float* __restrict__ z,
    u64 pairs,                             // N * K
    float* __restrict__ d_offsets          // [N * K, 3]
) {
    const Moments m = load_moments(moments), d = load_moments(d_moments);
    const double share = 1.0 / (double)pairs;
    for (u64 first = first_of_warp(); first < pairs; first += element_stride()) {
        const u64 i = first + lane_number();
        float flow[3] = {0.0f, 0.0f, 0.0f};
        if (i < pairs) {
            const double u = x[i] - m.mean[0], v = y[i] - m.mean[1], w = z[i] - m.mean[2];
            flow[0] = (float)(share * (d.mean[0] + 2.0 * (d.xx * u + d.xy * v + d.xz * w)));
            flow[1] = (float)(share * (d.mean[1] + 2.0 * (d.xy * u + d.yy * v + d.yz * w)));
            flow[2] = (float)(share * (d.mean[2] + 2.0 * (d.xz * u + d.yz * v + d.zz * w)));
        }
        add_points(d_offsets, first, pairs, flow);
    }
}
