// C = A·Bᵀ with every tensor-core piece that our kernels use: cp.async in two stages, ldmatrix, mma.sync.
// One warp per 16×8 tile of C, k in steps of 16. A [M, K] and B [N, K] bf16 or f16, C [M, N] f32.

template <bool BF16> __device__ void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    if (BF16)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

__device__ void stage(unsigned short* sa, unsigned short* sb, const unsigned short* a, const unsigned short* b, int k, int lane) {
    const unsigned short* from = a + (lane >> 1) * k + (lane & 1) * 8;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(shared_address(sa + lane * 8)), "l"(from) : "memory");
    if (lane < 16) {
        from = b + (lane >> 1) * k + (lane & 1) * 8;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(shared_address(sb + lane * 8)), "l"(from) : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <bool BF16> __device__ void gemm(const unsigned short* a, const unsigned short* b, int n, int k, float* c) {
    __shared__ __align__(16) unsigned short sa[2][16 * 16], sb[2][8 * 16];
    const int lane = threadIdx.x, row = blockIdx.y * 16, column = blockIdx.x * 8, steps = k / 16;
    a += row * k;
    b += column * k;
    float acc[4] = {0, 0, 0, 0};
    stage(sa[0], sb[0], a, b, k, lane);
    for (int step = 0; step < steps; ++step) {
        if (step + 1 < steps) {
            stage(sa[(step + 1) & 1], sb[(step + 1) & 1], a + (step + 1) * 16, b + (step + 1) * 16, k, lane);
            asm volatile("cp.async.wait_group 1;" ::: "memory");
        } else {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
        }
        __syncwarp();
        unsigned fa[4], fb[2];
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(fa[0]), "=r"(fa[1]), "=r"(fa[2]), "=r"(fa[3])
            : "r"(shared_address(sa[step & 1] + (lane & 15) * 16 + (lane >> 4) * 8)) : "memory");
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(fb[0]), "=r"(fb[1])
            : "r"(shared_address(sb[step & 1] + (lane & 7) * 16 + ((lane >> 3) & 1) * 8)) : "memory");
        multiply<BF16>(acc, fa, fb);
        __syncwarp();
    }
    const int r = row + (lane >> 2), q = column + (lane & 3) * 2;
    c[r * n + q] = acc[0];
    c[r * n + q + 1] = acc[1];
    c[(r + 8) * n + q] = acc[2];
    c[(r + 8) * n + q + 1] = acc[3];
}
extern "C" __global__ void gemm_bf16(const unsigned short* a, const unsigned short* b, int n, int k, float* c) { gemm<true>(a, b, n, k, c); }
extern "C" __global__ void gemm_f16(const unsigned short* a, const unsigned short* b, int n, int k, float* c) { gemm<false>(a, b, n, k, c); }

// C [16, 8] = A [16, 8]·Bᵀ, B [8, 8], tf32; then bf16 and f16 with k = 8 through transposed ldmatrix of B [8 k, 8 n].
extern "C" __global__ void tile_tf32(const float* a, const float* b, float* c) {
    const int g = threadIdx.x >> 2, t = threadIdx.x & 3;
    unsigned fa[4], fb[2];
    float in[6] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + t + 4], a[(g + 8) * 8 + t + 4], b[g * 8 + t], b[g * 8 + t + 4]};
    for (int i = 0; i < 4; ++i) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(fa[i]) : "f"(in[i]));
    for (int i = 0; i < 2; ++i) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(fb[i]) : "f"(in[4 + i]));
    float d[4] = {1, 2, 3, 4};
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
    c[g * 8 + 2 * t] = d[0];
    c[g * 8 + 2 * t + 1] = d[1];
    c[(g + 8) * 8 + 2 * t] = d[2];
    c[(g + 8) * 8 + 2 * t + 1] = d[3];
}
template <bool BF16> __device__ void tile_half(const unsigned short* a, const unsigned short* b, float* c) {
    __shared__ __align__(16) unsigned short sa[16 * 8], sb[8 * 8];
    const int lane = threadIdx.x, g = lane >> 2, t = lane & 3;
    for (int i = lane; i < 128; i += 32) sa[i] = a[i];
    for (int i = lane; i < 64; i += 32) sb[i] = b[i];
    __syncwarp();
    unsigned fa[2], fb;
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(fa[0]), "=r"(fa[1]) : "r"(shared_address(sa + (lane & 15) * 8)) : "memory");
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(fb) : "r"(shared_address(sb + (lane & 7) * 8)) : "memory");
    float d[4] = {0, 0, 0, 0};
    if (BF16)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(fa[0]), "r"(fa[1]), "r"(fb));
    else
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(fa[0]), "r"(fa[1]), "r"(fb));
    c[g * 8 + 2 * t] = d[0];
    c[g * 8 + 2 * t + 1] = d[1];
    c[(g + 8) * 8 + 2 * t] = d[2];
    c[(g + 8) * 8 + 2 * t + 1] = d[3];
}
extern "C" __global__ void tile_bf16(const unsigned short* a, const unsigned short* b, float* c) { tile_half<true>(a, b, c); }
extern "C" __global__ void tile_f16(const unsigned short* a, const unsigned short* b, float* c) { tile_half<false>(a, b, c); }
