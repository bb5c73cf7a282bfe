//! A borrowed row-major float32 matrix.

use crate::error::{Error, Result};

/// A row-major matrix of shape (rows, columns); either may be zero.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
}

impl<'a> Matrix<'a> {
    /// Borrows `data` as a matrix; an error if its length is not `rows` × `columns`.
    ///
    /// ```
    /// let matrix = dap_core::Matrix::new(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3)?;
    /// assert_eq!(matrix.row(1), [4.0, 5.0, 6.0]);
    /// # Ok::<(), dap_core::Error>(())
    /// ```
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Result<Self> {
        if rows.checked_mul(columns) == Some(data.len()) {
            Ok(Self { data, rows, columns })
        } else {
            Err(Error::Shape { rows, columns, len: data.len() })
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

    /// Row `index`; panics if there is none.
    #[inline]
    pub fn row(&self, index: usize) -> &'a [f32] {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        &self.data[index * self.columns..(index + 1) * self.columns]
    }

    /// Rows `first` to `first + count`, cut at the end of the matrix.
    pub(crate) fn block(&self, first: usize, count: usize) -> Self {
        let first = first.min(self.rows);
        let rows = count.min(self.rows - first);
        Self { data: &self.data[first * self.columns..(first + rows) * self.columns], rows, columns: self.columns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_length_is_an_error() {
        assert_eq!(Matrix::new(&[0.0; 5], 2, 3).unwrap_err(), Error::Shape { rows: 2, columns: 3, len: 5 });
        assert!(Matrix::new(&[], usize::MAX, 2).is_err());
    }

    #[test]
    fn blocks_are_cut_at_the_end() {
        let matrix = Matrix::new(&[1.0, 2.0, 3.0], 3, 1).unwrap();
        assert_eq!(matrix.block(1, 9).rows(), 2);
        assert_eq!(matrix.block(1, 9).row(1), [3.0]);
        assert_eq!(matrix.block(7, 1).rows(), 0);
    }
}
