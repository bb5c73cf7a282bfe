//! Rows packed for the micro-kernels: converted, centred or normalised, and transposed in panels of a few rows.

use super::engine::Packing;
use crate::Matrix;
use crate::error::{Error, Result};
use crate::simd::Real;

/// Rows that the centre is taken from: it is a shift, for accuracy, and any point amid the data serves.
const CENTRE_ROWS: usize = 4096;

/// Columns that are transposed at once: with the rows of a panel they stay in the L1 cache.
const COLUMNS: usize = 64;

/// Panels of `width` rows, each with all rows' values of column 0, then of column 1, and so on; missing rows are zero.
#[derive(Debug, Default)]
pub(super) struct Panels<R> {
    values: Vec<R>,
    /// ‖row‖² as packed, a multiple of `width` of them.
    pub squared: Vec<R>,
    /// ‖row‖ as it was before.
    pub norms: Vec<R>,
    width: usize,
    columns: usize,
}

impl<R: Real> Panels<R> {
    /// Packs rows `first` to `first + count` of `rows`; an error if memory is short.
    pub fn pack(rows: Matrix, first: usize, count: usize, width: usize, packing: &Packing) -> Result<Self> {
        let (columns, slots) = (rows.columns(), count.div_ceil(width) * width);
        let mut panels = Self {
            values: zeros(slots.saturating_mul(columns))?,
            squared: zeros(slots)?,
            norms: zeros(slots)?,
            width,
            columns,
        };
        for row in 0..count {
            panels.fill(rows, first + row, row, packing);
        }
        Ok(panels)
    }

    /// The values of panel `index`.
    pub fn panel(&self, index: usize) -> &[R] {
        &self.values[index * self.width * self.columns..(index + 1) * self.width * self.columns]
    }

    fn fill(&mut self, rows: Matrix, from: usize, row: usize, packing: &Packing) {
        let panel = row / self.width * self.width * self.columns + row % self.width;
        let (mut norm, mut squared) = (0.0_f64, 0.0_f64);
        let mut buffer = [R::default(); COLUMNS];
        let mut factor = 1.0;
        if let Packing::Unit = packing {
            for column in (0..self.columns).step_by(COLUMNS) {
                let part = &mut buffer[..COLUMNS.min(self.columns - column)];
                rows.read(from, column, part);
                norm += part.iter().map(|value| value.to_f64().powi(2)).sum::<f64>();
            }
            factor = if norm == 0.0 { 0.0 } else { 1.0 / norm.sqrt() };
            norm = 0.0;
        }
        for column in (0..self.columns).step_by(COLUMNS) {
            let part = &mut buffer[..COLUMNS.min(self.columns - column)];
            rows.read(from, column, part);
            for (offset, value) in part.iter_mut().enumerate() {
                let plain = value.to_f64();
                norm += plain * plain;
                let moved = match packing {
                    Packing::Plain => plain,
                    Packing::Unit => plain * factor,
                    Packing::Centred(centre) => plain - centre[column + offset],
                };
                let packed = R::from_f64(if plain.is_finite() { moved } else { f64::NAN });
                squared += packed.to_f64() * packed.to_f64();
                self.values[panel + (column + offset) * self.width] = packed;
            }
        }
        self.squared[row] = R::from_f64(squared);
        self.norms[row] = R::from_f64(norm.sqrt());
    }
}

/// The mean of evenly spaced rows, in the columns where it is finite and more than twice the standard deviation.
///
/// Elsewhere 0: moving by a small mean would only round the differences of near points.
pub(super) fn centre(rows: Matrix) -> Vec<f64> {
    let count = rows.rows().min(CENTRE_ROWS);
    let (mut sums, mut squares) = (vec![0.0; rows.columns()], vec![0.0; rows.columns()]);
    let (mut row, mut first) = (vec![0.0_f64; rows.columns()], vec![0.0_f64; rows.columns()]);
    for index in 0..count {
        // In 128 bits: 4096 times the number of rows may not fit into 64.
        rows.read((index as u128 * rows.rows() as u128 / count as u128) as usize, 0, &mut row);
        if index == 0 {
            first.copy_from_slice(&row);
        }
        for (((sum, square), value), first) in sums.iter_mut().zip(&mut squares).zip(&row).zip(&first) {
            *sum += value - first;
            *square += (value - first) * (value - first);
        }
    }
    let count = count.max(1) as f64;
    let column = |((sum, square), first): ((f64, f64), f64)| {
        let (mean, variance) = (first + sum / count, square / count - (sum / count) * (sum / count));
        // As float32 where the values are, so that moving those near to it is exact.
        let mean = if rows.is_float64() { mean } else { f64::from(mean as f32) };
        if mean.is_finite() && mean * mean > 4.0 * variance { mean } else { 0.0 }
    };
    sums.into_iter().zip(squares).zip(first).map(column).collect()
}

/// That many zeros; an error if memory is short.
pub(super) fn zeros<R: Copy + Default>(count: usize) -> Result<Vec<R>> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| Error::Memory(count))?;
    values.resize(count, R::default());
    Ok(values)
}
