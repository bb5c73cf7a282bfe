//! Greedy selection, one row after another; of equal candidates the lowest row is chosen.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::Matrix;
use crate::error::{Error, Result};
use crate::kernels::{FEW_ROWS, Kernel, columns, row_sums, squared_distances};
use crate::memory::zeros;
use crate::tasks::Check;

/// Chooses rows by kernel herding (Chen, Welling, Smola, "Super-samples from kernel herding", 2010): each next row brings
/// the mean embedding of the chosen rows as near as possible to that of all rows.
///
/// The t-th row maximises μ(x) − (Σ_s k(x, x_s) + k(x, x) / 2) / t over the rows not chosen yet, which minimises MMD². The
/// paper omits k(x, x), which is constant for most kernels. `means` is μ, `diagonal` is k(x, x).
///
/// # Errors
/// A `count` of 0 or above the number of rows, `means` or `diagonal` of another length, a bad number of threads, too little
/// memory, or what `check` returns.
///
/// ```
/// use dap_core::clustering::herding;
/// use dap_core::kernels::Kernel;
/// use dap_core::matrix::{Matrix, Values};
/// let x = Matrix::new(Values::Float64(&[-3.0, 1.0, 2.0]), 3, 1)?;
/// let kernel = [Kernel::new("linear", &[])?];
/// assert_eq!(herding(x, &kernel, &[0.0; 3], &[9.0, 1.0, 4.0], 2, None, &mut || Ok(()))?, [1, 0]);
/// # Ok::<(), dap_core::Error>(())
/// ```
pub fn herding(
    x: Matrix,
    kernels: &[Kernel],
    means: &[f64],
    diagonal: &[f64],
    count: usize,
    threads: Option<usize>,
    check: Check,
) -> Result<Vec<i64>> {
    check_count(x, count)?;
    for values in [means, diagonal] {
        if values.len() != x.rows() {
            return Err(Error::Shape { rows: x.rows(), columns: 1, len: values.len() });
        }
    }
    let mut sums: Vec<f64> = diagonal.iter().map(|value| value / 2.0).collect();
    let mut chosen = Vec::with_capacity(count);
    let mut free = vec![true; x.rows()];
    for turn in 1..=count {
        let score = |row: usize| means[row] - sums[row] / turn as f64;
        let row = largest((0..x.rows()).filter(|row| free[*row]), score);
        chosen.push(row);
        free[row] = false;
        if turn < count {
            let column = columns(x, &[row], kernels, threads, check)?;
            sums.iter_mut().zip(column).for_each(|(sum, value)| *sum += value);
        }
    }
    Ok(numbers(&chosen))
}

/// Chooses `first`, then each time the row that is farthest from the chosen rows; returns them, and the distance of each
/// row to the nearest chosen row.
///
/// Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985: the largest of these distances is at most
/// twice the smallest that any `count` rows can have.
///
/// # Errors
/// A `count` of 0 or above the number of rows, a `first` that does not exist, a bad number of threads, too little memory,
/// or what `check` returns.
///
/// ```
/// use dap_core::clustering::farthest_points;
/// use dap_core::matrix::{Matrix, Values};
/// let x = Matrix::new(Values::Float64(&[0.0, 1.0, 5.0, 9.0]), 4, 1)?;
/// let (chosen, distances) = farthest_points(x, 0, 2, None, &mut || Ok(()))?;
/// assert_eq!((chosen, distances), (vec![0, 3], vec![0.0, 1.0, 4.0, 0.0]));
/// # Ok::<(), dap_core::Error>(())
/// ```
pub fn farthest_points(
    x: Matrix,
    first: usize,
    count: usize,
    threads: Option<usize>,
    check: Check,
) -> Result<(Vec<i64>, Vec<f64>)> {
    check_count(x, count)?;
    if first >= x.rows() {
        return Err(Error::Row { row: first, rows: x.rows() });
    }
    let mut closest = vec![f64::INFINITY; x.rows()];
    let mut free = vec![true; x.rows()];
    let mut chosen = Vec::with_capacity(count);
    let mut row = first;
    loop {
        chosen.push(row);
        free[row] = false;
        let distances = squared_distances(x, &[row], threads, check)?;
        closest.iter_mut().zip(distances).for_each(|(closest, distance)| *closest = closest.min(distance));
        if chosen.len() == count {
            return Ok((numbers(&chosen), closest.into_iter().map(f64::sqrt).collect()));
        }
        row = largest((0..x.rows()).filter(|row| free[*row]), |row| closest[row]);
    }
}

/// Greedy facility location: each next row adds most to F(S) = Σ_i max_{j in S} k(x_i, x_j), for a kernel k ≥ 0.
///
/// F is monotone and submodular, so F of the chosen rows is at least 1 − 1/e of the best (Nemhauser, Wolsey, Fisher, 1978).
/// The gain of a row never grows, so an earlier gain is an upper bound, and only rows with the largest bounds are computed
/// again (Minoux, "Accelerated greedy algorithms", 1978).
///
/// # Errors
/// A `count` of 0 or above the number of rows, a bad number of threads, too little memory, or what `check` returns.
///
/// ```
/// use dap_core::clustering::facility_location;
/// use dap_core::kernels::Kernel;
/// use dap_core::matrix::{Matrix, Values};
/// let x = Matrix::new(Values::Float64(&[0.0, 0.1, 0.2, 9.0]), 4, 1)?;
/// assert_eq!(facility_location(x, &[Kernel::new("rbf", &[1.0])?], 2, None, &mut || Ok(()))?, [1, 3]);
/// # Ok::<(), dap_core::Error>(())
/// ```
pub fn facility_location(
    x: Matrix,
    kernels: &[Kernel],
    count: usize,
    threads: Option<usize>,
    check: Check,
) -> Result<Vec<i64>> {
    check_count(x, count)?;
    let bounds = row_sums(x, None, kernels, None, threads, check)?;
    let mut heap: BinaryHeap<Bound> = bounds.into_iter().enumerate().map(|(row, gain)| Bound { gain, row }).collect();
    let mut covered = zeros::<f64>(x.rows())?;
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count {
        let (mut exact, mut best): (Vec<Bound>, Option<(Bound, Vec<f64>)>) = (Vec::new(), None);
        // Several rows at once, so that x is read once for all of them.
        while let Some(top) = heap.peek()
            && best.as_ref().is_none_or(|(best, _)| top > best)
        {
            let rows: Vec<usize> = (0..FEW_ROWS).filter_map(|_| heap.pop()).map(|bound| bound.row).collect();
            let values = columns(x, &rows, kernels, threads, check)?;
            for (row, column) in rows.into_iter().zip(values.chunks_exact(x.rows())) {
                let gain = column.iter().zip(&covered).map(|(value, covered)| (value - covered).max(0.0)).sum();
                let bound = Bound { gain, row };
                exact.push(bound);
                if best.as_ref().is_none_or(|(best, _)| bound > *best) {
                    best = Some((bound, column.to_vec()));
                }
            }
        }
        let Some((choice, column)) = best else { break };
        chosen.push(choice.row);
        covered.iter_mut().zip(column).for_each(|(covered, value)| *covered = covered.max(value));
        heap.extend(exact.into_iter().filter(|bound| bound.row != choice.row));
    }
    Ok(numbers(&chosen))
}

/// An upper bound of the gain of a row; of equal gains, that of the lower row compares as larger.
#[derive(Clone, Copy, Debug)]
struct Bound {
    gain: f64,
    row: usize,
}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> Ordering {
        self.gain.total_cmp(&other.gain).then(other.row.cmp(&self.row))
    }
}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Bound {}

fn check_count(x: Matrix, count: usize) -> Result<()> {
    if count == 0 || count > x.rows() { Err(Error::Count { count, rows: x.rows() }) } else { Ok(()) }
}

/// Returns the row with the largest score, the first of equal ones; `rows` is not empty.
fn largest(rows: impl Iterator<Item = usize>, score: impl Fn(usize) -> f64) -> usize {
    let best = rows.map(|row| (score(row), row)).reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.map_or(0, |(_, row)| row)
}

fn numbers(rows: &[usize]) -> Vec<i64> {
    rows.iter().map(|row| *row as i64).collect()
}
