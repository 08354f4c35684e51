// Kernels with one bug each; every one must be caught. `sound_*` have none and must pass.

#define FULL 0xffffffffu

extern "C" __global__ void sound_reduction(float* y) {
    __shared__ float s[64];
    s[threadIdx.x] = threadIdx.x;
    __syncthreads();
    float v = s[63 - threadIdx.x];
    for (int o = 16; o; o >>= 1) v += __shfl_down_sync(FULL, v, o);
    y[blockIdx.x * 64 + threadIdx.x] = v;
}
extern "C" __global__ void sound_atomics(float* y) { atomicAdd(y, 1.0f); }

extern "C" __global__ void divergent_barrier(float* y) {
    if (threadIdx.x < 40) { y[threadIdx.x] = 1.0f; __syncthreads(); y[threadIdx.x] += 1.0f; }
    y[threadIdx.x] += 2.0f;
    __syncthreads();
}
extern "C" __global__ void barrier_of_a_part(float* y) {
    if (threadIdx.x < 40) { y[threadIdx.x] = 1.0f; __syncthreads(); }
}
extern "C" __global__ void early_exit(float* y) {
    if (threadIdx.x >= 32) return;
    __syncthreads();
    y[threadIdx.x] = 1.0f;
}
extern "C" __global__ void partial_shuffle(float* y) {
    float v = threadIdx.x;
    if (threadIdx.x & 1) v = __shfl_xor_sync(FULL, v, 2);
    y[threadIdx.x] = v;
}
extern "C" __global__ void wrong_mask(float* y) {
    float v = threadIdx.x;
    y[threadIdx.x] = __shfl_sync(0x0000ffffu, v, 0);
}
extern "C" __global__ void inactive_source(float* y) {
    float v = threadIdx.x;
    if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0x0000ffffu, v, 20);
}
extern "C" __global__ void uninitialised_global(float* y, const float* t) { y[threadIdx.x] = t[threadIdx.x] + 1.0f; }
extern "C" __global__ void uninitialised_shared(float* y) {
    __shared__ float s[64];
    if (threadIdx.x < 30) s[threadIdx.x] = 1.0f;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void uninitialised_local(float* y, int n) {
    float s[16];
    for (int i = 0; i < n; ++i) s[(i * 5) & 15] = i;
    y[threadIdx.x] = s[threadIdx.x & 15];
}
extern "C" __global__ void blocks_race(float* y) { y[threadIdx.x] += 1.0f; }
extern "C" __global__ void misaligned(float* y) { *(float4*)(y + 1 + 4 * threadIdx.x) = make_float4(1, 2, 3, 4); }
extern "C" __global__ void outside_global(float* y, int n) { y[n + threadIdx.x] = 1.0f; }
extern "C" __global__ void outside_shared(float* y) {
    __shared__ float s[64];
    s[threadIdx.x * 2] = 1.0f;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x & ~1];
}
extern "C" __global__ void read_it(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x]; }
extern "C" __global__ void missing_syncthreads(float* y) {
    __shared__ float s[64];
    s[threadIdx.x] = threadIdx.x;
    y[threadIdx.x] = s[63 - threadIdx.x];
}
extern "C" __global__ void missing_second_syncthreads(float* y) {
    __shared__ float s[64];
    float sum = 0;
    for (int i = 0; i < 3; ++i) {
        s[threadIdx.x] = threadIdx.x + i;
        __syncthreads();
        sum += s[63 - threadIdx.x];
    }
    y[threadIdx.x] = sum;
}
extern "C" __global__ void missing_syncwarp(float* y) {
    __shared__ float s[32];
    s[threadIdx.x] = threadIdx.x;
    y[threadIdx.x] = s[31 - threadIdx.x];
}
extern "C" __global__ void atomic_and_plain(float* y) {
    if (threadIdx.x == 0) y[0] = 0.0f;
    atomicAdd(y, 1.0f);
}
extern "C" __global__ void same_half_word(unsigned short* y) { y[threadIdx.x / 2] = threadIdx.x; }
extern "C" __global__ void sound_half_words(unsigned short* y) { y[threadIdx.x] = threadIdx.x; }

__device__ void copy16(void* to, const void* from) {
    unsigned at = (unsigned)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(at), "l"(from) : "memory");
}
__device__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ void await() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }

extern "C" __global__ void missing_copy_wait(const float4* x, float4* y) {
    __shared__ float4 s[32];
    copy16(&s[threadIdx.x], &x[threadIdx.x]);
    commit();
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void copy_wait_too_weak(const float4* x, float4* y) {
    __shared__ float4 s[2][32];
    copy16(&s[0][threadIdx.x], &x[threadIdx.x]);
    commit();
    copy16(&s[1][threadIdx.x], &x[threadIdx.x]);
    commit();
    await<1>();
    __syncthreads();
    y[threadIdx.x] = s[1][threadIdx.x];
}
extern "C" __global__ void copy_without_barrier(const float4* x, float4* y) {
    __shared__ float4 s[64];
    copy16(&s[threadIdx.x], &x[threadIdx.x]);
    commit();
    await<0>();
    y[threadIdx.x] = s[63 - threadIdx.x];
}
extern "C" __global__ void sound_copy(const float4* x, float4* y) {
    __shared__ float4 s[2][64];
    copy16(&s[0][threadIdx.x], &x[threadIdx.x]);
    commit();
    copy16(&s[1][threadIdx.x], &x[threadIdx.x + 64]);
    commit();
    await<1>();
    __syncthreads();
    y[threadIdx.x] = s[0][63 - threadIdx.x];
    await<0>();
    __syncthreads();
    y[threadIdx.x + 64] = s[1][63 - threadIdx.x];
}

__device__ void named_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" :: "r"(id), "r"(threads) : "memory"); }
__device__ void named_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" :: "r"(id), "r"(threads) : "memory"); }

// Warp 0 makes, warp 1 uses; warps 2 and 3 stay out.
extern "C" __global__ void sound_named(float* y) {
    __shared__ float s[32];
    int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
    for (int round = 0; round < 3; ++round) {
        if (warp == 0) {
            if (round) named_sync(2, 64);
            s[lane] = lane + round;
            named_arrive(1, 64);
        } else if (warp == 1) {
            named_sync(1, 64);
            y[32 * round + lane] = s[31 - lane];
            if (round < 2) named_arrive(2, 64);
        }
    }
}
extern "C" __global__ void named_too_early(float* y) {
    __shared__ float s[32];
    int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
    for (int round = 0; round < 3; ++round) {
        if (warp == 0) {
            if (round) named_sync(2, 64);
            s[lane] = lane + round;
            named_arrive(1, 64);
        } else if (warp == 1) {
            named_sync(1, 64);
            if (round < 2) named_arrive(2, 64);
            y[32 * round + lane] = s[31 - lane];
        }
    }
}
extern "C" __global__ void named_mismatch(float* y) {
    named_sync(1, threadIdx.x < 32 ? 64 : 96);
    y[threadIdx.x] = 1.0f;
}
extern "C" __global__ void named_never_complete(float* y) {
    if (threadIdx.x < 32) named_sync(1, 64); else named_sync(2, 64);
    y[threadIdx.x] = 1.0f;
}
extern "C" __global__ void arrival_nobody_awaits(float* y) {
    if (threadIdx.x < 32) named_arrive(3, 64);
    y[threadIdx.x] = 1.0f;
}
extern "C" __global__ void endless(volatile float* y) { while (y[0] == 0.0f); }
extern "C" __global__ void trapped(float* y) { if (threadIdx.x == 3) __trap(); y[threadIdx.x] = 1.0f; }

// 32 lanes a column apart: all in one bank, 32 wavefronts for the store, 1 for the load. Then padded: none.
extern "C" __global__ void conflicts(float* y) {
    __shared__ float s[32 * 32];
    s[threadIdx.x * 32] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x * 32];
}
extern "C" __global__ void padded(float* y) {
    __shared__ float s[32 * 33];
    s[threadIdx.x * 33] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x * 33];
}
extern "C" __global__ void strided(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x * 8]; }
