//! Vectors as arrays, which LLVM compiles to the baseline's instructions; multiply and add are not fused.

use std::marker::PhantomData;

use super::{Real, Simd};

/// `L` lanes of f32 or f64.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Portable<R, const L: usize>(PhantomData<R>);

macro_rules! portable {
    ($real:ty, $bits:ty, $mantissa_bits:literal, $bias:literal) => {
        impl<const L: usize> Simd for Portable<$real, L> {
            type Real = $real;
            type Vector = [$real; L];
            const LANES: usize = L;

            #[inline(always)]
            fn splat(self, value: $real) -> [$real; L] {
                [value; L]
            }
            #[inline(always)]
            unsafe fn load(self, from: *const $real) -> [$real; L] {
                // SAFETY: by the caller's promise; arrays have the alignment of their elements.
                unsafe { *from.cast::<[$real; L]>() }
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $real, value: [$real; L]) {
                // SAFETY: by the caller's promise.
                unsafe { *to.cast::<[$real; L]>() = value }
            }
            #[inline(always)]
            fn add(self, a: [$real; L], b: [$real; L]) -> [$real; L] {
                std::array::from_fn(|i| a[i] + b[i])
            }
            #[inline(always)]
            fn sub(self, a: [$real; L], b: [$real; L]) -> [$real; L] {
                std::array::from_fn(|i| a[i] - b[i])
            }
            #[inline(always)]
            fn mul(self, a: [$real; L], b: [$real; L]) -> [$real; L] {
                std::array::from_fn(|i| a[i] * b[i])
            }
            #[inline(always)]
            fn div(self, a: [$real; L], b: [$real; L]) -> [$real; L] {
                std::array::from_fn(|i| a[i] / b[i])
            }
            #[inline(always)]
            fn mul_add(self, a: [$real; L], b: [$real; L], c: [$real; L]) -> [$real; L] {
                std::array::from_fn(|i| a[i] * b[i] + c[i])
            }
            #[inline(always)]
            fn max(self, a: [$real; L], b: [$real; L]) -> [$real; L] {
                std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
            }
            #[inline(always)]
            fn min(self, a: [$real; L], b: [$real; L]) -> [$real; L] {
                std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
            }
            #[inline(always)]
            fn abs(self, a: [$real; L]) -> [$real; L] {
                a.map(<$real>::abs)
            }
            #[inline(always)]
            fn sqrt(self, a: [$real; L]) -> [$real; L] {
                a.map(<$real>::sqrt)
            }
            #[inline(always)]
            fn round(self, a: [$real; L]) -> [$real; L] {
                // Adding 1.5·2^digits leaves no room for a fraction; `round` itself is a slow call in the baseline.
                let magic = 1.5 * (1_u64 << $mantissa_bits) as $real;
                a.map(|a| (a + magic) - magic)
            }
            #[inline(always)]
            fn where_less(self, a: [$real; L], b: [$real; L], then: [$real; L], other: [$real; L]) -> [$real; L] {
                std::array::from_fn(|i| if a[i] < b[i] { then[i] } else { other[i] })
            }
            #[inline(always)]
            fn all_at_least(self, a: [$real; L], b: [$real; L]) -> bool {
                a.iter().zip(&b).all(|(a, b)| a >= b)
            }
            #[inline(always)]
            fn scale(self, a: [$real; L], n: [$real; L]) -> [$real; L] {
                std::array::from_fn(|i| a[i] * <$real>::from_bits(((n[i] as i32 + $bias) as $bits) << $mantissa_bits))
            }
            #[inline(always)]
            fn exponent(self, a: [$real; L]) -> [$real; L] {
                a.map(|a| ((a.to_bits() >> $mantissa_bits) as i32 - $bias) as $real)
            }
            #[inline(always)]
            fn mantissa(self, a: [$real; L]) -> [$real; L] {
                let (mask, one): ($bits, $bits) = ((1 << $mantissa_bits) - 1, $bias << $mantissa_bits);
                a.map(|a| <$real>::from_bits((a.to_bits() & mask) | one))
            }
            #[inline(always)]
            unsafe fn add_to(self, sums: *mut f64, a: [$real; L]) {
                for (lane, value) in a.into_iter().enumerate() {
                    // SAFETY: by the caller's promise.
                    unsafe { *sums.add(lane) += value.to_f64() }
                }
            }
        }
    };
}

portable!(f32, u32, 23, 127);
portable!(f64, u64, 52, 1023);
