//! AVX-512F.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use half::f16;

use super::operations::shared;
use super::{Convert, Simd};

/// AVX-512F vectors; made only by the functions of [`super::x86`], whose callers have detected the features.
#[derive(Clone, Copy)]
pub(super) struct Avx512<R>(pub(super) PhantomData<R>);

impl Simd for Avx512<f32> {
    shared!(
        f32,
        __m512,
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_div_ps,
        _mm512_fmadd_ps,
        _mm512_max_ps,
        _mm512_min_ps,
        _mm512_sqrt_ps
    );

    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        // SAFETY: the token; the same holds below.
        unsafe { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_roundscale_ps::<0>(a) }
    }
    #[inline(always)]
    fn where_less(self, a: __m512, b: __m512, then: __m512, otherwise: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), otherwise, then) }
    }
    #[inline(always)]
    fn all_at_least(self, a: __m512, b: __m512) -> bool {
        // SAFETY: the token.
        unsafe { _mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b) == 0xffff }
    }
    #[inline(always)]
    fn scale(self, a: __m512, n: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_scalef_ps(a, n) }
    }
    #[inline(always)]
    fn exponent(self, a: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_getexp_ps(a) }
    }
    #[inline(always)]
    fn mantissa(self, a: __m512) -> __m512 {
        // SAFETY: the token.
        unsafe { _mm512_getmant_ps::<_MM_MANT_NORM_1_2, _MM_MANT_SIGN_SRC>(a) }
    }
    #[inline(always)]
    unsafe fn add_to(self, sums: *mut f64, a: __m512) {
        // SAFETY: the token, and the caller's promise.
        unsafe {
            let low = _mm512_cvtps_pd(_mm512_castps512_ps256(a));
            let high = _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(a))));
            _mm512_storeu_pd(sums, _mm512_add_pd(_mm512_loadu_pd(sums), low));
            _mm512_storeu_pd(sums.add(8), _mm512_add_pd(_mm512_loadu_pd(sums.add(8)), high));
        }
    }
    #[inline(always)]
    fn total(self, a: __m512) -> f64 {
        // SAFETY: the token. By halving too.
        unsafe {
            let low = _mm512_cvtps_pd(_mm512_castps512_ps256(a));
            let high = _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(a))));
            _mm512_reduce_add_pd(_mm512_add_pd(low, high))
        }
    }
    #[inline(always)]
    fn widen(self, from: &[f16], to: &mut [f32]) {
        assert!(from.len() == to.len());
        let end = from.len() / Self::LANES * Self::LANES;
        for place in (0..end).step_by(Self::LANES) {
            // SAFETY: the token; both have `LANES` values from `place` on.
            unsafe {
                let half = _mm256_loadu_si256(from.as_ptr().add(place).cast());
                _mm512_storeu_ps(to.as_mut_ptr().add(place), _mm512_cvtph_ps(half));
            }
        }
        f32::from_half(&from[end..], &mut to[end..]);
    }
}

impl Simd for Avx512<f64> {
    shared!(
        f64,
        __m512d,
        8,
        _mm512_set1_pd,
        _mm512_loadu_pd,
        _mm512_storeu_pd,
        _mm512_add_pd,
        _mm512_sub_pd,
        _mm512_mul_pd,
        _mm512_div_pd,
        _mm512_fmadd_pd,
        _mm512_max_pd,
        _mm512_min_pd,
        _mm512_sqrt_pd
    );

    #[inline(always)]
    fn abs(self, a: __m512d) -> __m512d {
        // SAFETY: the token; the same holds below.
        unsafe { _mm512_abs_pd(a) }
    }
    #[inline(always)]
    fn round(self, a: __m512d) -> __m512d {
        // SAFETY: the token.
        unsafe { _mm512_roundscale_pd::<0>(a) }
    }
    #[inline(always)]
    fn where_less(self, a: __m512d, b: __m512d, then: __m512d, otherwise: __m512d) -> __m512d {
        // SAFETY: the token.
        unsafe { _mm512_mask_blend_pd(_mm512_cmp_pd_mask::<_CMP_LT_OQ>(a, b), otherwise, then) }
    }
    #[inline(always)]
    fn all_at_least(self, a: __m512d, b: __m512d) -> bool {
        // SAFETY: the token.
        unsafe { _mm512_cmp_pd_mask::<_CMP_GE_OQ>(a, b) == 0xff }
    }
    #[inline(always)]
    fn scale(self, a: __m512d, n: __m512d) -> __m512d {
        // SAFETY: the token.
        unsafe { _mm512_scalef_pd(a, n) }
    }
    #[inline(always)]
    fn exponent(self, a: __m512d) -> __m512d {
        // SAFETY: the token.
        unsafe { _mm512_getexp_pd(a) }
    }
    #[inline(always)]
    fn mantissa(self, a: __m512d) -> __m512d {
        // SAFETY: the token.
        unsafe { _mm512_getmant_pd::<_MM_MANT_NORM_1_2, _MM_MANT_SIGN_SRC>(a) }
    }
    #[inline(always)]
    unsafe fn add_to(self, sums: *mut f64, a: __m512d) {
        // SAFETY: the token, and the caller's promise.
        unsafe { _mm512_storeu_pd(sums, _mm512_add_pd(_mm512_loadu_pd(sums), a)) }
    }
}
