//! A few rows of x beside all rows of y, which is read once as it lies: memory sets the pace, so nothing is packed.

use super::engine::Pairs;
use super::function::{Base, Map, Rows, Sizes, Want};
use super::micro::{Dot, Manhattan, Squared, Step};
use super::panels::zeros;
use super::{Form, Kernel};
use crate::error::{Error, Result};
use crate::simd::{Level, MAX_LANES, Real, Simd, Vectorized};
use crate::tasks::Check;
use crate::{Matrix, tasks};

/// Rows of x up to which this is faster than the packed blocks.
pub(crate) const FEW: usize = 8;

/// Rows of y whose values go through the kernel's function together: whole vectors at every level.
const GROUP: usize = MAX_LANES;

/// Values of y in a task at most, and about how many tasks there are at least: handing over a result costs microseconds.
const TASK_VALUES: usize = 1 << 19;
const TASKS: usize = 16;

/// Sums of a row that do not wait for each other.
const CHAINS: usize = 4;

/// k(x_r, x_j) of some rows r with all rows j: the values of the first of them, then those of the second, and so on.
pub(crate) fn columns(
    x: Matrix,
    rows: &[usize],
    kernels: &[Kernel],
    threads: Option<usize>,
    check: Check,
) -> Result<Vec<f64>> {
    collect(Pairs { x, y: None, kernels, want: Want::Value }, rows, threads, check)
}

/// ‖x_r − x_j‖², in the order of [`columns`].
pub(crate) fn squared_distances(x: Matrix, rows: &[usize], threads: Option<usize>, check: Check) -> Result<Vec<f64>> {
    let linear = [Kernel(Form::Linear)];
    collect(Pairs { x, y: None, kernels: &linear, want: Want::SquaredDistance }, rows, threads, check)
}

fn collect(pairs: Pairs, rows: &[usize], threads: Option<usize>, check: Check) -> Result<Vec<f64>> {
    let total = pairs.x.rows();
    let mut all = zeros(rows.len().saturating_mul(total))?;
    run(
        pairs,
        rows,
        threads,
        check,
        |_, part| part,
        |first, part| {
            let count = part.len() / rows.len().max(1);
            for (all, part) in all.chunks_exact_mut(total.max(1)).zip(part.chunks_exact(count.max(1))) {
                all[first..first + count].copy_from_slice(part);
            }
        },
    )?;
    Ok(all)
}

/// Makes what is wanted of blocks of rows of y: k, or D² of the linear kernel alone.
///
/// Of x only the given `rows` take part. `reduce` gets the first row of a block and its values, one row of x after
/// another; `fold` what it gave, in order.
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
        return Ok(()); // without any row the columns may be more than memory holds
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

/// Some rows of x, padded with zeros to whole vectors; NaN all over where one is not finite.
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
            let some = GROUP.min(self.count - start);
            for kernel in self.pairs.kernels {
                let (rows, base) = kernel.parts(self.pairs.want);
                let mut norms = [R::default(); GROUP];
                for (offset, norm) in norms.iter_mut().enumerate().take(some) {
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
                    let values = &mut values[query * self.count + start..][..some];
                    values.iter_mut().zip(tile).for_each(|(value, term)| *value += term.to_f64());
                }
            }
        }
        values
    }
}

/// The sum of steps along a row y; x has at least as many values, up to whole vectors.
#[inline(always)]
fn along<S: Simd, T: Step>(simd: S, x: &[S::Real], y: &[S::Real]) -> f64 {
    assert!(x.len() >= y.len());
    let whole = y.len() / S::LANES;
    let mut sums = [simd.splat(S::Real::default()); CHAINS];
    let mut vector = 0;
    // SAFETY: the vectors before `whole` are inside y, hence inside x.
    unsafe {
        while vector + CHAINS <= whole {
            for (chain, sum) in sums.iter_mut().enumerate() {
                let place = (vector + chain) * S::LANES;
                *sum = T::step(simd, simd.load(x.as_ptr().add(place)), simd.load(y.as_ptr().add(place)), *sum);
            }
            vector += CHAINS;
        }
        while vector < whole {
            let place = vector * S::LANES;
            sums[0] = T::step(simd, simd.load(x.as_ptr().add(place)), simd.load(y.as_ptr().add(place)), sums[0]);
            vector += 1;
        }
    }
    let rest = whole * S::LANES;
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
                // SAFETY: `GROUP` values are whole vectors; nothing that is wanted here looks at `squared`.
                unsafe {
                    let norm = simd.load(self.y.as_ptr().add(lane));
                    let place = tile.as_mut_ptr().add(lane);
                    simd.store(place, function(simd.load(place), x, Sizes { squared: norm, norm }));
                }
            }
        }
    }
}
