//! A few rows of x with all rows of y: memory limits the speed, so y is read once and nothing is packed.

use super::function::{Base, Map, Rows, Sizes, Want};
use super::kernel::{Form, Kernel};
use super::sink::Pairs;
use crate::error::{Error, Result};
use crate::memory::zeros;
use crate::simd::{Level, MAX_LANES, Real, Simd, Vectorized};
use crate::tasks::Check;
use crate::tiles::{Dot, Manhattan, Squared, Step};
use crate::{Matrix, tasks};

/// The most rows of x for which this is faster than packed blocks.
pub(crate) const FEW_ROWS: usize = 8;

/// Rows of y whose values go through the kernel's function together: whole vectors at every level.
const GROUP: usize = MAX_LANES;

/// Values of y in a task at most.
const TASK_VALUES: usize = 1 << 19;

/// About how many tasks there are at least; more cost time, because handing over a result takes microseconds.
const TASKS: usize = 16;

/// Independent sums along a row, which the CPU computes in parallel.
const CHAINS: usize = 4;

/// Returns k(x_r, x_j) for the given rows r and all rows j: the values of the first r, then those of the second, …
pub(crate) fn columns(
    x: Matrix,
    rows: &[usize],
    kernels: &[Kernel],
    threads: Option<usize>,
    check: Check,
) -> Result<Vec<f64>> {
    collect(Pairs { x, y: None, kernels, want: Want::Value }, rows, threads, check)
}

/// Returns ‖x_r − x_j‖², in the order of [`columns`].
pub(crate) fn squared_distances(x: Matrix, rows: &[usize], threads: Option<usize>, check: Check) -> Result<Vec<f64>> {
    let linear = [Kernel(Form::Linear)];
    collect(Pairs { x, y: None, kernels: &linear, want: Want::SquaredDistance }, rows, threads, check)
}

fn collect(pairs: Pairs, rows: &[usize], threads: Option<usize>, check: Check) -> Result<Vec<f64>> {
    let total = pairs.x.rows();
    let mut columns = zeros(rows.len().saturating_mul(total))?;
    run(
        pairs,
        rows,
        threads,
        check,
        |_, part| part,
        |first, part| {
            let count = part.len() / rows.len().max(1);
            for (column, part) in columns.chunks_exact_mut(total.max(1)).zip(part.chunks_exact(count.max(1))) {
                column[first..first + count].copy_from_slice(part);
            }
        },
    )?;
    Ok(columns)
}

/// Computes k, or D² of the linear kernel only, of the given `rows` of x with blocks of rows of y.
///
/// `reduce` gets the first row of a block of y and its values, one row of x after another; `fold` gets the results of
/// `reduce` in order.
pub(super) fn run<T: Send>(
    pairs: Pairs,
    rows: &[usize],
    threads: Option<usize>,
    check: Check,
    reduce: impl Fn(usize, Vec<f64>) -> T + Sync,
    fold: impl FnMut(usize, T),
) -> Result<()> {
    if pairs.x.is_float64() || pairs.y.is_some_and(|y| y.is_float64()) {
        run_in::<f64, T>(pairs, rows, threads, check, reduce, fold)
    } else {
        run_in::<f32, T>(pairs, rows, threads, check, reduce, fold)
    }
}

fn run_in<R: Real, T: Send>(
    pairs: Pairs,
    rows: &[usize],
    threads: Option<usize>,
    check: Check,
    reduce: impl Fn(usize, Vec<f64>) -> T + Sync,
    mut fold: impl FnMut(usize, T),
) -> Result<()> {
    let y = pairs.y.unwrap_or(pairs.x);
    if pairs.kernels.is_empty() {
        return Err(Error::NoKernel);
    }
    if pairs.x.columns() != y.columns() {
        return Err(Error::Columns { x: pairs.x.columns(), y: y.columns() });
    }
    if rows.is_empty() || y.rows() == 0 {
        return Ok(()); // a matrix without rows may have more columns than memory holds
    }
    let (level, queries) = (Level::detect(), Queries::<R>::new(pairs.x, rows)?);
    let block = (TASK_VALUES / y.columns().max(1)).min(1 << 12).min(y.rows() / TASKS).max(1).next_multiple_of(GROUP);
    let task = |index: usize| {
        let first = index * block;
        let count = block.min(y.rows() - first);
        reduce(first, R::run(level, Block { pairs, y, queries: &queries, first, count }))
    };
    tasks::run(y.rows().div_ceil(block), threads, check, task, |index, result| fold(index * block, result))
}

/// The given rows of x, padded with zeros to whole vectors; a row that is not finite is NaN in all columns.
struct Queries<R> {
    values: Vec<R>,
    norms: Vec<R>,
    width: usize,
}

impl<R: Real> Queries<R> {
    fn new(x: Matrix, rows: &[usize]) -> Result<Self> {
        let width = x.columns().next_multiple_of(MAX_LANES).max(MAX_LANES);
        let mut values: Vec<R> = zeros(rows.len().saturating_mul(width))?;
        let mut norms = Vec::with_capacity(rows.len());
        for (row, values) in rows.iter().zip(values.chunks_exact_mut(width)) {
            x.read(*row, 0, &mut values[..x.columns()]);
            if !is_finite(values) {
                values.fill(R::from_f64(f64::NAN));
            }
            norms.push(R::from_f64(values.iter().map(|value| value.to_f64().powi(2)).sum::<f64>().sqrt()));
        }
        Ok(Self { values, norms, width })
    }
}

fn is_finite<R: Real>(row: &[R]) -> bool {
    row.iter().all(|value| value.to_f64().is_finite())
}

/// The rows of y of one task.
struct Block<'a, R> {
    pairs: Pairs<'a>,
    y: Matrix<'a>,
    queries: &'a Queries<R>,
    first: usize,
    count: usize,
}

impl<R: Real> Vectorized<R> for Block<'_, R> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn run<S: Simd<Real = R>, const Y: usize>(self, simd: S) -> Vec<f64> {
        let queries = self.queries.norms.len();
        let mut values = vec![0.0; queries * self.count];
        let mut buffer = vec![R::default(); self.y.columns()];
        let mut tile = vec![R::default(); queries * GROUP];
        for start in (0..self.count).step_by(GROUP) {
            let height = GROUP.min(self.count - start);
            for kernel in self.pairs.kernels {
                let (rows, base) = kernel.parts(self.pairs.want);
                let mut norms = [R::default(); GROUP];
                for (offset, norm) in norms.iter_mut().enumerate().take(height) {
                    let y = self.y.row(simd, self.first + start + offset, &mut buffer);
                    if matches!(kernel.0, Form::Distance | Form::Cosine) {
                        *norm = R::from_f64(along::<S, Dot>(simd, y, y).sqrt());
                    }
                    for query in 0..queries {
                        let x = &self.queries.values[query * self.queries.width..][..self.queries.width];
                        let mut value = match base {
                            Base::Dot => along::<S, Dot>(simd, x, y),
                            Base::Squared => along::<S, Squared>(simd, x, y),
                            Base::Manhattan => along::<S, Manhattan>(simd, x, y),
                        };
                        if !value.is_finite() && !is_finite(y) {
                            value = f64::NAN;
                        }
                        if rows == Rows::Unit {
                            let product = self.queries.norms[query].to_f64() * norm.to_f64();
                            value = if product == 0.0 { 0.0 } else { value / product };
                        }
                        tile[query * GROUP + offset] = R::from_f64(value);
                    }
                }
                kernel.apply(simd, self.pairs.want, Apply { tile: &mut tile, x: &self.queries.norms, y: &norms });
                for (query, tile) in tile.chunks_exact(GROUP).enumerate() {
                    let values = &mut values[query * self.count + start..][..height];
                    values.iter_mut().zip(tile).for_each(|(value, term)| *value += term.to_f64());
                }
            }
        }
        values
    }
}

/// Sums the steps along y; x has at least as many values.
#[inline(always)]
fn along<S: Simd, T: Step>(simd: S, x: &[S::Real], y: &[S::Real]) -> f64 {
    assert!(x.len() >= y.len());
    let vectors = y.len() / S::LANES;
    let mut sums = [simd.splat(S::Real::default()); CHAINS];
    let mut vector = 0;
    // SAFETY: `vectors` whole vectors are inside y, hence inside x.
    unsafe {
        while vector + CHAINS <= vectors {
            for (chain, sum) in sums.iter_mut().enumerate() {
                let place = (vector + chain) * S::LANES;
                *sum = T::step(simd, simd.load(x.as_ptr().add(place)), simd.load(y.as_ptr().add(place)), *sum);
            }
            vector += CHAINS;
        }
        while vector < vectors {
            let place = vector * S::LANES;
            sums[0] = T::step(simd, simd.load(x.as_ptr().add(place)), simd.load(y.as_ptr().add(place)), sums[0]);
            vector += 1;
        }
    }
    let rest = vectors * S::LANES;
    if rest < y.len() {
        let (mut ends, count) = ([[S::Real::default(); MAX_LANES]; 2], y.len() - rest);
        ends[0][..count].copy_from_slice(&x[rest..rest + count]);
        ends[1][..count].copy_from_slice(&y[rest..]);
        // SAFETY: no level has more lanes.
        unsafe { sums[0] = T::step(simd, simd.load(ends[0].as_ptr()), simd.load(ends[1].as_ptr()), sums[0]) };
    }
    let [a, b, c, d] = sums;
    simd.total(simd.add(simd.add(a, b), simd.add(c, d)))
}

/// A kernel's function on a group of rows, in place.
struct Apply<'a, R> {
    tile: &'a mut [R],
    x: &'a [R],
    y: &'a [R; GROUP],
}

impl<S: Simd> Map<S> for Apply<'_, S::Real> {
    #[inline(always)]
    fn map(self, simd: S, function: impl Fn(S::Vector, Sizes<S::Vector>, Sizes<S::Vector>) -> S::Vector) {
        for (tile, norm) in self.tile.chunks_exact_mut(GROUP).zip(self.x) {
            let x = Sizes { squared: simd.splat(*norm), norm: simd.splat(*norm) };
            for lane in (0..GROUP).step_by(S::LANES) {
                // SAFETY: `GROUP` values are whole vectors; no function that is used here reads `squared`.
                unsafe {
                    let norm = simd.load(self.y.as_ptr().add(lane));
                    let place = tile.as_mut_ptr().add(lane);
                    simd.store(place, function(simd.load(place), x, Sizes { squared: norm, norm }));
                }
            }
        }
    }
}
