//! A borrowed row-major matrix of float32, float64, float16 or bfloat16, read as stored.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::simd::Simd;

/// A row-major matrix of shape (rows, columns); either may be zero.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    values: Values<'a>,
    rows: usize,
    columns: usize,
}

/// The values of a [`Matrix`].
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the types say it")]
pub enum Values<'a> {
    Float32(&'a [f32]),
    Float64(&'a [f64]),
    Float16(&'a [f16]),
    Bfloat16(&'a [bf16]),
}

impl<'a> Matrix<'a> {
    /// Borrows `values` as a matrix; an error if there are not `rows` × `columns` of them.
    ///
    /// ```
    /// use dap_core::matrix::{Matrix, Values};
    /// let matrix = Matrix::new(Values::Float32(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), 2, 3)?;
    /// assert_eq!((matrix.rows(), matrix.columns()), (2, 3));
    /// # Ok::<(), dap_core::Error>(())
    /// ```
    pub fn new(values: Values<'a>, rows: usize, columns: usize) -> Result<Self> {
        let len = match values {
            Values::Float32(values) => values.len(),
            Values::Float64(values) => values.len(),
            Values::Float16(values) => values.len(),
            Values::Bfloat16(values) => values.len(),
        };
        if rows.checked_mul(columns) == Some(len) {
            Ok(Self { values, rows, columns })
        } else {
            Err(Error::Shape { rows, columns, len })
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The values, row by row.
    pub fn values(&self) -> Values<'a> {
        self.values
    }

    /// Whether kernels of these values are computed in float64.
    pub fn is_float64(&self) -> bool {
        matches!(self.values, Values::Float64(_))
    }

    /// Reads `out.len()` values of row `row` from `column` on; panics if there are not that many.
    pub(crate) fn read<R: Read>(&self, row: usize, column: usize, out: &mut [R]) {
        assert!(row < self.rows && column + out.len() <= self.columns, "row {row}, column {column}");
        let first = row * self.columns + column;
        let range = first..first + out.len();
        match self.values {
            Values::Float32(values) => R::from_float32(&values[range], out),
            Values::Float64(values) => R::from_float64(&values[range], out),
            Values::Float16(values) => R::from_half(&values[range], out),
            Values::Bfloat16(values) => R::from_half(&values[range], out),
        }
    }

    /// Row `row` where it lies if it holds what is computed in, else converted into `buffer`; panics if there is none.
    #[inline(always)]
    pub(crate) fn row<'b, S: Simd>(&'b self, simd: S, row: usize, buffer: &'b mut [S::Real]) -> &'b [S::Real] {
        let range = row * self.columns..(row + 1) * self.columns;
        if let Some(values) = S::Real::as_stored(self.values) {
            return &values[range];
        }
        let buffer = &mut buffer[..self.columns];
        match self.values {
            Values::Float16(values) => simd.widen(&values[range], buffer),
            _ => self.read(row, 0, buffer),
        }
        buffer
    }
}

/// What values are converted to: f32 or f64.
#[expect(missing_docs, reason = "the names say it")]
pub trait Read: Sized {
    fn as_stored(values: Values<'_>) -> Option<&[Self]>;
    fn from_float32(from: &[f32], to: &mut [Self]);
    fn from_float64(from: &[f64], to: &mut [Self]);
    fn from_half<H>(from: &[H], to: &mut [Self])
    where
        [H]: HalfFloatSliceExt;
}

impl Read for f32 {
    fn as_stored(values: Values<'_>) -> Option<&[f32]> {
        match values {
            Values::Float32(values) => Some(values),
            _ => None,
        }
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

impl Read for f64 {
    fn as_stored(values: Values<'_>) -> Option<&[f64]> {
        match values {
            Values::Float64(values) => Some(values),
            _ => None,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_length_is_an_error() {
        let values = Values::Float32(&[0.0; 5]);
        assert_eq!(Matrix::new(values, 2, 3).unwrap_err(), Error::Shape { rows: 2, columns: 3, len: 5 });
        assert!(Matrix::new(Values::Float64(&[]), usize::MAX, 2).is_err());
    }

    #[test]
    fn every_type_is_read_as_stored() {
        let (half, brain) = ([1.5, -2.0, 65504.0].map(f16::from_f32), [1.5, -2.0, 1e38].map(bf16::from_f32));
        let largest = brain[2].to_f32();
        for (values, last) in [
            (Values::Float32(&[1.5, -2.0, 9.0]), 9.0),
            (Values::Float64(&[1.5, -2.0, 9.0]), 9.0),
            (Values::Float16(&half), 65504.0),
            (Values::Bfloat16(&brain), largest),
        ] {
            let matrix = Matrix::new(values, 3, 1).unwrap();
            let (mut single, mut double) = ([0.0_f32], [0.0_f64]);
            for (row, want) in [1.5, -2.0, last].into_iter().enumerate() {
                matrix.read(row, 0, &mut single);
                matrix.read(row, 0, &mut double);
                assert_eq!((single[0], double[0]), (want, f64::from(want)), "{values:?}");
            }
        }
    }
}
