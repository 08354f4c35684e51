//! AVX2 and FMA: 8 lanes.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

const L: usize = 8;

/// Proof that the processor has AVX2 and FMA.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

/// True when the processor has everything that [`Avx2`] uses.
pub fn is_available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

impl Avx2 {
    /// Panics when the processor has not the instructions.
    #[inline]
    pub fn new() -> Self {
        assert!(is_available(), "this processor has no AVX2 and FMA");
        Avx2(())
    }

    /// The same processor seen from a level that includes this one.
    #[inline(always)]
    pub(super) fn implied_by(_: super::avx512::Avx512) -> Self {
        Avx2(())
    }
}

#[inline(never)]
#[target_feature(enable = "avx2,fma")]
fn enter<K: Kernel>(kernel: K, simd: Avx2) -> K::Output {
    kernel.run(simd)
}

/// Lane masks: eight set, then eight clear. Starting at 8 − n gives n set lanes.
static MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
fn mask(count: usize) -> __m256i {
    // SAFETY: 8 − min(count, 8) + 8 entries lie within the table; a value of `Avx2` exists where this is called.
    unsafe { _mm256_loadu_si256(MASK.as_ptr().add(L - count.min(L)).cast()) }
}

/// Rows `a` (lower half) and `b` (upper half) of four values each.
#[inline(always)]
fn two_rows(x: &[f32], a: usize, b: usize) -> __m256 {
    let (a, b) = (&x[a..a + 4], &x[b..b + 4]);
    // SAFETY: both slices have four values; a value of `Avx2` exists where this is called.
    unsafe {
        let a = _mm256_castps128_ps256(_mm_loadu_ps(a.as_ptr()));
        _mm256_insertf128_ps::<1>(a, _mm_loadu_ps(b.as_ptr()))
    }
}

/// Transposes every 4 × 4 block of four vectors.
#[inline(always)]
fn transpose(z: [__m256; 4]) -> [__m256; 4] {
    // SAFETY: a value of `Avx2` exists where this is called.
    unsafe {
        let a = _mm256_unpacklo_ps(z[0], z[1]);
        let b = _mm256_unpackhi_ps(z[0], z[1]);
        let c = _mm256_unpacklo_ps(z[2], z[3]);
        let d = _mm256_unpackhi_ps(z[2], z[3]);
        [
            _mm256_shuffle_ps::<0x44>(a, c),
            _mm256_shuffle_ps::<0xEE>(a, c),
            _mm256_shuffle_ps::<0x44>(b, d),
            _mm256_shuffle_ps::<0xEE>(b, d),
        ]
    }
}

/// For every choice of lanes the chosen ones in order.
static PACKED: [[u8; L]; 1 << L] = {
    let mut table = [[0; L]; 1 << L];
    let mut chosen = 0;
    while chosen < table.len() {
        let (mut lane, mut count) = (0, 0);
        while lane < L {
            if chosen >> lane & 1 == 1 {
                table[chosen][count] = lane as u8;
                count += 1;
            }
            lane += 1;
        }
        chosen += 1;
    }
    table
};

// SAFETY of all blocks below: `self` exists, so the processor has AVX2 and FMA; loads and stores are of slices whose
// length is checked first, or promised by the caller.
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all, above"
)]
impl Simd for Avx2 {
    type V = __m256;
    type Narrow = Self;
    const LANES: usize = L;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn narrow(self) -> Self {
        self
    }

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        unsafe { enter(kernel, self) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::V {
        assert!(x.len() >= L);
        unsafe { _mm256_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn load_partial(self, x: &[f32]) -> Self::V {
        unsafe { _mm256_maskload_ps(x.as_ptr(), mask(x.len())) }
    }

    #[inline(always)]
    fn store(self, y: &mut [f32], v: Self::V) {
        assert!(y.len() >= L);
        unsafe { _mm256_storeu_ps(y.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn store_partial(self, y: &mut [f32], v: Self::V) {
        unsafe { _mm256_maskstore_ps(y.as_mut_ptr(), mask(y.len()), v) }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn quotient(self, a: Self::V, b: Self::V, inverse: Self::V) -> Self::V {
        // The first correction leaves less than one unit in the last place, the second rounds rightly (Markstein).
        unsafe {
            let q = _mm256_mul_ps(a, inverse);
            let q = _mm256_fmadd_ps(_mm256_fnmadd_ps(q, b, a), inverse, q);
            _mm256_fmadd_ps(_mm256_fnmadd_ps(q, b, a), inverse, q)
        }
    }

    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        unsafe { _mm256_sqrt_ps(a) }
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    fn where_positive(self, gate: Self::V, x: Self::V) -> Self::V {
        unsafe { _mm256_and_ps(x, _mm256_cmp_ps::<_CMP_GT_OQ>(gate, _mm256_setzero_ps())) }
    }

    #[inline(always)]
    fn round(self, x: Self::V) -> Self::V {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }

    #[inline(always)]
    fn scale_by_power(self, x: Self::V, n: Self::V) -> Self::V {
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }

    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        unsafe {
            let a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps::<1>(a, a)))
        }
    }

    #[inline(always)]
    fn sums_of_four(self, [a, b, c, d]: [Self::V; 4], y: &mut [f32; 4]) {
        unsafe {
            let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            let low = _mm256_shuffle_ps::<0x44>(ab, cd);
            let all = _mm256_add_ps(low, _mm256_shuffle_ps::<0xEE>(ab, cd));
            let high = _mm256_extractf128_ps::<1>(all);
            _mm_storeu_ps(
                y.as_mut_ptr(),
                _mm_add_ps(_mm256_castps256_ps128(all), high),
            );
        }
    }

    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        unsafe {
            let a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps::<1>(a, a)))
        }
    }

    #[inline(always)]
    fn load_columns(self, x: &[f32], starts: &[usize]) -> [Self::V; 4] {
        let s: &[usize; L] = starts.first_chunk().expect("a start per lane");
        transpose([
            two_rows(x, s[0], s[4]),
            two_rows(x, s[1], s[5]),
            two_rows(x, s[2], s[6]),
            two_rows(x, s[3], s[7]),
        ])
    }

    #[inline(always)]
    fn store_columns(self, y: &mut [f32], starts: &[usize], columns: [Self::V; 4]) {
        let s: &[usize; L] = starts.first_chunk().expect("a start per lane");
        let rows = transpose(columns);
        for r in 0..4 {
            let low = &mut y[s[r]..s[r] + 4];
            unsafe { _mm_storeu_ps(low.as_mut_ptr(), _mm256_castps256_ps128(rows[r])) };
        }
        for r in 0..4 {
            let high = &mut y[s[r + 4]..s[r + 4] + 4];
            unsafe { _mm_storeu_ps(high.as_mut_ptr(), _mm256_extractf128_ps::<1>(rows[r])) };
        }
    }

    #[inline(always)]
    fn store_truncated(self, y: &mut [u32], v: Self::V) {
        assert!(y.len() >= L);
        unsafe { _mm256_storeu_si256(y.as_mut_ptr().cast(), _mm256_cvttps_epi32(v)) }
    }

    #[inline(always)]
    fn at_most(self, a: Self::V, b: Self::V) -> u32 {
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LE_OQ>(a, b)) as u32 }
    }

    #[inline(always)]
    fn pack(self, chosen: u32, v: Self::V, index: &[u32], y: &mut [f32], rows: &mut [u32]) {
        assert!(index.len() >= L && y.len() >= L && rows.len() >= L);
        let from = &PACKED[chosen as usize % PACKED.len()];
        unsafe {
            let from = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.as_ptr().cast()));
            let index = _mm256_loadu_si256(index.as_ptr().cast());
            _mm256_storeu_ps(y.as_mut_ptr(), _mm256_permutevar8x32_ps(v, from));
            let packed = _mm256_permutevar8x32_epi32(index, from);
            _mm256_storeu_si256(rows.as_mut_ptr().cast(), packed);
        }
    }

    #[inline(always)]
    fn prefetch(self, x: &[f32]) {
        for line in x.chunks(16) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
        }
    }

    #[inline(always)]
    unsafe fn load_at(self, x: *const f32) -> Self::V {
        unsafe { _mm256_loadu_ps(x) }
    }

    #[inline(always)]
    unsafe fn store_at(self, y: *mut f32, v: Self::V) {
        unsafe { _mm256_storeu_ps(y, v) }
    }
}
