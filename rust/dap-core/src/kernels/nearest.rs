//! The nearest rows of y, by distance or by kernel.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::function::Want;
use super::kernel::{Form, Kernel};
use super::sink::{Pairs, Place, Reduction, Sink, Tile, Tiles};
use super::{engine, streaming};
use crate::Matrix;
use crate::error::{Error, Result};
use crate::simd::{Real, Simd};
use crate::tasks::Check;
use crate::tiles::VECTORS;

/// Returns for each row of x the `count` rows of y with the smallest ‖x − y‖ (`kernels` None) or the largest k(x, y).
///
/// The result is values and row numbers, `count` of each for each row of x, best first; of equal values the lower row
/// number comes first. All values are NaN if that of any pair is, because a row holds NaN or infinity or a distance
/// overflows: looking for such rows beforehand would take longer than the search of a few rows.
///
/// # Errors
/// Different columns, more neighbours than y has rows, a bad number of threads, too little memory, or what `check` returns.
///
/// ```
/// use dap_core::kernels::nearest;
/// use dap_core::matrix::{Matrix, Values};
/// let x = Matrix::new(Values::Float32(&[0.0]), 1, 1)?;
/// let y = Matrix::new(Values::Float32(&[5.0, -2.0, 3.0]), 3, 1)?;
/// assert_eq!(nearest(x, Some(y), None, 2, None, &mut || Ok(()))?, (vec![2.0, 3.0], vec![1, 2]));
/// # Ok::<(), dap_core::Error>(())
/// ```
pub fn nearest(
    x: Matrix,
    y: Option<Matrix>,
    kernels: Option<&[Kernel]>,
    count: usize,
    threads: Option<usize>,
    check: Check,
) -> Result<(Vec<f64>, Vec<i64>)> {
    let other = y.unwrap_or(x);
    if count > other.rows() {
        return Err(Error::Neighbours { count, rows: other.rows() });
    }
    let linear = [Kernel(Form::Linear)];
    let (kernels, want) = kernels.map_or((&linear[..], Want::SquaredDistance), |kernels| (kernels, Want::Value));
    // The whole matrix even if it is symmetric: a row needs its neighbours on both sides of the diagonal.
    let pairs = Pairs { x, y: Some(other), kernels, want };
    let bounds = (0..x.rows()).map(|_| AtomicU64::new(f64::INFINITY.to_bits())).collect();
    let search = Search { count, largest: want == Want::Value, bounds, has_nan: AtomicBool::new(false) };
    let mut best: Vec<Vec<(f64, usize)>> = vec![Vec::new(); x.rows()];
    if count > 0 && x.rows() <= streaming::FEW_ROWS {
        let rows: Vec<usize> = (0..x.rows()).collect();
        let reduce = |first: usize, values: Vec<f64>| search.best_of_each(x.rows(), first, &values);
        streaming::run(pairs, &rows, threads, check, reduce, |_, part| merge(&mut best, count, part))?;
        return Ok(search.flatten(&best));
    }
    let fold = |place: Place, part: Vec<Vec<(f64, usize)>>| {
        merge(&mut best[place.x_first..], count, part);
        for (best, bound) in best.iter().zip(&search.bounds).skip(place.x_first).take(place.x_rows) {
            if let Some((key, _)) = best.last().filter(|(key, _)| best.len() == count && *key < f64::INFINITY) {
                bound.store(key.to_bits(), Ordering::Relaxed);
            }
        }
    };
    if x.is_float64() || other.is_float64() {
        engine::run::<f64, _>(pairs, &search, threads, check, fold)?;
    } else {
        engine::run::<f32, _>(pairs, &search, threads, check, fold)?;
    }
    Ok(search.flatten(&best))
}

/// Merges the candidates of one task into the best of each row of x.
fn merge(best: &mut [Vec<(f64, usize)>], count: usize, part: Vec<Vec<(f64, usize)>>) {
    for (best, part) in best.iter_mut().zip(part) {
        part.into_iter().for_each(|candidate| insert(best, count, candidate));
    }
}

/// Inserts a candidate in the order of its key, after those with the same key, which have lower row numbers.
fn insert(best: &mut Vec<(f64, usize)>, count: usize, candidate: (f64, usize)) {
    let place = best.partition_point(|(key, _)| *key <= candidate.0);
    if place < count {
        best.truncate(count - 1);
        best.insert(place, candidate);
    }
}

struct Search {
    count: usize,
    largest: bool,
    /// For each row of x the bits of the largest key among the best so far. Later tasks skip keys that are not below it:
    /// their row numbers are higher too, so this saves work without changing the result.
    bounds: Vec<AtomicU64>,
    /// Whether the value of a pair is NaN.
    has_nan: AtomicBool,
}

impl Search {
    /// The best of `values`: those of the rows of y from `first` on, for one row of x after another.
    fn best_of_each(&self, x_rows: usize, first: usize, values: &[f64]) -> Vec<Vec<(f64, usize)>> {
        let best_of = |values: &[f64]| {
            let (mut best, mut worst) = (Vec::new(), f64::INFINITY);
            for (row, value) in values.iter().enumerate() {
                let key = if self.largest { -value } else { *value };
                if key.is_nan() {
                    self.has_nan.store(true, Ordering::Relaxed);
                } else if key < worst || best.len() < self.count {
                    insert(&mut best, self.count, (key, first + row));
                    if best.len() == self.count {
                        worst = best.last().map_or(worst, |(key, _)| *key);
                    }
                }
            }
            best
        };
        values.chunks_exact((values.len() / x_rows).max(1)).map(best_of).collect()
    }

    /// Values and row numbers, one row of x after another.
    fn flatten(&self, best: &[Vec<(f64, usize)>]) -> (Vec<f64>, Vec<i64>) {
        // Infinite keys are not kept, so some are missing where distances overflow.
        if self.has_nan.load(Ordering::Relaxed) || best.iter().any(|best| best.len() < self.count) {
            return (vec![f64::NAN; best.len() * self.count], vec![0; best.len() * self.count]);
        }
        let value = |key: f64| if self.largest { -key } else { key.max(0.0).sqrt() };
        let neighbours = || best.iter().flatten();
        let rows = neighbours().map(|(_, row)| *row as i64).collect();
        (neighbours().map(|(key, _)| value(*key)).collect(), rows)
    }
}

impl<R: Real> Reduction<R> for Search {
    type Output = Vec<Vec<(f64, usize)>>;

    #[inline(always)]
    fn task<S: Simd<Real = R>, const Y: usize>(&self, _: S, place: Place, tiles: impl Tiles<S>) -> Self::Output {
        let width = VECTORS * S::LANES;
        let padded = place.x_rows.div_ceil(width) * width;
        // Padding rows accept no key.
        let mut worst = vec![R::from_f64(f64::NEG_INFINITY); padded];
        for (worst, bound) in worst.iter_mut().zip(&self.bounds[place.x_first..][..place.x_rows]) {
            *worst = R::from_f64(f64::from_bits(bound.load(Ordering::Relaxed)));
        }
        let mut sink = SearchSink { search: self, best: vec![Vec::new(); place.x_rows], worst };
        if self.count > 0 {
            tiles.reduce(&mut sink);
        }
        sink.best
    }
}

struct SearchSink<'a, R> {
    search: &'a Search,
    best: Vec<Vec<(f64, usize)>>,
    /// The key that a row must stay below.
    worst: Vec<R>,
}

impl<S: Simd> Sink<S> for SearchSink<'_, S::Real> {
    #[inline(always)]
    fn take<const Y: usize>(&mut self, simd: S, tile: Tile<'_, S::Real>) {
        let Search { count, largest, .. } = *self.search;
        let zero = simd.splat(S::Real::default());
        assert!(tile.values.len() >= tile.y_rows * tile.width && self.worst.len() >= tile.x_first + tile.width);
        for row in 0..tile.y_rows {
            for vector in 0..VECTORS {
                let first = vector * S::LANES;
                // SAFETY: the lengths were checked above.
                let (value, worst) = unsafe {
                    let value = simd.load(tile.values.as_ptr().add(row * tile.width + first));
                    (value, simd.load(self.worst.as_ptr().add(tile.x_first + first)))
                };
                let key = if largest { simd.sub(zero, value) } else { value };
                if simd.all_at_least(key, worst) {
                    continue; // the usual case, once a few near rows are known
                }
                for lane in first..(first + S::LANES).min(tile.x_rows) {
                    let value = tile.values[row * tile.width + lane].to_f64();
                    let key = if largest { -value } else { value };
                    let (x, y) = (tile.x_first + lane, tile.y_first + row);
                    let worst = self.worst[x].to_f64();
                    if key.is_nan() {
                        self.search.has_nan.store(true, Ordering::Relaxed);
                    } else if key < worst || worst == f64::INFINITY && self.best[x].len() < count {
                        insert(&mut self.best[x], count, (key, y));
                        if self.best[x].len() == count && self.best[x][count - 1].0 < worst {
                            self.worst[x] = S::Real::from_f64(self.best[x][count - 1].0);
                        }
                    }
                }
            }
        }
    }
}
