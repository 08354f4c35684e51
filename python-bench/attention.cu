// Attention over lists of pairs, as the CUDA extension of the official Stratified Transformer has it: nothing of C numbers is
// written per pair, gradients of keys, values and tables are added up by atomics. `cuda_attention.py` launches these.
//
// N points, M pairs sorted by query, C channels, H heads of `width` = C / H channels (a power of two up to 32). Every pair
// names three rows of the tables [3L, C]. REAL is float or double.
//
// Launched with a thread per pair and channel (`scores`, `*_pairs`), per point and channel, or per point and head. Bound by
// reads and atomics in L2.

typedef REAL real;
#define SIZES int channels, int width
#define PAIRS const int *query, const int *key, const int *bins /* [M], [M], [M, 3] */, int pairs
#define LISTS const int *first, const int *key, const int *bins /* [N + 1], [M], [M, 3] */, int points

__device__ __forceinline__ long long thread() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }

// Sum of the rows that a pair names, at channel c.
__device__ __forceinline__ real named(const real* table, const int* bins, int channels, long long c) {
    return table[(long long)bins[0] * channels + c] + table[(long long)bins[1] * channels + c] +
           table[(long long)bins[2] * channels + c];
}

__device__ __forceinline__ void add_named(real* table, const int* bins, int channels, long long c, real x) {
    for (int i = 0; i < 3; ++i) atomicAdd(table + (long long)bins[i] * channels + c, x);
}

// The sum over the `width` lanes of a head; all lanes of the warp have to call it.
__device__ __forceinline__ real head_sum(real x, int width) {
    for (int step = width / 2; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
    return x;
}

// score = q · (k + Tq) + k · Tk
extern "C" __global__ void scores(const real* q, const real* k,    // [N, C]
                                  const real* tq, const real* tk,  // [3L, C]
                                  PAIRS, SIZES,
                                  real* score) {  // [M, H]
    const long long i = thread(), m = min(i / channels, (long long)pairs - 1);
    const long long c = i % channels;
    const int* bin = bins + 3 * m;
    const real a = q[(long long)query[m] * channels + c], b = k[(long long)key[m] * channels + c];
    const real x = head_sum(a * (b + named(tq, bin, channels, c)) + b * named(tk, bin, channels, c), width);
    if (i / channels < pairs && c % width == 0) score[i / width] = x;
}

// Softmax of the scores of each query and head, in place.
extern "C" __global__ void softmax(const int* first,  // [N + 1]
                                   int points, int heads,
                                   real* score) {  // [M, H]
    const long long i = thread();
    const long long h = i % heads;
    if (i / heads >= points) return;
    const int a = first[i / heads], b = first[i / heads + 1];
    real most = -1e30, total = 1e-12;
    for (long long m = a; m < b; ++m) most = max(most, score[m * heads + h]);
    for (long long m = a; m < b; ++m) total += score[m * heads + h] = exp(score[m * heads + h] - most);
    for (long long m = a; m < b; ++m) score[m * heads + h] /= total;
}

// y = sum over the keys of p (v + Tv)
extern "C" __global__ void values(const real* p,   // [M, H]
                                  const real* v,   // [N, C]
                                  const real* tv,  // [3L, C]
                                  LISTS, SIZES,
                                  real* y) {  // [N, C]
    const long long i = thread();
    const long long n = i / channels, c = i % channels, heads = channels / width;
    if (i / channels >= points) return;
    real sum = 0;
    for (long long m = first[n]; m < first[n + 1]; ++m) {
        sum += p[m * heads + c / width] * (v[(long long)key[m] * channels + c] + named(tv, bins + 3 * m, channels, c));
    }
    y[i] = sum;
}

// d_p = d_y · (v + Tv); p d_y to the gradients of v and Tv.
extern "C" __global__ void values_pairs(const real* d_y, const real* p, const real* v, const real* tv, PAIRS, SIZES,
                                        real* d_p,                  // [M, H]
                                        real* d_v, real* d_tv) {  // [N, C], [3L, C], zero before
    const long long i = thread(), m = min(i / channels, (long long)pairs - 1);
    const long long c = i % channels;
    const int* bin = bins + 3 * m;
    const long long at = (long long)key[m] * channels + c;
    const real d = d_y[(long long)query[m] * channels + c];
    const real x = head_sum(d * (v[at] + named(tv, bin, channels, c)), width);
    if (i / channels >= pairs) return;
    if (c % width == 0) d_p[i / width] = x;
    const real weighted = p[i / width] * d;
    atomicAdd(d_v + at, weighted);
    add_named(d_tv, bin, channels, c, weighted);
}

// d_score = p (d_p - sum of p d_p over the keys of the query), in place of d_p.
extern "C" __global__ void softmax_backward(const int* first, int points, int heads, const real* p, real* d_p) {
    const long long i = thread();
    const long long h = i % heads;
    if (i / heads >= points) return;
    const int a = first[i / heads], b = first[i / heads + 1];
    real sum = 0;
    for (long long m = a; m < b; ++m) sum += p[m * heads + h] * d_p[m * heads + h];
    for (long long m = a; m < b; ++m) d_p[m * heads + h] = p[m * heads + h] * (d_p[m * heads + h] - sum);
}

// d_q = sum over the keys of d_score (k + Tq)
extern "C" __global__ void scores_queries(const real* d_score, const real* k, const real* tq, LISTS, SIZES, real* d_q) {
    const long long i = thread();
    const long long n = i / channels, c = i % channels, heads = channels / width;
    if (i / channels >= points) return;
    real sum = 0;
    for (long long m = first[n]; m < first[n + 1]; ++m) {
        sum += d_score[m * heads + c / width] * (k[(long long)key[m] * channels + c] + named(tq, bins + 3 * m, channels, c));
    }
    d_q[i] = sum;
}

// d_score (q + Tk), d_score q and d_score k to the gradients of k, Tq and Tk.
extern "C" __global__ void scores_pairs(const real* d_score, const real* q, const real* k, const real* tk, PAIRS, SIZES,
                                        real* d_k, real* d_tq, real* d_tk) {  // zero before
    const long long i = thread(), m = i / channels;
    const long long c = i % channels;
    if (m >= pairs) return;
    const int* bin = bins + 3 * m;
    const long long at = (long long)key[m] * channels + c;
    const real d = d_score[i / width], a = q[(long long)query[m] * channels + c];
    atomicAdd(d_k + at, d * (a + named(tk, bin, channels, c)));
    add_named(d_tq, bin, channels, c, d * a);
    add_named(d_tk, bin, channels, c, d * k[at]);
}
