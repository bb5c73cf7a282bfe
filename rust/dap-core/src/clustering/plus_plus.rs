//! The initialisation of k-means: greedy k-means++ (Arthur and Vassilvitskii, 2007), with several trials for each centre.

use super::packed_rows::PackedRows;
use crate::error::{Error, Result};
use crate::simd::{Level, Real, Simd, Vectorized};
use crate::tasks::Check;
use crate::tiles::{Squared, VECTORS, sum};
use crate::{Matrix, tasks};

/// Candidates whose distances are computed together: with two vectors of rows they fill the registers of AVX2.
const CANDIDATES: usize = 6;

/// Chooses `clusters` rows: the first uniformly, each next one as the best of `trials` rows that are drawn with
/// probabilities proportional to ‖x − nearest chosen row‖².
///
/// The best is the one that leaves the smallest sum of these squared distances. If all are zero, the lowest row that is
/// not chosen yet is chosen.
///
/// # Errors
/// A number of clusters that is 0 or above the number of rows, a bad number of threads, too little memory, or what `check`
/// returns.
///
/// ```
/// use dap_core::clustering::plus_plus;
/// use dap_core::matrix::{Matrix, Values};
/// let x = Matrix::new(Values::Float32(&[0.0, 0.0, 9.0]), 3, 1)?;
/// assert!(plus_plus(x, 2, 3, 0, None, &mut || Ok(()))?.contains(&2));
/// # Ok::<(), dap_core::Error>(())
/// ```
pub fn plus_plus(
    x: Matrix,
    clusters: usize,
    trials: usize,
    seed: u64,
    threads: Option<usize>,
    check: Check,
) -> Result<Vec<i64>> {
    if clusters == 0 || clusters > x.rows() {
        return Err(Error::Count { count: clusters, rows: x.rows() });
    }
    let chosen = if x.is_float64() {
        choose::<f64>(x, clusters, trials.max(1), seed, threads, check)
    } else {
        choose::<f32>(x, clusters, trials.max(1), seed, threads, check)
    };
    Ok(chosen?.into_iter().map(|row| row as i64).collect())
}

fn choose<R: Real>(
    x: Matrix,
    clusters: usize,
    trials: usize,
    seed: u64,
    threads: Option<usize>,
    check: Check,
) -> Result<Vec<usize>> {
    let packed = PackedRows::<R>::new(x, threads, check)?;
    let level = Level::detect();
    let mut random = SplitMix(seed);
    let mut chosen: Vec<usize> = Vec::with_capacity(clusters);
    let infinite = R::from_f64(f64::INFINITY);
    let mut closest: Vec<Vec<R>> =
        (0..packed.blocks.len()).map(|index| vec![infinite; packed.rows_of(index)]).collect();
    let mut potentials = vec![0.0; closest.len()];
    while chosen.len() < clusters {
        let candidates = if chosen.is_empty() {
            vec![((random.uniform() * x.rows() as f64) as usize).min(x.rows() - 1)]
        } else if potentials.iter().sum::<f64>() > 0.0 {
            (0..trials).map(|_| draw(&closest, &potentials, packed.block, random.uniform())).collect()
        } else {
            (0..x.rows()).filter(|row| !chosen.contains(row)).take(1).collect()
        };
        let points = packed.pack_points(&rows_of(x, &candidates), CANDIDATES);
        let count = candidates.len();
        let task = |index: usize| {
            R::run(level, Trial { packed: &packed, points: &points, count, closest: &closest[index], index })
        };
        let mut parts = Vec::with_capacity(closest.len());
        tasks::run(closest.len(), threads, check, task, |_, part| parts.push(part))?;
        let total = |trial: usize| parts.iter().map(|part| part.potentials[trial]).sum::<f64>();
        let best = (1..count).fold(0, |best, trial| if total(trial) < total(best) { trial } else { best });
        for ((closest, potential), part) in closest.iter_mut().zip(&mut potentials).zip(&mut parts) {
            *closest = part.closest.swap_remove(best);
            *potential = part.potentials[best];
        }
        chosen.push(candidates[best]);
    }
    Ok(chosen)
}

fn rows_of(x: Matrix, rows: &[usize]) -> Vec<f64> {
    let mut values = vec![0.0; rows.len() * x.columns()];
    for (row, values) in rows.iter().zip(values.chunks_exact_mut(x.columns().max(1))) {
        x.read(*row, 0, values);
    }
    values
}

/// Returns the row at which the cumulative sum of the closest distances exceeds the fraction `uniform` of the total.
fn draw<R: Real>(closest: &[Vec<R>], potentials: &[f64], block: usize, uniform: f64) -> usize {
    let mut left = uniform * potentials.iter().sum::<f64>();
    let mut last = 0;
    for (index, (closest, potential)) in closest.iter().zip(potentials).enumerate() {
        if left >= *potential {
            left -= potential;
            continue;
        }
        for (row, distance) in closest.iter().enumerate().filter(|(_, distance)| distance.to_f64() > 0.0) {
            last = index * block + row;
            left -= distance.to_f64();
            if left < 0.0 {
                return last;
            }
        }
    }
    last // reached only by rounding
}

/// One block of rows with all candidates.
struct Trial<'a, R> {
    packed: &'a PackedRows<R>,
    points: &'a [R],
    count: usize,
    closest: &'a [R],
    index: usize,
}

/// For each candidate, if it were chosen: the squared distance of each row to the nearest chosen row, and their sum.
struct Outcome<R> {
    closest: Vec<Vec<R>>,
    potentials: Vec<f64>,
}

impl<R: Real> Vectorized<R> for Trial<'_, R> {
    type Output = Outcome<R>;

    #[inline(always)]
    fn run<S: Simd<Real = R>, const Y: usize>(self, simd: S) -> Outcome<R> {
        let (width, columns) = (VECTORS * S::LANES, self.packed.centre.len());
        let rows = self.closest.len();
        let mut tile = vec![R::default(); CANDIDATES * width];
        let mut closest: Vec<Vec<R>> = (0..self.count).map(|_| Vec::with_capacity(rows)).collect();
        let mut potentials = vec![0.0; self.count];
        for start in (0..rows).step_by(width) {
            let panel = self.packed.blocks[self.index].panel(start / width);
            let known = &self.closest[start..(start + width).min(rows)];
            for first in (0..self.count).step_by(CANDIDATES) {
                let points = &self.points[first * columns..][..CANDIDATES * columns];
                sum::<S, Squared, CANDIDATES>(simd, panel, |_| points, 1, &mut tile);
                for (offset, tile) in tile.chunks_exact(width).enumerate().take(self.count - first) {
                    let (closest, mut potential) = (&mut closest[first + offset], R::default().to_f64());
                    for (known, new) in known.iter().zip(tile) {
                        let nearer = if *new < *known { *new } else { *known };
                        closest.push(nearer);
                        potential += nearer.to_f64();
                    }
                    potentials[first + offset] += potential;
                }
            }
        }
        Outcome { closest, potentials }
    }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
struct SplitMix(u64);

impl SplitMix {
    /// A number in [0, 1) with 53 random bits.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
