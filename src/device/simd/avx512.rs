//! AVX-512 (F, VL, DQ, BW): 16 lanes.

use super::avx2::Avx2;
use super::{Kernel, Simd};
use std::arch::x86_64::*;

const L: usize = 16;

/// Proof that the processor has AVX-512 F, VL, DQ and BW.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

/// True when the processor has everything that [`Avx512`] uses.
pub fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
        && super::avx2::is_available()
}

impl Avx512 {
    /// Panics when the processor has not the instructions.
    #[inline]
    pub fn new() -> Self {
        assert!(is_available(), "this processor has no AVX-512");
        Avx512(())
    }
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
fn enter<K: Kernel>(kernel: K, simd: Avx512) -> K::Output {
    kernel.run(simd)
}

#[inline(always)]
fn mask(count: usize) -> __mmask16 {
    ((1u32 << count.min(L)) - 1) as __mmask16
}

/// Four rows of four values, one per quarter.
#[inline(always)]
fn four_rows(x: &[f32], starts: [usize; 4]) -> __m512 {
    // Not `map`, which is a call of its own where this is inlined often.
    let [a, b, c, d] = starts;
    let (a, b, c, d) = (&x[a..a + 4], &x[b..b + 4], &x[c..c + 4], &x[d..d + 4]);
    // SAFETY: the slices have four values; a value of `Avx512` exists where this is called.
    unsafe {
        let v = _mm512_castps128_ps512(_mm_loadu_ps(a.as_ptr()));
        let v = _mm512_insertf32x4::<1>(v, _mm_loadu_ps(b.as_ptr()));
        let v = _mm512_insertf32x4::<2>(v, _mm_loadu_ps(c.as_ptr()));
        _mm512_insertf32x4::<3>(v, _mm_loadu_ps(d.as_ptr()))
    }
}

/// Transposes every 4 × 4 block of four vectors.
#[inline(always)]
fn transpose(z: [__m512; 4]) -> [__m512; 4] {
    // SAFETY: a value of `Avx512` exists where this is called.
    unsafe {
        let a = _mm512_unpacklo_ps(z[0], z[1]);
        let b = _mm512_unpackhi_ps(z[0], z[1]);
        let c = _mm512_unpacklo_ps(z[2], z[3]);
        let d = _mm512_unpackhi_ps(z[2], z[3]);
        [
            _mm512_shuffle_ps::<0x44>(a, c),
            _mm512_shuffle_ps::<0xEE>(a, c),
            _mm512_shuffle_ps::<0x44>(b, d),
            _mm512_shuffle_ps::<0xEE>(b, d),
        ]
    }
}

// SAFETY of all blocks below: `self` exists, so the processor has the instructions; loads and stores are of slices
// whose length is checked first, masked to it, or promised by the caller.
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all, above"
)]
impl Simd for Avx512 {
    type V = __m512;
    type Narrow = Avx2;
    const LANES: usize = L;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn narrow(self) -> Avx2 {
        Avx2::implied_by(self)
    }

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        unsafe { enter(kernel, self) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::V {
        assert!(x.len() >= L);
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn load_partial(self, x: &[f32]) -> Self::V {
        unsafe { _mm512_maskz_loadu_ps(mask(x.len()), x.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, y: &mut [f32], v: Self::V) {
        assert!(y.len() >= L);
        unsafe { _mm512_storeu_ps(y.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn store_partial(self, y: &mut [f32], v: Self::V) {
        unsafe { _mm512_mask_storeu_ps(y.as_mut_ptr(), mask(y.len()), v) }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn quotient(self, a: Self::V, b: Self::V, inverse: Self::V) -> Self::V {
        // The first correction leaves less than one unit in the last place, the second rounds rightly (Markstein).
        unsafe {
            let q = _mm512_mul_ps(a, inverse);
            let q = _mm512_fmadd_ps(_mm512_fnmadd_ps(q, b, a), inverse, q);
            _mm512_fmadd_ps(_mm512_fnmadd_ps(q, b, a), inverse, q)
        }
    }

    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        unsafe { _mm512_sqrt_ps(a) }
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn where_positive(self, gate: Self::V, x: Self::V) -> Self::V {
        unsafe {
            let open = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(gate, _mm512_setzero_ps());
            _mm512_maskz_mov_ps(open, x)
        }
    }

    #[inline(always)]
    fn round(self, x: Self::V) -> Self::V {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }

    #[inline(always)]
    fn scale_by_power(self, x: Self::V, n: Self::V) -> Self::V {
        unsafe { _mm512_scalef_ps(x, n) }
    }

    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        unsafe { _mm512_reduce_add_ps(v) }
    }

    #[inline(always)]
    fn sums_of_four(self, [a, b, c, d]: [Self::V; 4], y: &mut [f32; 4]) {
        unsafe {
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let low = _mm512_shuffle_ps::<0x44>(ab, cd);
            let all = _mm512_add_ps(low, _mm512_shuffle_ps::<0xEE>(ab, cd));
            let high = _mm512_extractf32x8_ps::<1>(all);
            let half = _mm256_add_ps(_mm512_castps512_ps256(all), high);
            let high = _mm256_extractf128_ps::<1>(half);
            _mm_storeu_ps(
                y.as_mut_ptr(),
                _mm_add_ps(_mm256_castps256_ps128(half), high),
            );
        }
    }

    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        unsafe { _mm512_reduce_max_ps(v) }
    }

    #[inline(always)]
    fn load_columns(self, x: &[f32], starts: &[usize]) -> [Self::V; 4] {
        let s: &[usize; L] = starts.first_chunk().expect("a start per lane");
        transpose([
            four_rows(x, [s[0], s[4], s[8], s[12]]),
            four_rows(x, [s[1], s[5], s[9], s[13]]),
            four_rows(x, [s[2], s[6], s[10], s[14]]),
            four_rows(x, [s[3], s[7], s[11], s[15]]),
        ])
    }

    #[inline(always)]
    fn store_columns(self, y: &mut [f32], starts: &[usize], columns: [Self::V; 4]) {
        let s: &[usize; L] = starts.first_chunk().expect("a start per lane");
        let rows = transpose(columns);
        for quarter in 0..4 {
            for r in 0..4 {
                let start = s[4 * quarter + r];
                let row = &mut y[start..start + 4];
                unsafe {
                    let four = match quarter {
                        0 => _mm512_castps512_ps128(rows[r]),
                        1 => _mm512_extractf32x4_ps::<1>(rows[r]),
                        2 => _mm512_extractf32x4_ps::<2>(rows[r]),
                        _ => _mm512_extractf32x4_ps::<3>(rows[r]),
                    };
                    _mm_storeu_ps(row.as_mut_ptr(), four);
                }
            }
        }
    }

    #[inline(always)]
    fn store_truncated(self, y: &mut [u32], v: Self::V) {
        assert!(y.len() >= L);
        unsafe { _mm512_storeu_si512(y.as_mut_ptr().cast(), _mm512_cvttps_epi32(v)) }
    }

    #[inline(always)]
    fn at_most(self, a: Self::V, b: Self::V) -> u32 {
        unsafe { u32::from(_mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b)) }
    }

    #[inline(always)]
    fn pack(self, chosen: u32, v: Self::V, index: &[u32], y: &mut [f32], rows: &mut [u32]) {
        assert!(index.len() >= L && y.len() >= L && rows.len() >= L);
        let chosen = chosen as __mmask16;
        unsafe {
            // Compressing straight to memory is microcoded on some processors.
            let index = _mm512_loadu_si512(index.as_ptr().cast());
            _mm512_storeu_ps(y.as_mut_ptr(), _mm512_maskz_compress_ps(chosen, v));
            _mm512_storeu_si512(
                rows.as_mut_ptr().cast(),
                _mm512_maskz_compress_epi32(chosen, index),
            );
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
        unsafe { _mm512_loadu_ps(x) }
    }

    #[inline(always)]
    unsafe fn store_at(self, y: *mut f32, v: Self::V) {
        unsafe { _mm512_storeu_ps(y, v) }
    }
}
