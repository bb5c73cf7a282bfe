//! Conversion of stored values to the type that kernels are computed in.

use half::slice::HalfFloatSliceExt;

/// Conversion of stored values to f32 or f64.
#[expect(missing_docs, reason = "the names say it")]
pub trait Convert: Sized {
    /// The values without a copy if this type is f32.
    fn borrow_float32(values: &[f32]) -> Option<&[Self]>;
    /// The values without a copy if this type is f64.
    fn borrow_float64(values: &[f64]) -> Option<&[Self]>;
    fn from_float32(from: &[f32], to: &mut [Self]);
    fn from_float64(from: &[f64], to: &mut [Self]);
    fn from_half<H>(from: &[H], to: &mut [Self])
    where
        [H]: HalfFloatSliceExt;
}

impl Convert for f32 {
    fn borrow_float32(values: &[f32]) -> Option<&[f32]> {
        Some(values)
    }

    fn borrow_float64(_: &[f64]) -> Option<&[f32]> {
        None
    }

    fn from_float32(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn from_float64(from: &[f64], to: &mut [f32]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from as f32);
    }

    fn from_half<H>(from: &[H], to: &mut [f32])
    where
        [H]: HalfFloatSliceExt,
    {
        from.convert_to_f32_slice(to);
    }
}

impl Convert for f64 {
    fn borrow_float32(_: &[f32]) -> Option<&[f64]> {
        None
    }

    fn borrow_float64(values: &[f64]) -> Option<&[f64]> {
        Some(values)
    }

    fn from_float32(from: &[f32], to: &mut [f64]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = f64::from(*from));
    }

    fn from_float64(from: &[f64], to: &mut [f64]) {
        to.copy_from_slice(from);
    }

    fn from_half<H>(from: &[H], to: &mut [f64])
    where
        [H]: HalfFloatSliceExt,
    {
        from.convert_to_f64_slice(to);
    }
}
