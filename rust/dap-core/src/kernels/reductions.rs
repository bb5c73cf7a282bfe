//! Reductions of a kernel over the rows of y, one value for each row of x.

use super::pairs::{Tile, X_ROWS};
use super::{Bandwidth, Kernel};
use crate::error::{Error, Interrupted, Result};
use crate::simd::Level;
use crate::{Matrix, waves};

/// Values of y in a tile: 256 KiB, which the L2 cache of any CPU holds.
const Y_VALUES: usize = 1 << 16;

/// Cost of a pair beside its columns: the square root or the exponential.
const PAIR_COST: usize = 64;

/// A check that a long computation calls about ten times a second on the calling thread.
type Check<'a> = &'a mut dyn FnMut() -> std::result::Result<(), Interrupted>;

/// (1/m) Σ_j D(x_i, y_j) for each row i of x, with D the kernel's distance ([module docs](super)).
///
/// The result has the same bits whatever `threads` is (`None`: all CPUs). Relative error about 1e-6.
///
/// # Errors
/// Different columns, a y without rows, a bad number of threads, no memory, or what `check` says.
///
/// ```
/// use dap_core::{Matrix, kernels::{Kernel, mean_distance}};
/// let x = Matrix::new(&[0.0, 0.0], 1, 2)?;
/// let y = Matrix::new(&[3.0, 4.0, 0.0, 1.0], 2, 2)?;
/// assert_eq!(mean_distance(x, y, Kernel::Linear, None, &mut || Ok(()))?, [3.0]);
/// # Ok::<(), dap_core::Error>(())
/// ```
pub fn mean_distance(x: Matrix, y: Matrix, kernel: Kernel, threads: Option<usize>, check: Check) -> Result<Vec<f64>> {
    if y.rows() == 0 {
        return Err(Error::NoRows);
    }
    let mut sums = match kernel {
        Kernel::Linear => sum_over_pairs(x, y, &f64::sqrt, threads, check)?,
        Kernel::Rbf(bandwidth) => {
            let distance = |squared| (-2.0 * bandwidth.exponent(squared).exp_m1()).sqrt();
            sum_over_pairs(x, y, &distance, threads, check)?
        }
    };
    let count = y.rows() as f64;
    sums.iter_mut().for_each(|sum| *sum /= count);
    Ok(sums)
}

/// Σ_j k(x_i, y_j) for each row i of x; zeros where y has no rows.
///
/// The linear kernel's is x_i · Σ_j y_j, in float64. The same bits whatever `threads` is.
///
/// # Errors
/// Different columns, a bad number of threads, no memory, or what `check` says.
///
/// ```
/// use dap_core::{Matrix, kernels::{Kernel, row_sums}};
/// let x = Matrix::new(&[1.0, 2.0], 1, 2)?;
/// let y = Matrix::new(&[3.0, 4.0, 0.0, 1.0], 2, 2)?;
/// assert_eq!(row_sums(x, y, Kernel::Linear, None, &mut || Ok(()))?, [13.0]);
/// # Ok::<(), dap_core::Error>(())
/// ```
pub fn row_sums(x: Matrix, y: Matrix, kernel: Kernel, threads: Option<usize>, check: Check) -> Result<Vec<f64>> {
    match kernel {
        Kernel::Linear => dot_with_sum(x, y, threads, check),
        Kernel::Rbf(bandwidth) => sum_over_pairs(x, y, &gaussian(bandwidth), threads, check),
    }
}

fn gaussian(bandwidth: Bandwidth) -> impl Fn(f64) -> f64 {
    move |squared| bandwidth.exponent(squared).exp()
}

/// Σ_j value(‖x_i − y_j‖²), in tiles whose size depends on the columns alone.
fn sum_over_pairs<F: Fn(f64) -> f64 + Sync>(
    x: Matrix,
    y: Matrix,
    value: &F,
    threads: Option<usize>,
    check: Check,
) -> Result<Vec<f64>> {
    let mut sums = zeros(x, y)?;
    let y_rows = (Y_VALUES / x.columns().max(1)).clamp(1, 1024);
    let (x_tiles, y_tiles) = (x.rows().div_ceil(X_ROWS), y.rows().div_ceil(y_rows));
    let cost = (X_ROWS * y_rows).saturating_mul(x.columns().saturating_add(PAIR_COST));
    let level = Level::detect();
    let tile = |index: usize| {
        let (x, y) = (x.block(index / y_tiles * X_ROWS, X_ROWS), y.block(index % y_tiles * y_rows, y_rows));
        level.run(Tile { x, y, value })
    };
    waves::run(x_tiles.saturating_mul(y_tiles), cost, threads, check, tile, |index, partial| {
        for (sum, partial) in sums[index / y_tiles * X_ROWS..].iter_mut().zip(partial) {
            *sum += partial;
        }
    })?;
    Ok(sums)
}

fn dot_with_sum(x: Matrix, y: Matrix, threads: Option<usize>, check: Check) -> Result<Vec<f64>> {
    let mut dots = zeros(x, y)?;
    if dots.is_empty() {
        return Ok(dots); // without any row the columns may be more than memory holds
    }
    let mut total = vec![0.0_f64; y.columns()];
    for row in 0..y.rows() {
        for (total, value) in total.iter_mut().zip(y.row(row)) {
            *total += f64::from(*value);
        }
        if row % (Y_VALUES / y.columns().max(1)).max(1) == 0 {
            check()?;
        }
    }
    let dot = |row: usize| x.row(row).iter().zip(&total).map(|(a, b)| f64::from(*a) * b).sum::<f64>();
    waves::run(x.rows(), x.columns().saturating_add(PAIR_COST), threads, check, dot, |row, dot| dots[row] = dot)?;
    Ok(dots)
}

/// A zero for each row of x, after the shapes were checked.
fn zeros(x: Matrix, y: Matrix) -> Result<Vec<f64>> {
    if x.columns() != y.columns() {
        return Err(Error::Columns { x: x.columns(), y: y.columns() });
    }
    let mut values = Vec::new();
    values.try_reserve_exact(x.rows()).map_err(|_| Error::Memory(x.rows()))?;
    values.resize(x.rows(), 0.0);
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;

    fn values(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn kernels() -> [Kernel; 3] {
        [Kernel::Linear, Kernel::rbf(0.7).unwrap(), Kernel::rbf(20.0).unwrap()]
    }

    #[test]
    fn both_reductions_follow_the_definition() {
        for (n, m, d) in [(1, 1, 1), (3, 5, 7), (17, 33, 16), (40, 1100, 3), (21, 9, 9000), (2, 3, 0)] {
            let (x, y) = (values(n * d, 1), values(m * d, 2));
            let (x, y) = (Matrix::new(&x, n, d).unwrap(), Matrix::new(&y, m, d).unwrap());
            for kernel in kernels() {
                let means = mean_distance(x, y, kernel, Some(2), &mut || Ok(())).unwrap();
                let sums = row_sums(x, y, kernel, Some(2), &mut || Ok(())).unwrap();
                assert_eq!((means.len(), sums.len()), (n, n));
                for i in 0..n {
                    let over_y =
                        |f: fn(&[f32], &[f32], Kernel) -> f64| (0..m).map(move |j| f(x.row(i), y.row(j), kernel));
                    let mean = over_y(reference::distance).sum::<f64>() / m as f64;
                    let scale = over_y(reference::value).map(f64::abs).sum::<f64>() + 1e-9;
                    assert!(
                        (means[i] - mean).abs() <= 3e-6 * mean + 1e-7,
                        "{kernel:?} {n} {m} {d}: {} {mean}",
                        means[i]
                    );
                    let sum = over_y(reference::value).sum::<f64>();
                    assert!((sums[i] - sum).abs() <= 3e-6 * scale, "{kernel:?} {n} {m} {d}: {} {sum}", sums[i]);
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let (x, y) = (values(37 * 130, 3), values(2100 * 130, 4));
        let (x, y) = (Matrix::new(&x, 37, 130).unwrap(), Matrix::new(&y, 2100, 130).unwrap());
        for kernel in kernels() {
            for reduce in [mean_distance, row_sums] {
                let one = reduce(x, y, kernel, Some(1), &mut || Ok(())).unwrap();
                for threads in [Some(2), Some(3), None] {
                    assert_eq!(reduce(x, y, kernel, threads, &mut || Ok(())).unwrap(), one, "{kernel:?} {threads:?}");
                }
            }
        }
    }

    #[test]
    fn near_points_keep_their_digits() {
        let (x, y) = ([1e4_f32, 1e4], [1e4_f32, 1e4 + 0.25]);
        let (x, y) = (Matrix::new(&x, 1, 2).unwrap(), Matrix::new(&y, 1, 2).unwrap());
        assert_eq!(mean_distance(x, y, Kernel::Linear, None, &mut || Ok(())).unwrap(), [0.25]);
        let wide = Kernel::rbf(1e6).unwrap(); // here 2 − 2k in float64 has two digits left
        let near = mean_distance(x, y, wide, None, &mut || Ok(())).unwrap()[0];
        assert!((near / 0.25e-6 - 1.0).abs() < 1e-9, "{near}");
    }

    #[test]
    fn extreme_bandwidths_stay_finite() {
        let data = [0.0_f32, 0.0, 1.0];
        let (x, y) = (Matrix::new(&data[..1], 1, 1).unwrap(), Matrix::new(&data[1..], 2, 1).unwrap());
        for bandwidth in [f64::MIN_POSITIVE, 1e-200] {
            let kernel = Kernel::rbf(bandwidth).unwrap();
            assert_eq!(row_sums(x, y, kernel, None, &mut || Ok(())).unwrap(), [1.0]);
            assert_eq!(mean_distance(x, y, kernel, None, &mut || Ok(())).unwrap(), [0.5 * 2.0_f64.sqrt()]);
        }
    }

    #[test]
    fn empty_and_unequal_inputs() {
        let none = Matrix::new(&[], 0, 2).unwrap();
        let two = Matrix::new(&[1.0, 2.0, 3.0, 4.0], 2, 2).unwrap();
        let flat = Matrix::new(&[1.0], 1, 1).unwrap();
        for kernel in kernels() {
            assert_eq!(mean_distance(two, none, kernel, None, &mut || Ok(())), Err(Error::NoRows));
            assert_eq!(mean_distance(none, two, kernel, None, &mut || Ok(())), Ok(vec![]));
            assert_eq!(row_sums(two, none, kernel, None, &mut || Ok(())), Ok(vec![0.0, 0.0]));
            for reduce in [mean_distance, row_sums] {
                assert_eq!(reduce(two, flat, kernel, None, &mut || Ok(())), Err(Error::Columns { x: 2, y: 1 }));
                assert_eq!(reduce(two, two, kernel, Some(0), &mut || Ok(())), Err(Error::Threads { threads: 0 }));
            }
        }
    }

    #[test]
    fn nan_stays_in_its_row() {
        let x = Matrix::new(&[f32::NAN, 1.0], 2, 1).unwrap();
        let y = Matrix::new(&[2.0, 3.0], 2, 1).unwrap();
        for kernel in kernels() {
            for reduce in [mean_distance, row_sums] {
                let sums = reduce(x, y, kernel, None, &mut || Ok(())).unwrap();
                assert!(sums[0].is_nan() && sums[1].is_finite(), "{kernel:?} {sums:?}");
            }
        }
    }
}
