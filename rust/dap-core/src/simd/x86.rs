//! What AVX-512 and AVX2 have in common: the entries, and the operations that differ by their names alone.

use std::marker::PhantomData;

use super::Vectorized;
use super::avx2::Avx2;
use super::avx512::Avx512;

macro_rules! entry {
    ($name:ident, $real:ty, $token:ident, $rows:literal, $features:literal) => {
        /// Does the work at this level.
        #[target_feature(enable = $features)]
        pub(super) fn $name<V: Vectorized<$real>>(work: V) -> V::Output {
            work.run::<_, $rows>($token::<$real>(PhantomData))
        }
    };
}

entry!(run_avx512_f32, f32, Avx512, 14, "avx512f");
entry!(run_avx512_f64, f64, Avx512, 14, "avx512f");
entry!(run_avx2_f32, f32, Avx2, 6, "avx2,fma");
entry!(run_avx2_f64, f64, Avx2, 6, "avx2,fma");

// What has the same name at each level and type.
macro_rules! shared {
    ($real:ty, $vector:ty, $lanes:literal, $set1:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident,
     $div:ident, $fma:ident, $max:ident, $min:ident, $sqrt:ident) => {
        type Real = $real;
        type Vector = $vector;
        const LANES: usize = $lanes;

        #[inline(always)]
        fn splat(self, value: $real) -> $vector {
            // SAFETY: the token proves the features; so everywhere below.
            unsafe { $set1(value) }
        }
        #[inline(always)]
        unsafe fn load(self, from: *const $real) -> $vector {
            // SAFETY: and the caller's promise.
            unsafe { $load(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut $real, value: $vector) {
            // SAFETY: and the caller's promise.
            unsafe { $store(to, value) }
        }
        #[inline(always)]
        fn add(self, a: $vector, b: $vector) -> $vector {
            // SAFETY: the token.
            unsafe { $add(a, b) }
        }
        #[inline(always)]
        fn sub(self, a: $vector, b: $vector) -> $vector {
            // SAFETY: the token.
            unsafe { $sub(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: $vector, b: $vector) -> $vector {
            // SAFETY: the token.
            unsafe { $mul(a, b) }
        }
        #[inline(always)]
        fn div(self, a: $vector, b: $vector) -> $vector {
            // SAFETY: the token.
            unsafe { $div(a, b) }
        }
        #[inline(always)]
        fn mul_add(self, a: $vector, b: $vector, c: $vector) -> $vector {
            // SAFETY: the token.
            unsafe { $fma(a, b, c) }
        }
        #[inline(always)]
        fn max(self, a: $vector, b: $vector) -> $vector {
            // SAFETY: the token.
            unsafe { $max(a, b) }
        }
        #[inline(always)]
        fn min(self, a: $vector, b: $vector) -> $vector {
            // SAFETY: the token.
            unsafe { $min(a, b) }
        }
        #[inline(always)]
        fn sqrt(self, a: $vector) -> $vector {
            // SAFETY: the token.
            unsafe { $sqrt(a) }
        }
    };
}

pub(super) use shared;
