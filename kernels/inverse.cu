// Turning an index table around, once its entries are sorted. One thread per entry, in strides. Bound by bandwidth.
#include "common.cuh"

// offsets[r] = first place of the sorted entries whose value is r or more; entries that name no row come last
extern "C" __global__ void inverse_offsets(
    const u32* __restrict__ sorted,    // [M], values of the table
    u64 n,                             // M
    u32 rows,                          // R
    u32* __restrict__ offsets          // [R + 1]
) {
    for (u64 i = first_element(); i <= n; i += element_stride()) {
        const u32 last = i == n ? rows : min(sorted[i], rows);
        const u32 first = i == 0 ? 0 : min(sorted[i - 1], rows) + 1;
        for (u64 r = first; r <= last; ++r) offsets[r] = (u32)i;
    }
}
