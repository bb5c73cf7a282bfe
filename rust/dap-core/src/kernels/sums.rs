//! Sums of k and means of D over the rows of y, and the sums of k² that the variance of MMD² needs.

use super::engine;
use super::function::Want;
use super::kernel::{Form, Kernel};
use super::linear::dot_with_sum;
use super::sink::{Pairs, Place, Reduction, Sink, Tile, Tiles};
use super::weighted::weighted;
use crate::Matrix;
use crate::error::{Error, Result};
use crate::memory::zeros;
use crate::simd::{MAX_LANES, Real, Simd};
use crate::tasks::Check;
use crate::tiles::VECTORS;

/// The number of values that are added in their own precision before their sum is added in float64.
const RUN: usize = 4;

/// Returns (1/m) Σ_j D(x_i, y_j) for each row i of x, with D the distance of the sum of `kernels`; y is x where None.
/// With `weights`, one for each row of y, Σ_j w_j D(x_i, y_j).
///
/// The result has the same bits whatever `threads` is (`None`: all CPUs).
///
/// # Errors
/// Different columns, a y without rows, another number of weights, a bad number of threads, too little memory, or what
/// `check` returns.
///
/// ```
/// use dap_core::kernels::{Kernel, mean_distance};
/// use dap_core::matrix::{Matrix, Values};
/// let x = Matrix::new(Values::Float32(&[0.0, 0.0]), 1, 2)?;
/// let y = Matrix::new(Values::Float32(&[3.0, 4.0, 0.0, 1.0]), 2, 2)?;
/// assert_eq!(mean_distance(x, Some(y), &[Kernel::new("linear", &[])?], None, None, &mut || Ok(()))?, [3.0]);
/// # Ok::<(), dap_core::Error>(())
/// ```
pub fn mean_distance(
    x: Matrix,
    y: Option<Matrix>,
    kernels: &[Kernel],
    weights: Option<&[f64]>,
    threads: Option<usize>,
    check: Check,
) -> Result<Vec<f64>> {
    let count = y.unwrap_or(x).rows();
    if count == 0 && x.columns() == y.unwrap_or(x).columns() {
        return Err(Error::NoRows);
    }
    let pairs = Pairs { x, y, kernels, want: Want::SquaredDistance };
    if let Some(weights) = weights {
        return weighted(pairs, weights, 1, threads, check);
    }
    let mut means = sums(pairs, threads, check)?.rows;
    means.iter_mut().for_each(|sum| *sum /= count as f64);
    Ok(means)
}

/// Returns Σ_j k(x_i, y_j) for each row i of x; or, with `weights` (m rows of C values), Σ_j k(x_i, y_j) w_jc, row by row.
///
/// # Errors
/// Different columns, weights of another length than m × C, a bad number of threads, too little memory, or what `check`
/// returns.
///
/// ```
/// use dap_core::kernels::{Kernel, row_sums};
/// use dap_core::matrix::{Matrix, Values};
/// let x = Matrix::new(Values::Float32(&[1.0, 2.0]), 1, 2)?;
/// let y = Matrix::new(Values::Float32(&[3.0, 4.0, 0.0, 1.0]), 2, 2)?;
/// assert_eq!(row_sums(x, Some(y), &[Kernel::new("linear", &[])?], None, None, &mut || Ok(()))?, [13.0]);
/// # Ok::<(), dap_core::Error>(())
/// ```
pub fn row_sums(
    x: Matrix,
    y: Option<Matrix>,
    kernels: &[Kernel],
    weights: Option<(&[f64], usize)>,
    threads: Option<usize>,
    check: Check,
) -> Result<Vec<f64>> {
    let pairs = Pairs { x, y, kernels, want: Want::Value };
    match weights {
        Some((weights, columns)) => weighted(pairs, weights, columns, threads, check),
        None if matches!(kernels, [Kernel(Form::Linear)]) => dot_with_sum(x, y.unwrap_or(x), threads, check),
        None => Ok(sums(pairs, threads, check)?.rows),
    }
}

/// Sums of k over rows, over columns, and of k².
#[derive(Clone, Debug, PartialEq)]
pub struct PairSums {
    /// Σ_j k(x_i, y_j) for each row i of x.
    pub rows: Vec<f64>,
    /// Σ_i k(x_i, y_j) for each row j of y.
    pub columns: Vec<f64>,
    /// Σ_ij k(x_i, y_j)².
    pub squares: f64,
}

/// Returns the sums from which MMD² and its variance are estimated, in one pass; y is x where None.
///
/// # Errors
/// Those of [`row_sums`].
pub fn pair_sums(
    x: Matrix,
    y: Option<Matrix>,
    kernels: &[Kernel],
    threads: Option<usize>,
    check: Check,
) -> Result<PairSums> {
    let pairs = Pairs { x, y, kernels, want: Want::Value };
    let mut sums =
        run(pairs, Sums { symmetric: y.is_none(), columns: true, squares: true, root: false }, threads, check)?;
    if y.is_none() {
        sums.columns.clone_from(&sums.rows);
    }
    Ok(sums)
}

fn sums(pairs: Pairs, threads: Option<usize>, check: Check) -> Result<PairSums> {
    let root = pairs.want == Want::SquaredDistance;
    let symmetric = pairs.y.is_none();
    run(pairs, Sums { symmetric, columns: symmetric, squares: false, root }, threads, check)
}

fn run(pairs: Pairs, wanted: Sums, threads: Option<usize>, check: Check) -> Result<PairSums> {
    let y = pairs.y.unwrap_or(pairs.x);
    let mut total = PairSums {
        rows: zeros(pairs.x.rows())?,
        columns: zeros(if wanted.columns { y.rows() } else { 0 })?,
        squares: 0.0,
    };
    let fold = |place: Place, part: PairSums| {
        add(&mut total.rows[place.x_first..], &part.rows[..place.x_rows]);
        if !part.columns.is_empty() {
            // In a symmetric Gram matrix these are the sums of the mirrored half: they belong to the rows.
            let columns = if pairs.y.is_none() { &mut total.rows } else { &mut total.columns };
            add(&mut columns[place.y_first..], &part.columns);
        }
        total.squares += part.squares;
    };
    if pairs.x.is_float64() || y.is_float64() {
        engine::run::<f64, _>(pairs, &wanted, threads, check, fold)?;
    } else {
        engine::run::<f32, _>(pairs, &wanted, threads, check, fold)?;
    }
    Ok(total)
}

fn add(sums: &mut [f64], parts: &[f64]) {
    sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
}

/// The sums that are wanted; with `root`, those of the square roots of the values.
struct Sums {
    symmetric: bool,
    columns: bool,
    squares: bool,
    root: bool,
}

impl<R: Real> Reduction<R> for Sums {
    type Output = PairSums;

    #[inline(always)]
    fn task<S: Simd<Real = R>, const Y: usize>(&self, _: S, place: Place, tiles: impl Tiles<S>) -> PairSums {
        let width = VECTORS * S::LANES;
        let rows = vec![0.0; place.x_rows.div_ceil(width) * width];
        let columns = vec![0.0; if self.columns { place.y_rows } else { 0 }];
        let sums = PairSums { rows, columns, squares: 0.0 };
        let mut sink = SumsSink { wanted: self, y_first: place.y_first, sums };
        tiles.reduce(&mut sink);
        sink.sums
    }
}

struct SumsSink<'a> {
    wanted: &'a Sums,
    y_first: usize,
    sums: PairSums,
}

impl<S: Simd> Sink<S> for SumsSink<'_> {
    #[inline(always)]
    fn take<const Y: usize>(&mut self, simd: S, tile: Tile<'_, S::Real>) {
        let zero = simd.splat(S::Real::default());
        assert!(tile.values.len() >= tile.y_rows * tile.width && self.sums.rows.len() >= tile.x_first + tile.width);
        let root = self.wanted.root;
        for vector in 0..VECTORS {
            let mut row = 0;
            while row < tile.y_rows {
                let end = (row + RUN).min(tile.y_rows);
                let mut sum = zero;
                for row in row..end {
                    // SAFETY: the lengths were checked above.
                    sum = simd.add(sum, unsafe { value(simd, &tile, row, vector, root) });
                }
                // SAFETY: checked above.
                unsafe { simd.add_to(self.sums.rows.as_mut_ptr().add(tile.x_first + vector * S::LANES), sum) };
                row = end;
            }
        }
        if !(tile.mirrored || self.wanted.columns && !self.wanted.symmetric || self.wanted.squares) {
            return;
        }
        let (lanes, sums) = (lane_numbers(simd), &mut self.sums);
        let twice = if tile.mirrored { 2.0 } else { 1.0 };
        for row in 0..tile.y_rows {
            let (mut column, mut squares) = (zero, zero);
            for (vector, lanes) in lanes.into_iter().enumerate() {
                let exists = simd.splat(S::Real::from_f64(tile.x_rows as f64 - (vector * S::LANES) as f64));
                // SAFETY: the lengths were checked above.
                let value = unsafe { value(simd, &tile, row, vector, root) };
                let value = simd.where_less(lanes, exists, value, zero);
                column = simd.add(column, value);
                squares = simd.mul_add(value, value, squares);
            }
            if let Some(sum) = sums.columns.get_mut(tile.y_first - self.y_first + row)
                && (tile.mirrored || !self.wanted.symmetric)
            {
                *sum += simd.total(column);
            }
            if self.wanted.squares {
                sums.squares += twice * simd.total(squares);
            }
        }
    }
}

/// Loads a vector of a tile's values, or of their square roots.
///
/// # Safety
/// The tile has `y_rows` × `width` values, `row` is below `y_rows` and `vector` below [`VECTORS`].
#[inline(always)]
unsafe fn value<S: Simd>(simd: S, tile: &Tile<'_, S::Real>, row: usize, vector: usize, root: bool) -> S::Vector {
    // SAFETY: by the caller's promise.
    let value = unsafe { simd.load(tile.values.as_ptr().add(row * tile.width + vector * S::LANES)) };
    if root { simd.sqrt(value) } else { value }
}

/// 0, 1, 2, … in the lanes of a vector, once for each vector of a panel.
#[inline(always)]
fn lane_numbers<S: Simd>(simd: S) -> [S::Vector; VECTORS] {
    let mut numbers = [S::Real::default(); MAX_LANES];
    numbers.iter_mut().enumerate().for_each(|(lane, number)| *number = S::Real::from_f64(lane as f64));
    // SAFETY: no level has more lanes.
    [unsafe { simd.load(numbers.as_ptr()) }; VECTORS]
}
