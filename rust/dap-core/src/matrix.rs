//! A borrowed row-major matrix of float32, float64, float16 or bfloat16 values.

use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::simd::{Convert, Simd};

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
    /// Borrows `values` as a matrix; an error unless there are `rows` × `columns` values.
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

    /// Returns whether kernels of these values are computed in float64.
    pub fn is_float64(&self) -> bool {
        matches!(self.values, Values::Float64(_))
    }

    /// Reads `out.len()` values of row `row` from `column` on; panics if there are not that many.
    pub(crate) fn read<R: Convert>(&self, row: usize, column: usize, out: &mut [R]) {
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

    /// Returns row `row`: borrowed if the values are of the type that is computed in, else converted into `buffer`. Panics
    /// if there is no such row.
    #[inline(always)]
    pub(crate) fn row<'b, S: Simd>(&'b self, simd: S, row: usize, buffer: &'b mut [S::Real]) -> &'b [S::Real] {
        let range = row * self.columns..(row + 1) * self.columns;
        let stored = match self.values {
            Values::Float32(values) => S::Real::borrow_float32(values),
            Values::Float64(values) => S::Real::borrow_float64(values),
            Values::Float16(_) | Values::Bfloat16(_) => None,
        };
        if let Some(values) = stored {
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
