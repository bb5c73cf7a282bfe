//! k(X, Y)·W and D(X, Y)·W: the operands of the micro-kernel are the values of a few rows of y and their weights.

use super::engine;
use super::function::Want;
use super::sink::{GROUP, Pairs, Place, Reduction, Sink, Tile, Tiles};
use crate::error::{Error, Result};
use crate::memory::zeros;
use crate::simd::{Level, Real, Simd, Vectorized};
use crate::tasks::Check;
use crate::tiles::{Dot, VECTORS, accumulate};

/// Returns Σ_j k(x_i, y_j) w_jc, or Σ_j D(x_i, y_j) w_jc where squared distances are wanted.
///
/// The weights stand row by row, `columns` in each row.
pub(super) fn weighted(
    pairs: Pairs,
    weights: &[f64],
    columns: usize,
    threads: Option<usize>,
    check: Check,
) -> Result<Vec<f64>> {
    // The whole matrix even if it is symmetric: a mirrored tile would need the weights of the rows of x too.
    let y = pairs.y.unwrap_or(pairs.x);
    if y.rows().checked_mul(columns) != Some(weights.len()) {
        return Err(Error::Shape { rows: y.rows(), columns, len: weights.len() });
    }
    let pairs = Pairs { y: Some(y), ..pairs };
    if pairs.x.is_float64() || y.is_float64() {
        weighted_in::<f64>(pairs, weights, columns, threads, check)
    } else {
        weighted_in::<f32>(pairs, weights, columns, threads, check)
    }
}

fn weighted_in<R: Real>(
    pairs: Pairs,
    weights: &[f64],
    columns: usize,
    threads: Option<usize>,
    check: Check,
) -> Result<Vec<f64>> {
    let root = pairs.want == Want::SquaredDistance;
    let weights = R::run(Level::detect(), Pack { weights, rows: pairs.y.map_or(0, |y| y.rows()), columns, root })?;
    let mut sums = zeros(pairs.x.rows().saturating_mul(columns))?;
    engine::run(pairs, &weights, threads, check, |place, part: Vec<f64>| {
        let height = part.len() / weights.columns.max(1);
        for (row, sums) in sums.chunks_exact_mut(columns.max(1)).skip(place.x_first).take(place.x_rows).enumerate() {
            sums.iter_mut().enumerate().for_each(|(column, sum)| *sum += part[column * height + row]);
        }
    })?;
    Ok(sums)
}

/// Weights in the order that the micro-kernel reads: panels of Y columns, each with all rows one after another.
struct Weights<R> {
    values: Vec<R>,
    rows: usize,
    /// A multiple of Y.
    columns: usize,
    /// Whether the square roots of the values are weighted.
    root: bool,
}

/// Packs weights at the level's width.
struct Pack<'a> {
    weights: &'a [f64],
    rows: usize,
    columns: usize,
    root: bool,
}

impl<R: Real> Vectorized<R> for Pack<'_> {
    type Output = Result<Weights<R>>;

    #[inline(always)]
    fn run<S: Simd<Real = R>, const Y: usize>(self, _: S) -> Self::Output {
        let (rows, columns) = (self.rows, self.columns.div_ceil(Y) * Y);
        let mut values = zeros(rows.saturating_mul(columns))?;
        for (row, weights) in self.weights.chunks_exact(self.columns.max(1)).enumerate() {
            for (column, weight) in weights.iter().enumerate() {
                values[column / Y * Y * rows + row * Y + column % Y] = R::from_f64(*weight);
            }
        }
        Ok(Weights { values, rows, columns, root: self.root })
    }
}

impl<R: Real> Reduction<R> for Weights<R> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn task<S: Simd<Real = R>, const Y: usize>(&self, _: S, place: Place, tiles: impl Tiles<S>) -> Vec<f64> {
        let width = VECTORS * S::LANES;
        let height = place.x_rows.div_ceil(width) * width;
        let mut sink = WeightedSink {
            weights: self,
            height,
            sums: vec![0.0; height * self.columns],
            tile: vec![R::default(); Y * width],
            roots: vec![R::default(); if self.root { GROUP * Y * width } else { 0 }],
        };
        tiles.reduce(&mut sink);
        sink.sums
    }
}

struct WeightedSink<'a, R> {
    weights: &'a Weights<R>,
    /// Rows of x, padded to whole panels.
    height: usize,
    /// Column by column.
    sums: Vec<f64>,
    tile: Vec<R>,
    /// Square roots of a tile's values, if those are weighted.
    roots: Vec<R>,
}

impl<S: Simd> Sink<S> for WeightedSink<'_, S::Real> {
    #[inline(always)]
    fn take<const Y: usize>(&mut self, simd: S, tile: Tile<'_, S::Real>) {
        let rows = self.weights.rows;
        assert!(tile.values.len() >= tile.y_rows * tile.width && tile.y_first + tile.y_rows <= rows);
        assert!(self.tile.len() == Y * tile.width && tile.x_first + tile.width <= self.height);
        let values = if self.weights.root {
            assert!(self.roots.len() >= tile.y_rows * tile.width);
            for place in (0..tile.y_rows * tile.width).step_by(S::LANES) {
                // SAFETY: both have that many values, whole vectors of them.
                unsafe {
                    let root = simd.sqrt(simd.load(tile.values.as_ptr().add(place)));
                    simd.store(self.roots.as_mut_ptr().add(place), root);
                }
            }
            self.roots.as_ptr()
        } else {
            tile.values.as_ptr()
        };
        for first in (0..self.weights.columns).step_by(Y) {
            let weights = &self.weights.values[first * rows + tile.y_first * Y..][..tile.y_rows * Y];
            // SAFETY: the lengths were checked above; `sums` has `height` values for each of the weights' columns.
            unsafe {
                accumulate::<S, Dot, Y>(simd, tile.y_rows, values, weights.as_ptr(), self.tile.as_mut_ptr(), true);
                for column in 0..Y {
                    let sums =
                        self.sums[(first + column) * self.height..][..self.height].as_mut_ptr().add(tile.x_first);
                    for lane in (0..tile.width).step_by(S::LANES) {
                        simd.add_to(sums.add(lane), simd.load(self.tile.as_ptr().add(column * tile.width + lane)));
                    }
                }
            }
        }
    }
}
