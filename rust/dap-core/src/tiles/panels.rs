//! Rows packed for the micro-kernel: converted, centred or normalised, and transposed in panels of a few rows.

use std::ops::Range;

use super::microkernel::VECTORS;
use crate::error::Result;
use crate::memory::zeros;
use crate::simd::{Level, MAX_LANES, Real, Simd, Vectorized};
use crate::tasks::Check;
use crate::{Matrix, tasks};

/// Rows that the centre is estimated from. It only needs to be near the data: subtracting it reduces rounding errors.
const CENTRE_ROWS: usize = 4096;

/// Columns that are transposed at once: with the rows of a panel they stay in the L1 cache.
const COLUMNS: usize = 64;

/// Lanes of the sums of squares.
const LANES: usize = 8;

/// The most rows of a panel at any level.
const MAX_WIDTH: usize = VECTORS * MAX_LANES;

/// How rows are changed when they are packed.
pub(crate) enum Packing {
    /// Not at all.
    Plain,
    /// Divided by their norms; rows of zeros stay zero.
    Unit,
    /// This centre is subtracted.
    Centred(Vec<f64>),
}

/// Panels of `width` rows, each with all rows' values of column 0, then of column 1, and so on; missing rows are zero.
#[derive(Debug, Default)]
pub(crate) struct Panels<R> {
    values: Vec<R>,
    /// ‖row‖² as packed, a multiple of `width` of them.
    pub squared: Vec<R>,
    /// ‖row‖ before packing.
    pub norms: Vec<R>,
    width: usize,
    columns: usize,
}

impl<R: Real> Panels<R> {
    /// Packs rows `first` to `first + count` of `rows`; an error if memory is short.
    #[inline(always)]
    fn pack(rows: Matrix, first: usize, count: usize, width: usize, packing: &Packing) -> Result<Self> {
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
            let width = COLUMNS.min(self.columns - column);
            let (part, moved) = (&mut buffer[..width], &mut moved[..width]);
            let centre =
                if let Packing::Centred(centre) = packing { &centre[column..][..width] } else { &[0.0; COLUMNS] };
            for (row, [before, packed]) in sums.iter_mut().enumerate().take(count) {
                rows.read(from + row, column, part);
                add_squares(part, before);
                // Without a branch, so that the compiler vectorises it.
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

/// The operand of the micro-kernel that rows are packed for.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    X,
    Y,
}

/// Packs the rows in `range`, `block` rows at a time and in parallel; the last block may have fewer.
pub(crate) fn pack_blocks<R: Real>(
    rows: Matrix,
    range: Range<usize>,
    block: usize,
    side: Side,
    packing: &Packing,
    threads: Option<usize>,
    check: Check,
) -> Result<Vec<Panels<R>>> {
    let level = Level::detect();
    let pack = |index: usize| {
        let first = range.start + index * block;
        R::run(level, Pack { rows, first, count: block.min(range.end - first), side, packing })
    };
    let mut blocks = Vec::new();
    tasks::try_run(range.len().div_ceil(block), threads, check, pack, |_, panels| blocks.push(panels))?;
    Ok(blocks)
}

/// [`Panels::pack`] at the level's width.
struct Pack<'a> {
    rows: Matrix<'a>,
    first: usize,
    count: usize,
    side: Side,
    packing: &'a Packing,
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

/// Adds the square of each value to the sum of its lane; independent sums let the CPU add them in parallel.
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

/// Returns the mean of evenly spaced rows, with 0 in columns where it is not finite or at most twice the standard
/// deviation: subtracting a small mean would only round the differences of near points.
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
        // Rounded to float32 unless the values are float64, so that subtracting it from values near it is exact.
        let mean = if rows.is_float64() { mean } else { f64::from(mean as f32) };
        if mean.is_finite() && mean * mean > 4.0 * variance { mean } else { 0.0 }
    };
    sums.into_iter().zip(squares).zip(first).map(column).collect()
}
