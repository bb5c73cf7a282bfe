//! The operations of AVX-512 and AVX2 that differ in the names of their intrinsics only.

/// The part of an `impl Simd` that is the same for each level and type.
macro_rules! shared {
    ($real:ty, $vector:ty, $lanes:literal, $set1:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident,
     $div:ident, $fma:ident, $max:ident, $min:ident, $sqrt:ident) => {
        type Real = $real;
        type Vector = $vector;
        const LANES: usize = $lanes;

        #[inline(always)]
        fn splat(self, value: $real) -> $vector {
            // SAFETY: this token exists, so the CPU has the features; the same holds below.
            unsafe { $set1(value) }
        }
        #[inline(always)]
        unsafe fn load(self, from: *const $real) -> $vector {
            // SAFETY: the token, and the caller's promise.
            unsafe { $load(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut $real, value: $vector) {
            // SAFETY: the token, and the caller's promise.
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
