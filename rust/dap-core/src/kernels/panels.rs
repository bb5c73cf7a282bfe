//! Rows packed for the micro-kernels: converted, centred or normalised, and transposed in panels of a few rows.

use super::micro::VECTORS;
use crate::Matrix;
use crate::error::{Error, Result};
use crate::simd::{MAX_LANES, Real, Simd, Vectorized};

/// Rows that the centre is taken from: it is a shift, for accuracy, and any point amid the data serves.
const CENTRE_ROWS: usize = 4096;

/// Columns that are transposed at once: with the rows of a panel they stay in the L1 cache.
const COLUMNS: usize = 64;

/// Lanes of the sums of squares.
const LANES: usize = 8;

/// The most rows of a panel at any level.
const MAX_WIDTH: usize = VECTORS * MAX_LANES;

/// How rows are packed; with the centre where they are moved.
pub(crate) enum Packing {
    Plain,
    Unit,
    Centred(Vec<f64>),
}

/// Panels of `width` rows, each with all rows' values of column 0, then of column 1, and so on; missing rows are zero.
#[derive(Debug, Default)]
pub(crate) struct Panels<R> {
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
    #[inline(always)]
    pub fn pack(rows: Matrix, first: usize, count: usize, width: usize, packing: &Packing) -> Result<Self> {
        let (columns, slots) = (rows.columns(), count.div_ceil(width) * width);
        let mut panels = Self {
            values: zeros(slots.saturating_mul(columns))?,
            squared: zeros(slots)?,
            norms: zeros(slots)?,
            width,
            columns,
        };
        for start in (0..count).step_by(width) {
            panels.fill(rows, first + start, start, width.min(count - start), packing);
        }
        Ok(panels)
    }

    /// The values of panel `index`.
    pub fn panel(&self, index: usize) -> &[R] {
        &self.values[index * self.width * self.columns..(index + 1) * self.width * self.columns]
    }

    /// Fills the panel whose first row is `start` with `count` rows from `from` on, some columns of all rows at a time.
    #[inline(always)]
    fn fill(&mut self, rows: Matrix, from: usize, start: usize, count: usize, packing: &Packing) {
        let panel = &mut self.values[start * self.columns..(start + self.width) * self.columns];
        let (mut buffer, mut moved) = ([R::default(); COLUMNS], [R::default(); COLUMNS]);
        let mut sums = [[[0.0_f64; LANES]; 2]; MAX_WIDTH];
        let mut factors = [1.0; MAX_WIDTH];
        if let Packing::Unit = packing {
            for (row, factor) in factors.iter_mut().enumerate().take(count) {
                let mut norm = [0.0; LANES];
                for column in (0..self.columns).step_by(COLUMNS) {
                    let part = &mut buffer[..COLUMNS.min(self.columns - column)];
                    rows.read(from + row, column, part);
                    add_squares(part, &mut norm);
                }
                let norm = norm.iter().sum::<f64>();
                *factor = if norm == 0.0 { 0.0 } else { 1.0 / norm.sqrt() };
            }
        }
        for column in (0..self.columns).step_by(COLUMNS) {
            let some = COLUMNS.min(self.columns - column);
            let (part, moved) = (&mut buffer[..some], &mut moved[..some]);
            let centre =
                if let Packing::Centred(centre) = packing { &centre[column..][..some] } else { &[0.0; COLUMNS] };
            for (row, [before, packed]) in sums.iter_mut().enumerate().take(count) {
                rows.read(from + row, column, part);
                add_squares(part, before);
                // No branch, so that it goes by whole vectors.
                for ((moved, value), centre) in moved.iter_mut().zip(&*part).zip(centre) {
                    let (value, changed) = (value.to_f64(), (value.to_f64() - centre) * factors[row]);
                    *moved = R::from_f64(if value.is_finite() { changed } else { f64::NAN });
                }
                add_squares(moved, packed);
                for (value, place) in
                    moved.iter().zip(panel[column * self.width + row..].iter_mut().step_by(self.width))
                {
                    *place = *value;
                }
            }
        }
        for (row, [before, packed]) in sums.iter().enumerate().take(count) {
            self.squared[start + row] = R::from_f64(packed.iter().sum());
            self.norms[start + row] = R::from_f64(before.iter().sum::<f64>().sqrt());
        }
    }
}

/// Which operand of the micro-kernel rows are packed for.
#[derive(Clone, Copy)]
pub(super) enum Side {
    X,
    Y,
}

/// [`Panels::pack`] at the level's width.
pub(super) struct Pack<'a> {
    pub rows: Matrix<'a>,
    pub first: usize,
    pub count: usize,
    pub side: Side,
    pub packing: &'a Packing,
}

impl<R: Real> Vectorized<R> for Pack<'_> {
    type Output = Result<Panels<R>>;

    #[inline(always)]
    fn run<S: Simd<Real = R>, const Y: usize>(self, _: S) -> Self::Output {
        let width = match self.side {
            Side::X => VECTORS * S::LANES,
            Side::Y => Y,
        };
        Panels::pack(self.rows, self.first, self.count, width, self.packing)
    }
}

/// Adds the squares of the values to sums of their own for each lane, which a CPU does side by side.
#[inline(always)]
fn add_squares<R: Real>(values: &[R], sums: &mut [f64; LANES]) {
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value.to_f64() * value.to_f64();
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum += value.to_f64() * value.to_f64();
    }
}

/// The mean of evenly spaced rows, in the columns where it is finite and more than twice the standard deviation.
///
/// Elsewhere 0: moving by a small mean would only round the differences of near points.
pub(crate) fn centre(rows: Matrix) -> Vec<f64> {
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
pub(crate) fn zeros<R: Copy + Default>(count: usize) -> Result<Vec<R>> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| Error::Memory(count))?;
    values.resize(count, R::default());
    Ok(values)
}
