//! Lloyd's algorithm (Lloyd, "Least squares quantization in PCM", 1982), with the stopping rules of scikit-learn.

use super::packed_rows::PackedRows;
use crate::error::{Error, Result};
use crate::simd::{Level, MAX_LANES, Real, Simd, Vectorized};
use crate::tasks::Check;
use crate::tiles::{Dot, VECTORS, sum};
use crate::{Matrix, tasks};

/// The result of Lloyd's algorithm.
#[derive(Clone, Debug, PartialEq)]
pub struct KMeans {
    /// Row by row, `clusters` × columns.
    pub centers: Vec<f64>,
    /// The nearest centre of each row; of equal ones the first.
    pub labels: Vec<i64>,
    /// Σ_i ‖x_i − its centre‖².
    pub inertia: f64,
    /// Number of rounds.
    pub iterations: usize,
}

/// Moves the centres `start` to the means of their rows until no label changes, or until Σ ‖movement‖² ≤ `tol`.
///
/// A cluster that loses all its rows takes the row that is farthest from its own centre, unless that row is alone.
///
/// # Errors
/// A `start` that is not rows of as many columns, more centres than rows, a bad number of threads, too little memory, or what
/// `check` returns.
///
/// ```
/// use dap_core::clustering::k_means;
/// use dap_core::matrix::{Matrix, Values};
/// let x = Matrix::new(Values::Float64(&[0.0, 1.0, 10.0, 11.0]), 4, 1)?;
/// let result = k_means(x, &[0.0, 1.0], 2, 300, 0.0, None, &mut || Ok(()))?;
/// assert_eq!((result.centers, result.labels, result.inertia), (vec![0.5, 10.5], vec![0, 0, 1, 1], 1.0));
/// # Ok::<(), dap_core::Error>(())
/// ```
pub fn k_means(
    x: Matrix,
    start: &[f64],
    clusters: usize,
    max_iter: usize,
    tol: f64,
    threads: Option<usize>,
    check: Check,
) -> Result<KMeans> {
    if clusters == 0 || clusters > x.rows() {
        return Err(Error::Count { count: clusters, rows: x.rows() });
    }
    if clusters.checked_mul(x.columns()) != Some(start.len()) {
        return Err(Error::Shape { rows: clusters, columns: x.columns(), len: start.len() });
    }
    if x.is_float64() {
        lloyd::<f64>(x, start, max_iter, tol, clusters, threads, check)
    } else {
        lloyd::<f32>(x, start, max_iter, tol, clusters, threads, check)
    }
}

fn lloyd<R: Real>(
    x: Matrix,
    start: &[f64],
    max_iter: usize,
    tol: f64,
    clusters: usize,
    threads: Option<usize>,
    check: Check,
) -> Result<KMeans> {
    let packed = PackedRows::<R>::new(x, threads, check)?;
    let mut centers = start.to_vec();
    let (mut labels, mut iterations, mut settled) = (Vec::new(), 0, false);
    while iterations < max_iter {
        let mut round = assign(x, &packed, &centers, clusters, threads, check)?;
        iterations += 1;
        if round.counts.contains(&0) {
            fill_empty(x, &centers, &mut round, threads, check)?;
        }
        settled = round.labels == labels;
        labels = round.labels;
        let mut moved = 0.0;
        for (cluster, count) in round.counts.iter().enumerate() {
            let place = cluster * x.columns()..(cluster + 1) * x.columns();
            for (center, sum) in centers[place.clone()].iter_mut().zip(&round.sums[place]) {
                let mean = if *count == 0 { *center } else { sum / *count as f64 };
                moved += (mean - *center) * (mean - *center);
                *center = mean;
            }
        }
        if settled || moved <= tol {
            break;
        }
    }
    if !settled {
        labels = assign(x, &packed, &centers, clusters, threads, check)?.labels;
    }
    let inertia = squared_distances(x, &centers, &labels, threads, check)?.iter().sum();
    Ok(KMeans { centers, labels: labels.into_iter().map(i64::from).collect(), inertia, iterations })
}

/// One round: the nearest centre of each row, and the sum and the number of the rows of each centre.
struct Round {
    labels: Vec<u32>,
    sums: Vec<f64>,
    counts: Vec<usize>,
}

fn assign<R: Real>(
    x: Matrix,
    packed: &PackedRows<R>,
    centers: &[f64],
    clusters: usize,
    threads: Option<usize>,
    check: Check,
) -> Result<Round> {
    let level = Level::detect();
    let operand = R::run(level, Operand { packed, centers, clusters });
    let task = |index: usize| R::run(level, Assign { x, packed, operand: &operand, clusters, index });
    let mut round =
        Round { labels: Vec::with_capacity(x.rows()), sums: vec![0.0; centers.len()], counts: vec![0; clusters] };
    tasks::run(packed.blocks.len(), threads, check, task, |_, part| {
        round.labels.extend(part.labels);
        round.sums.iter_mut().zip(part.sums).for_each(|(sum, part)| *sum += part);
        round.counts.iter_mut().zip(part.counts).for_each(|(count, part)| *count += part);
    })?;
    Ok(round)
}

/// Packs the centres for the micro-kernel, and computes ‖centre‖² of each.
struct Operand<'a, R> {
    packed: &'a PackedRows<R>,
    centers: &'a [f64],
    clusters: usize,
}

impl<R: Real> Vectorized<R> for Operand<'_, R> {
    type Output = (Vec<R>, Vec<R>);

    #[inline(always)]
    fn run<S: Simd<Real = R>, const Y: usize>(self, _: S) -> Self::Output {
        let columns = self.packed.centre.len();
        let squared = |cluster: usize| {
            let center = &self.centers[cluster * columns..][..columns];
            R::from_f64(center.iter().zip(&self.packed.centre).map(|(c, m)| (c - m) * (c - m)).sum())
        };
        (self.packed.pack_points(self.centers, Y), (0..self.clusters).map(squared).collect())
    }
}

/// The round of one block of rows.
struct Assign<'a, R> {
    x: Matrix<'a>,
    packed: &'a PackedRows<R>,
    operand: &'a (Vec<R>, Vec<R>),
    clusters: usize,
    index: usize,
}

impl<R: Real> Vectorized<R> for Assign<'_, R> {
    type Output = Round;

    #[inline(always)]
    fn run<S: Simd<Real = R>, const Y: usize>(self, simd: S) -> Round {
        let (width, columns) = (VECTORS * S::LANES, self.x.columns());
        let (points, squared) = self.operand;
        let (first, rows) = (self.index * self.packed.block, self.packed.rows_of(self.index));
        let minus_two = simd.splat(R::from_f64(-2.0));
        let mut tile = vec![R::default(); Y * width];
        let mut buffer = vec![R::default(); columns];
        let mut round = Round {
            labels: Vec::with_capacity(rows),
            sums: vec![0.0; self.clusters * columns],
            counts: vec![0; self.clusters],
        };
        for start in (0..rows).step_by(width) {
            let panel = self.packed.blocks[self.index].panel(start / width);
            let mut best = [simd.splat(R::from_f64(f64::INFINITY)); VECTORS];
            let mut labels = [simd.splat(R::default()); VECTORS];
            for (number, squared) in squared.chunks(Y).enumerate() {
                let points = &points[number * Y * columns..][..Y * columns];
                sum::<S, Dot, Y>(simd, panel, |_| points, 1, &mut tile);
                for (row, squared) in squared.iter().enumerate() {
                    let (squared, label) = (simd.splat(*squared), simd.splat(R::from_f64((number * Y + row) as f64)));
                    for vector in 0..VECTORS {
                        // SAFETY: the tile holds `Y` rows of `VECTORS` vectors.
                        let dot = unsafe { simd.load(tile.as_ptr().add((row * VECTORS + vector) * S::LANES)) };
                        // ‖x − c‖² less ‖x‖², which is the same for every centre.
                        let key = simd.mul_add(minus_two, dot, squared);
                        labels[vector] = simd.where_less(key, best[vector], label, labels[vector]);
                        best[vector] = simd.where_less(key, best[vector], key, best[vector]);
                    }
                }
            }
            let mut panel_labels = [R::default(); VECTORS * MAX_LANES];
            for (vector, labels) in labels.into_iter().enumerate() {
                // SAFETY: no level has more lanes.
                unsafe { simd.store(panel_labels.as_mut_ptr().add(vector * S::LANES), labels) };
            }
            for (row, label) in panel_labels.iter().enumerate().take(width.min(rows - start)) {
                let label = label.to_f64() as usize;
                round.labels.push(label as u32);
                round.counts[label] += 1;
                let row = self.x.row(simd, first + start + row, &mut buffer);
                let sums = &mut round.sums[label * columns..][..columns];
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value.to_f64());
            }
        }
        round
    }
}

/// Moves the row that is farthest from its centre into each empty cluster.
fn fill_empty(x: Matrix, centers: &[f64], round: &mut Round, threads: Option<usize>, check: Check) -> Result<()> {
    let distances = squared_distances(x, centers, &round.labels, threads, check)?;
    let mut order: Vec<usize> = (0..x.rows()).collect();
    order.sort_by(|a, b| distances[*b].total_cmp(&distances[*a]).then(a.cmp(b)));
    let (mut farthest, mut row) = (order.into_iter(), vec![0.0_f64; x.columns()]);
    for empty in 0..round.counts.len() {
        if round.counts[empty] > 0 {
            continue;
        }
        let farthest_row = farthest.by_ref().find(|index| round.counts[round.labels[*index] as usize] > 1);
        let Some(farthest_row) = farthest_row.filter(|index| distances[*index] > 0.0) else {
            return Ok(()); // there are fewer distinct rows than clusters
        };
        let old = round.labels[farthest_row] as usize;
        x.read(farthest_row, 0, &mut row);
        for (column, value) in row.iter().enumerate() {
            round.sums[old * x.columns() + column] -= value;
            round.sums[empty * x.columns() + column] += value;
        }
        round.counts[old] -= 1;
        round.counts[empty] += 1;
    }
    Ok(())
}

/// Returns ‖x_i − its centre‖² of each row, from the differences in float64.
fn squared_distances(
    x: Matrix,
    centers: &[f64],
    labels: &[u32],
    threads: Option<usize>,
    check: Check,
) -> Result<Vec<f64>> {
    let (rows, columns) = ((1 << 17) / x.columns().max(1) + 1, x.columns());
    let task = |block: usize| {
        let mut row = vec![0.0_f64; columns];
        let distance = |index: usize| {
            x.read(index, 0, &mut row);
            let center = &centers[labels[index] as usize * columns..][..columns];
            row.iter().zip(center).map(|(value, center)| (value - center) * (value - center)).sum::<f64>()
        };
        (block * rows..(block * rows + rows).min(x.rows())).map(distance).collect::<Vec<f64>>()
    };
    let mut distances = Vec::with_capacity(x.rows());
    tasks::run(x.rows().div_ceil(rows), threads, check, task, |_, part| distances.extend(part))?;
    Ok(distances)
}
