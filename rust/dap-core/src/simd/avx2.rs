//! AVX2 and FMA.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::Simd;
use super::operations::shared;

/// AVX2 and FMA vectors; made only by the functions of [`super::x86`], whose callers have detected the features.
#[derive(Clone, Copy)]
pub(super) struct Avx2<R>(pub(super) PhantomData<R>);

impl Simd for Avx2<f32> {
    shared!(
        f32,
        __m256,
        8,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_div_ps,
        _mm256_fmadd_ps,
        _mm256_max_ps,
        _mm256_min_ps,
        _mm256_sqrt_ps
    );

    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        // SAFETY: the token; the same holds below.
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn where_less(self, a: __m256, b: __m256, then: __m256, otherwise: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe { _mm256_blendv_ps(otherwise, then, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
    }
    #[inline(always)]
    fn all_at_least(self, a: __m256, b: __m256) -> bool {
        // SAFETY: the token.
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a, b)) == 0xff }
    }
    #[inline(always)]
    fn scale(self, a: __m256, n: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe {
            let bits = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
            _mm256_mul_ps(a, _mm256_castsi256_ps(bits))
        }
    }
    #[inline(always)]
    fn exponent(self, a: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe {
            let biased = _mm256_srli_epi32::<23>(_mm256_castps_si256(a));
            _mm256_cvtepi32_ps(_mm256_sub_epi32(biased, _mm256_set1_epi32(127)))
        }
    }
    #[inline(always)]
    fn mantissa(self, a: __m256) -> __m256 {
        // SAFETY: the token.
        unsafe {
            let bits = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x007f_ffff));
            _mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_set1_epi32(0x3f80_0000)))
        }
    }
    #[inline(always)]
    unsafe fn add_to(self, sums: *mut f64, a: __m256) {
        // SAFETY: the token, and the caller's promise.
        unsafe {
            let low = _mm256_cvtps_pd(_mm256_castps256_ps128(a));
            let high = _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(a));
            _mm256_storeu_pd(sums, _mm256_add_pd(_mm256_loadu_pd(sums), low));
            _mm256_storeu_pd(sums.add(4), _mm256_add_pd(_mm256_loadu_pd(sums.add(4)), high));
        }
    }
}

impl Simd for Avx2<f64> {
    shared!(
        f64,
        __m256d,
        4,
        _mm256_set1_pd,
        _mm256_loadu_pd,
        _mm256_storeu_pd,
        _mm256_add_pd,
        _mm256_sub_pd,
        _mm256_mul_pd,
        _mm256_div_pd,
        _mm256_fmadd_pd,
        _mm256_max_pd,
        _mm256_min_pd,
        _mm256_sqrt_pd
    );

    #[inline(always)]
    fn abs(self, a: __m256d) -> __m256d {
        // SAFETY: the token; the same holds below.
        unsafe { _mm256_andnot_pd(_mm256_set1_pd(-0.0), a) }
    }
    #[inline(always)]
    fn round(self, a: __m256d) -> __m256d {
        // SAFETY: the token.
        unsafe { _mm256_round_pd::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn where_less(self, a: __m256d, b: __m256d, then: __m256d, otherwise: __m256d) -> __m256d {
        // SAFETY: the token.
        unsafe { _mm256_blendv_pd(otherwise, then, _mm256_cmp_pd::<_CMP_LT_OQ>(a, b)) }
    }
    #[inline(always)]
    fn all_at_least(self, a: __m256d, b: __m256d) -> bool {
        // SAFETY: the token.
        unsafe { _mm256_movemask_pd(_mm256_cmp_pd::<_CMP_GE_OQ>(a, b)) == 0xf }
    }
    #[inline(always)]
    fn scale(self, a: __m256d, n: __m256d) -> __m256d {
        // SAFETY: the token.
        unsafe {
            let n = _mm256_cvtepi32_epi64(_mm256_cvtpd_epi32(n));
            let bits = _mm256_slli_epi64::<52>(_mm256_add_epi64(n, _mm256_set1_epi64x(1023)));
            _mm256_mul_pd(a, _mm256_castsi256_pd(bits))
        }
    }
    #[inline(always)]
    fn exponent(self, a: __m256d) -> __m256d {
        // SAFETY: the token.
        unsafe {
            // AVX2 cannot convert 64-bit integers: put the exponent in the low bits of 2^52, then subtract 2^52.
            let biased = _mm256_srli_epi64::<52>(_mm256_castpd_si256(a));
            let magic = _mm256_set1_pd(4_503_599_627_370_496.0);
            let number = _mm256_castsi256_pd(_mm256_or_si256(biased, _mm256_castpd_si256(magic)));
            _mm256_sub_pd(number, _mm256_set1_pd(4_503_599_627_370_496.0 + 1023.0))
        }
    }
    #[inline(always)]
    fn mantissa(self, a: __m256d) -> __m256d {
        // SAFETY: the token.
        unsafe {
            let bits = _mm256_and_si256(_mm256_castpd_si256(a), _mm256_set1_epi64x(0x000f_ffff_ffff_ffff));
            _mm256_castsi256_pd(_mm256_or_si256(bits, _mm256_set1_epi64x(0x3ff0_0000_0000_0000)))
        }
    }
    #[inline(always)]
    unsafe fn add_to(self, sums: *mut f64, a: __m256d) {
        // SAFETY: the token, and the caller's promise.
        unsafe { _mm256_storeu_pd(sums, _mm256_add_pd(_mm256_loadu_pd(sums), a)) }
    }
}
