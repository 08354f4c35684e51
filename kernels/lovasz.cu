// Lovász softmax: probabilities, errors, a sort of the errors of every class, and the loss along each sorted list. Sorting
// is by radix, 8 bits at a time, all classes side by side: digits are counted per chunk of a list, the counts summed up,
// and every entry moved to its place. Equal errors keep the order of their rows. Bound by bandwidth; the loss of a class
// is the work of one block, bound by latency.
#include "common.cuh"

#define ONE 0x3F800000u      // bits of 1.0: the largest error. ONE - bits sorts errors in descending order
#define STRANGE 0x3FFFFFFEu  // key of an error that is not finite: behind all errors
#define IGNORED 0x3FFFFFFFu  // key of a row that does not count: behind everything
#define DIGITS 256
#define SORT_THREADS 256
#define SORT_WARPS (SORT_THREADS / 32)
// Rows and classes of a tile of lovasz_keys; as KEY_TILE in ops/lovasz/cuda.rs.
#define KEY_ROWS 64
#define KEY_COLS 32

// p = softmax(x). One warp per row.
extern "C" __global__ void lovasz_softmax_rows(
    const float* __restrict__ x,  // [N, C]
    u64 rows,                     // N
    u32 cols,                     // C
    float* __restrict__ p         // [N, C]
) {
    const u64 row = warp_number();
    if (row < rows) softmax_row(x + row * cols, cols, p + row * cols);
}

// Sort keys of the errors of all classes. A block turns a tile of rows and classes around in shared memory, so that both
// sides are contiguous.
extern "C" __global__ void __launch_bounds__(SORT_THREADS) lovasz_keys(
    const float* __restrict__ p,     // [N, C]
    const u32* __restrict__ target,  // [N], labels
    u32 rows,                        // N
    u32 cols,                        // C
    u32 ignore,
    u32* __restrict__ keys,          // [C, N]
    u32* __restrict__ order          // [C, N]: rows in their own order
) {
    __shared__ float tile[KEY_COLS][KEY_ROWS + 1];
    __shared__ u32 labels[KEY_ROWS];
    const u32 first = blockIdx.x * KEY_ROWS, count = min(rows - first, (u32)KEY_ROWS);
    const u32 start = blockIdx.y * KEY_COLS, width = min(cols - start, (u32)KEY_COLS);
    if (threadIdx.x < count) labels[threadIdx.x] = target[first + threadIdx.x];
    for (u32 i = threadIdx.x; i < count * width; i += SORT_THREADS) {
        const u32 row = i / width, c = i - row * width;
        tile[c][row] = p[(u64)(first + row) * cols + start + c];
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < width * KEY_ROWS; i += SORT_THREADS) {
        const u32 row = i % KEY_ROWS, c = i / KEY_ROWS;
        if (row >= count) continue;
        const float value = tile[c][row];
        const float error = labels[row] == start + c ? 1.0f - value : value;
        const u32 key = error <= 1.0f ? ONE - __float_as_uint(error) : STRANGE;
        const u64 at = (u64)(start + c) * rows + first + row;
        keys[at] = labels[row] == ignore ? IGNORED : key;
        order[at] = first + row;
    }
}

// How often every digit occurs in a chunk (blockIdx.x) of the list of a class (blockIdx.y).
extern "C" __global__ void __launch_bounds__(SORT_THREADS) lovasz_count(
    const u32* __restrict__ keys,  // [C, N]
    u32 rows,                      // N
    u32 chunk,                     // rows of a chunk
    u32 shift,                     // of the digit
    u32* __restrict__ counts       // [C, 256, chunks]
) {
    __shared__ u32 count[DIGITS];
    count[threadIdx.x] = 0;
    __syncthreads();
    const u32 first = blockIdx.x * chunk, end = rows - first < chunk ? rows : first + chunk;
    for (u32 row = first + threadIdx.x; row < end; row += SORT_THREADS)
        atomicAdd(&count[keys[(u64)blockIdx.y * rows + row] >> shift & (DIGITS - 1)], 1u);
    __syncthreads();
    counts[((u64)blockIdx.y * DIGITS + threadIdx.x) * gridDim.x + blockIdx.x] = count[threadIdx.x];
}

// Sum over the threads of a block of 1024 up to this one and including it; `total` is the sum over all.
__device__ __forceinline__ u32 inclusive_scan(u32 x, u32& total) {
    __shared__ u32 sums[32];
#pragma unroll
    for (u32 step = 1; step < 32; step *= 2) {
        const u32 before = __shfl_up_sync(0xFFFFFFFFu, x, step);
        if (lane_number() >= step) x += before;
    }
    __syncthreads();
    if (lane_number() == 31) sums[threadIdx.x >> 5] = x;
    __syncthreads();
    u32 before = 0;
    total = 0;
    for (u32 warp = 0; warp < 32; ++warp) {
        if (warp < threadIdx.x >> 5) before += sums[warp];
        total += sums[warp];
    }
    return x + before;
}

// Replaces the counts of a class by the sums before them. One block per class.
extern "C" __global__ void __launch_bounds__(1024) lovasz_scan(
    u32 count,   // 256 * chunks
    u32* counts  // [C, count]
) {
    u32* list = counts + (u64)blockIdx.x * count;
    u32 before = 0;
    for (u32 first = 0; first < count; first += 1024) {
        const u32 at = first + threadIdx.x;
        const u32 x = at < count ? list[at] : 0;
        u32 total;
        const u32 sum = inclusive_scan(x, total);
        if (at < count) list[at] = before + sum - x;
        before += total;
    }
}

// Moves the entries of a chunk (blockIdx.x) of the list of a class (blockIdx.y) to their places.
extern "C" __global__ void __launch_bounds__(SORT_THREADS) lovasz_move(
    const u32* __restrict__ keys,    // [C, N]
    const u32* __restrict__ order,   // [C, N]
    const u32* __restrict__ counts,  // [C, 256, chunks]
    u32 rows,                        // N
    u32 chunk,                       // rows of a chunk
    u32 shift,                       // of the digit
    u32* __restrict__ sorted_keys,   // [C, N]
    u32* __restrict__ sorted_order   // [C, N]
) {
    __shared__ u32 start[DIGITS], found[SORT_WARPS][DIGITS];
    const u64 list = (u64)blockIdx.y * rows;
    start[threadIdx.x] = counts[((u64)blockIdx.y * DIGITS + threadIdx.x) * gridDim.x + blockIdx.x];
    const u32 warp = threadIdx.x >> 5, before_me = (1u << lane_number()) - 1u;
    const u32 first = blockIdx.x * chunk, end = rows - first < chunk ? rows : first + chunk;
    for (u32 base = first; base < end; base += SORT_THREADS) {
        for (u32 w = 0; w < SORT_WARPS; ++w) found[w][threadIdx.x] = 0;
        __syncthreads();
        const u32 row = base + threadIdx.x;
        const bool is_row = row < end;
        const u32 key = is_row ? keys[list + row] : 0, digit = key >> shift & (DIGITS - 1);
        // Lanes that hold the same digit.
        u32 same = __ballot_sync(0xFFFFFFFFu, is_row);
#pragma unroll
        for (u32 bit = 0; bit < 8; ++bit) {
            const u32 set = __ballot_sync(0xFFFFFFFFu, digit >> bit & 1u);
            same &= digit >> bit & 1u ? set : ~set;
        }
        const u32 rank = __popc(same & before_me);
        if (is_row && rank == 0) found[warp][digit] = __popc(same);
        __syncthreads();
        if (is_row) {
            u32 place = start[digit] + rank;
            for (u32 w = 0; w < warp; ++w) place += found[w][digit];
            sorted_keys[list + place] = key;
            sorted_order[list + place] = order[list + row];
        }
        __syncthreads();
        for (u32 w = 0; w < SORT_WARPS; ++w) start[threadIdx.x] += found[w][threadIdx.x];
    }
}

// Loss of every class and its gradient. One block of 1024 threads per class.
extern "C" __global__ void __launch_bounds__(1024) lovasz_classes(
    const u32* __restrict__ keys,    // [C, N], sorted
    const u32* __restrict__ order,   // [C, N], sorted
    const u32* __restrict__ target,  // [N]
    u32 rows,                        // N
    u32 cols,                        // C
    float* __restrict__ d_p,         // [N, C]
    float* __restrict__ losses,      // [C]
    float* __restrict__ present      // [C]: 1 where a row has the class, else 0
) {
    __shared__ double sums[32];
    const u32 label = blockIdx.x;
    const u64 list = (u64)label * rows;
    u32 size = 0, counted = 0;
    for (u32 first = 0; first < rows; first += 1024) {
        const u32 at = first + threadIdx.x;
        const u32 key = at < rows ? keys[list + at] : IGNORED;
        u32 total;
        inclusive_scan(key != IGNORED, total);
        counted += total;
        inclusive_scan(key != IGNORED && target[order[list + at]] == label, total);
        size += total;
    }
    // Errors that are not finite come last among the rows that count.
    const bool is_strange = counted > 0 && keys[list + counted - 1] == STRANGE;
    u32 hits_before = 0;
    double loss = 0.0;
    for (u32 first = 0; first < rows; first += 1024) {
        const u32 at = first + threadIdx.x;
        const bool is_counted = at < counted;
        const u32 row = at < rows ? order[list + at] : 0;
        const u32 hit = is_counted && target[row] == label;
        u32 total;
        const u32 hits = hits_before + inclusive_scan(hit, total);
        hits_before += total;
        float d = 0.0f;
        if (is_counted && size > 0 && !is_strange) {
            const float error = __uint_as_float(ONE - keys[list + at]);
            const double after = 1.0 - (double)(size - hits) / (double)(size + at + 1 - hits);
            const double before = 1.0 - (double)(size - hits + hit) / (double)(size + at + hit - hits);
            const double step = after - before;
            loss += error * step;
            // At an error of 0 the absolute value has a kink; its gradient there is 0.
            if (error > 0.0f) d = (float)(hit ? -step : step);
        }
        if (at < rows) d_p[(u64)row * cols + label] = d;
    }
    loss = warp_sum(loss);
    if (lane_number() == 0) sums[threadIdx.x >> 5] = loss;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    loss = warp_sum(sums[threadIdx.x]);
    if (threadIdx.x != 0) return;
    losses[label] = is_strange && size > 0 ? __int_as_float(0x7FC00000) : (float)loss;
    present[label] = size > 0 ? 1.0f : 0.0f;
}

// The loss: the mean over the classes that are present. One warp.
extern "C" __global__ void lovasz_total(
    const float* __restrict__ losses,   // [C]
    const float* __restrict__ present,  // [C]
    u32 cols,                           // C
    float* __restrict__ loss,           // [1]
    float* __restrict__ share           // [1]: 1 / number of classes present
) {
    double sum = 0.0, count = 0.0;
    for (u32 c = lane_number(); c < cols; c += 32) {
        sum += losses[c];
        count += present[c];
    }
    sum = warp_sum(sum);
    count = warp_sum(count);
    if (lane_number() != 0) return;
    share[0] = (float)(1.0 / fmax(count, 1.0));
    loss[0] = (float)(sum / fmax(count, 1.0));
}

// Through the softmax: the gradient of the loss by x. One warp per row.
extern "C" __global__ void lovasz_gradient(
    const float* __restrict__ p,      // [N, C]
    const float* __restrict__ d_p,    // [N, C]
    const float* __restrict__ share,  // [1]
    u64 rows,                         // N
    u32 cols,                         // C
    float* __restrict__ d_x           // [N, C]
) {
    const u64 row = warp_number();
    if (row >= rows) return;
    const u64 first = row * cols;
    float mean = 0.0f;
    for (u32 c = lane_number(); c < cols; c += 32) mean += p[first + c] * d_p[first + c];
    mean = warp_sum(mean);
    for (u32 c = lane_number(); c < cols; c += 32) d_x[first + c] = share[0] * p[first + c] * (d_p[first + c] - mean);
}

// d_x += d_loss times the gradient. One thread per value, in strides of the grid.
extern "C" __global__ void lovasz_backward(
    const float* __restrict__ unit,    // [N, C]
    const float* __restrict__ d_loss,  // [1]
    u64 n,                             // N * C
    float* __restrict__ d_x            // [N, C]
) {
    for (u64 i = first_element(); i < n; i += element_stride()) d_x[i] += d_loss[0] * unit[i];
}
