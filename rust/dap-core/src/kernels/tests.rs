//! Every kernel and reduction, type and SIMD level against the definitions of [`reference`].

use half::{bf16, f16};

use super::kernel::Form;
use super::*;
use crate::Matrix;
use crate::error::Error;
use crate::matrix::Values;
use crate::simd::Level;

fn kernels() -> Vec<Kernel> {
    let kernels: [(&str, &[f64]); 15] = [
        ("linear", &[]),
        ("cosine", &[]),
        ("polynomial", &[1.0, 0.0]),
        ("polynomial", &[3.0, 0.7]),
        ("rbf", &[0.7]),
        ("rbf", &[20.0]),
        ("laplacian", &[3.0]),
        ("exponential", &[1.5]),
        ("inverse_multiquadric", &[0.8]),
        ("rational_quadratic", &[0.4, 1.3]),
        ("rational_quadratic", &[3.0, 0.9]),
        ("matern", &[1.5, 1.1]),
        ("matern", &[2.5, 1.1]),
        ("matern", &[2.5, 90.0]),
        ("distance", &[]),
    ];
    kernels.into_iter().map(|(name, parameters)| Kernel::new(name, parameters).unwrap()).collect()
}

/// Numbers in [−1, 1) that float32 holds, with the last row a copy of the first.
fn numbers(rows: usize, columns: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        f64::from((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    let mut values: Vec<f64> = (0..rows * columns).map(|_| next()).collect();
    if rows > 1 {
        values.copy_within(0..columns, (rows - 1) * columns);
    }
    values
}

/// A matrix of a type, and the values that it holds as float64.
struct Stored {
    single: Vec<f32>,
    half: Vec<f16>,
    brain: Vec<bf16>,
    exact: Vec<f64>,
    kind: usize,
    rows: usize,
    columns: usize,
}

impl Stored {
    fn new(values: &[f64], rows: usize, columns: usize, kind: usize) -> Self {
        let (mut single, mut half, mut brain) = (vec![], vec![], vec![]);
        let exact = match kind {
            0 => {
                single = values.iter().map(|value| *value as f32).collect();
                single.iter().map(|value| f64::from(*value)).collect()
            }
            1 => values.to_vec(),
            2 => {
                half = values.iter().map(|value| f16::from_f64(*value)).collect();
                half.iter().map(|value| value.to_f64()).collect()
            }
            _ => {
                brain = values.iter().map(|value| bf16::from_f64(*value)).collect();
                brain.iter().map(|value| value.to_f64()).collect()
            }
        };
        Self { single, half, brain, exact, kind, rows, columns }
    }

    fn matrix(&self) -> Matrix<'_> {
        let values = match self.kind {
            0 => Values::Float32(&self.single),
            1 => Values::Float64(&self.exact),
            2 => Values::Float16(&self.half),
            _ => Values::Bfloat16(&self.brain),
        };
        Matrix::new(values, self.rows, self.columns).unwrap()
    }

    fn row(&self, index: usize) -> &[f64] {
        &self.exact[index * self.columns..(index + 1) * self.columns]
    }
}

/// An error that rounding explains: of a pair's kernel, relative to what it is made of.
fn tolerance(x: &[f64], y: &[f64], kernel: Kernel, double: bool) -> f64 {
    let epsilon = if double { 1e-13 } else { 4e-6 };
    let norm = |row: &[f64]| row.iter().map(|a| a * a).sum::<f64>().sqrt();
    epsilon
        * match kernel.0 {
            Form::Linear => norm(x) * norm(y) + 1e-9,
            Form::Polynomial { degree, c } => f64::from(degree) * (norm(x) * norm(y) + c).powi(degree) + 1e-9,
            Form::Distance => norm(x) + norm(y) + 1e-9,
            // The exponent's relative error becomes an absolute one of its value: |exponent| e^−|exponent| ≤ 1/e.
            Form::InverseMultiquadric { c } => 1.0 / c,
            _ => 1.0,
        }
}

fn each_case(check: impl Fn(&Stored, &Stored, Kernel, &str)) {
    let shapes = [(1, 1, 1), (3, 5, 7), (17, 33, 16), (230, 460, 3), (21, 9, 700), (2, 3, 0), (33, 300, 65)];
    for level in Level::available() {
        level.within(|| {
            for (n, m, d) in shapes {
                for kind in 0..4 {
                    let x = Stored::new(&numbers(n, d, 1), n, d, kind);
                    let y = Stored::new(&numbers(m, d, if n > 5 { 2 } else { 1 }), m, d, kind);
                    for kernel in kernels() {
                        check(&x, &y, kernel, &format!("{level:?} {n}x{m}x{d} type {kind} {kernel:?}"));
                    }
                }
            }
        });
    }
}

fn go_on() -> impl FnMut() -> std::result::Result<(), crate::Interrupted> {
    || Ok(())
}

#[test]
fn row_sums_and_gram_follow_the_definition() {
    each_case(|x, y, kernel, case| {
        let (n, m) = (x.rows, y.rows);
        let sums = row_sums(x.matrix(), Some(y.matrix()), &[kernel], None, Some(2), &mut go_on()).unwrap();
        let pairs = pair_sums(x.matrix(), Some(y.matrix()), &[kernel], Some(2), &mut go_on()).unwrap();
        let weights: Vec<f64> = numbers(m, 17, 9);
        let weighted =
            row_sums(x.matrix(), Some(y.matrix()), &[kernel], Some((&weights, 17)), Some(2), &mut go_on()).unwrap();
        let mut single = vec![0.0_f32; n * m];
        let mut double = vec![0.0_f64; n * m];
        if x.kind == 1 {
            gram(x.matrix(), Some(y.matrix()), &[kernel], &mut double, Some(2), &mut go_on()).unwrap();
        } else {
            gram(x.matrix(), Some(y.matrix()), &[kernel], &mut single, Some(2), &mut go_on()).unwrap();
            double = single.iter().map(|value| f64::from(*value)).collect();
        }
        let (mut columns, mut squares, mut allowed_squares) = (vec![(0.0, 0.0); m], 0.0, 0.0);
        for i in 0..n {
            let (mut sum, mut allowed) = (0.0, 0.0);
            let mut by_weight = [0.0; 17];
            for j in 0..m {
                let value = reference::value(x.row(i), y.row(j), kernel);
                let near = tolerance(x.row(i), y.row(j), kernel, x.kind == 1);
                let got = double[i * m + j];
                assert!((got - value).abs() <= near, "{case}: gram {i},{j} is {got}, not {value}");
                sum += value;
                allowed += near;
                columns[j].0 += value;
                columns[j].1 += near;
                squares += value * value;
                allowed_squares += 3.0 * near * (value.abs() + near);
                (0..17).for_each(|column| by_weight[column] += value * weights[j * 17 + column]);
            }
            for got in [sums[i], pairs.rows[i]] {
                assert!((got - sum).abs() <= allowed, "{case}: sum {i} is {got}, not {sum}");
            }
            for (column, sum) in by_weight.into_iter().enumerate() {
                let got = weighted[i * 17 + column];
                assert!((got - sum).abs() <= 2.0 * allowed, "{case}: weighted {i},{column} is {got}, not {sum}");
            }
        }
        for (got, (sum, allowed)) in pairs.columns.iter().zip(columns) {
            assert!((got - sum).abs() <= allowed, "{case}: a column is {got}, not {sum}");
        }
        assert!((pairs.squares - squares).abs() <= allowed_squares + 1e-12, "{case}: squares {}", pairs.squares);
    });
}

#[test]
fn mean_distances_follow_the_definition() {
    each_case(|x, y, kernel, case| {
        let means = mean_distance(x.matrix(), Some(y.matrix()), &[kernel], None, Some(2), &mut go_on()).unwrap();
        let (y_rows, weights) = (Some(y.matrix()), numbers(y.rows, 1, 8));
        let weighted = mean_distance(x.matrix(), y_rows, &[kernel], Some(&weights), Some(2), &mut go_on()).unwrap();
        for (i, got) in means.iter().enumerate() {
            let distance = |j: usize| reference::distance(x.row(i), y.row(j), kernel);
            let mean = (0..y.rows).map(distance).sum::<f64>() / y.rows as f64;
            // The definition itself loses digits at near points: the root of its rounding.
            let largest = (0..y.rows).map(|j| reference::value(y.row(j), y.row(j), kernel)).fold(0.0, f64::max);
            let allowed =
                if x.kind == 1 { 1e-12 } else { 6e-6 } * (mean + largest.sqrt() * 1e-3) + 3e-8 * largest.sqrt();
            assert!((got - mean).abs() <= allowed, "{case}: mean {i} is {got}, not {mean}");
            let sum = (0..y.rows).map(|j| weights[j] * distance(j)).sum::<f64>();
            assert!((weighted[i] - sum).abs() <= allowed * y.rows as f64, "{case}: weighted {i}, not {sum}");
        }
    });
}

#[test]
fn a_matrix_with_itself_is_symmetric_and_the_same_as_with_its_copy() {
    for level in Level::available() {
        level.within(|| {
            for (n, d) in [(1, 3), (50, 9), (700, 40)] {
                let x = Stored::new(&numbers(n, d, 3), n, d, 0);
                for kernel in kernels() {
                    let of = |y: Option<Matrix>| {
                        let mut out = vec![0.0_f32; n * n];
                        gram(x.matrix(), y, &[kernel], &mut out, Some(2), &mut go_on()).unwrap();
                        let sums = row_sums(x.matrix(), y, &[kernel], None, Some(2), &mut go_on()).unwrap();
                        (out, sums, pair_sums(x.matrix(), y, &[kernel], Some(2), &mut go_on()).unwrap())
                    };
                    let ((half, sums, pairs), (full, all_sums, all_pairs)) = (of(None), of(Some(x.matrix())));
                    for i in 0..n {
                        for j in 0..i {
                            assert_eq!(half[i * n + j], half[j * n + i], "{level:?} {kernel:?} {i} {j}");
                        }
                    }
                    let size: f64 = full.iter().map(|value| f64::from(value.abs())).sum();
                    let largest = full.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
                    assert!(half.iter().zip(&full).all(|(a, b)| (a - b).abs() <= 4e-6 * largest), "{kernel:?}");
                    let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-6 * size);
                    assert!(close(&sums, &all_sums) && close(&pairs.rows, &all_pairs.rows), "{level:?} {kernel:?}");
                    assert!(close(&pairs.columns, &all_pairs.columns), "{level:?} {kernel:?}");
                    assert!((pairs.squares / all_pairs.squares - 1.0).abs() < 1e-5, "{level:?} {kernel:?}");
                }
            }
        });
    }
}

#[test]
fn chunks_of_rows_meet_each_other_once() {
    let (n, d) = (470, 4700); // a block is all that a chunk holds at this width
    let x = Stored::new(&numbers(n, d, 9), n, d, 0);
    let kernel = [Kernel::new("distance", &[]).unwrap()];
    let mut values = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            values[i * n + j] = reference::value(x.row(i), x.row(j), kernel[0]);
            values[j * n + i] = values[i * n + j];
        }
    }
    let expected: Vec<f64> = values.chunks_exact(n).map(|row| row.iter().sum()).collect();
    for level in Level::available() {
        level.within(|| {
            for y in [None, Some(x.matrix())] {
                let mut matrix = vec![0.0_f32; n * n];
                gram(x.matrix(), y, &kernel, &mut matrix, Some(2), &mut go_on()).unwrap();
                assert!(matrix.iter().zip(&values).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-3), "{level:?}");
                let sums = row_sums(x.matrix(), y, &kernel, None, Some(2), &mut go_on()).unwrap();
                assert!(sums.iter().zip(&expected).all(|(a, b)| (a / b - 1.0).abs() < 1e-6), "{level:?}");
            }
            let (_, rows) = nearest(x.matrix(), None, None, 1, Some(2), &mut go_on()).unwrap();
            // The last row is a copy of the first, which comes before it.
            assert!(rows.iter().enumerate().all(|(i, row)| *row as usize == i % (n - 1)), "{level:?}");
        });
    }
}

#[test]
fn a_sum_of_kernels_is_the_sum_of_their_values() {
    let (x, y) = (Stored::new(&numbers(40, 6, 4), 40, 6, 1), Stored::new(&numbers(90, 6, 5), 90, 6, 1));
    let all = kernels();
    let together = row_sums(x.matrix(), Some(y.matrix()), &all, None, None, &mut go_on()).unwrap();
    let mut apart = vec![0.0; 40];
    for kernel in &all {
        let sums = row_sums(x.matrix(), Some(y.matrix()), &[*kernel], None, None, &mut go_on()).unwrap();
        apart.iter_mut().zip(sums).for_each(|(all, sum)| *all += sum);
    }
    for (a, b) in together.iter().zip(apart) {
        assert!((a - b).abs() <= 1e-10 * b.abs(), "{a} {b}");
    }
}

#[test]
fn neighbours_are_those_of_a_sort() {
    each_case(|x, y, kernel, case| {
        let count = y.rows.min(4);
        for kernels in [None, Some(&[kernel][..])] {
            let (values, rows) = nearest(x.matrix(), Some(y.matrix()), kernels, count, Some(2), &mut go_on()).unwrap();
            for i in 0..x.rows {
                let key = |j: usize| match kernels {
                    Some(_) => -reference::value(x.row(i), y.row(j), kernel),
                    None => x.row(i).iter().zip(y.row(j)).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt(),
                };
                let mut sorted: Vec<usize> = (0..y.rows).collect();
                sorted.sort_by(|a, b| key(*a).total_cmp(&key(*b)));
                let neighbours = &rows[i * count..(i + 1) * count];
                for (place, row) in neighbours.iter().enumerate() {
                    let near = tolerance(x.row(i), y.row(*row as usize), kernel, x.kind == 1) + 1e-6;
                    let (got, want) = (key(*row as usize), key(sorted[place]));
                    assert!((got - want).abs() <= 2.0 * near, "{case}: place {place} of {i} is {got}, not {want}");
                    let value = values[i * count + place].abs();
                    assert!((value - got.abs()).abs() <= near, "{case}: value {value}, not {got}");
                    assert!(!neighbours[..place].contains(row), "{case}: {row} twice");
                }
            }
        }
    });
}

#[test]
fn of_equal_neighbours_the_first_comes_first() {
    let y = Stored::new(&[2.0, 1.0, 2.0, 1.0, 1.0], 5, 1, 0);
    let x = Stored::new(&[1.0], 1, 1, 0);
    let (values, rows) = nearest(x.matrix(), Some(y.matrix()), None, 5, None, &mut go_on()).unwrap();
    assert_eq!((values, rows), (vec![0.0, 0.0, 0.0, 1.0, 1.0], vec![1, 3, 4, 0, 2]));
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let (x, y) = (Stored::new(&numbers(530, 130, 6), 530, 130, 0), Stored::new(&numbers(2100, 130, 7), 2100, 130, 0));
    let weights = numbers(2100, 3, 8);
    for kernel in kernels() {
        let compute = |threads: usize| {
            let (x, y, kernel, threads) = (x.matrix(), Some(y.matrix()), [kernel], Some(threads));
            (
                row_sums(x, y, &kernel, None, threads, &mut go_on()).unwrap(),
                row_sums(x, y, &kernel, Some((&weights, 3)), threads, &mut go_on()).unwrap(),
                mean_distance(x, None, &kernel, None, threads, &mut go_on()).unwrap(),
                mean_distance(x, y, &kernel, Some(&weights[..2100]), threads, &mut go_on()).unwrap(),
                pair_sums(x, None, &kernel, threads, &mut go_on()).unwrap(),
                nearest(x, y, Some(&kernel), 3, threads, &mut go_on()).unwrap(),
            )
        };
        let expected = compute(1);
        assert!(expected == compute(2) && expected == compute(3), "{kernel:?}");
    }
}

#[test]
fn a_common_offset_costs_no_digits() {
    for level in Level::available() {
        level.within(|| {
            let near =
                |seed| numbers(60, 50, seed).iter().map(|value| (value * 64.0).round() / 64.0).collect::<Vec<_>>();
            let (x, y) = (near(1), near(2));
            let far = |values: &[f64]| Stored::new(&values.iter().map(|v| v + 1e4).collect::<Vec<_>>(), 60, 50, 0);
            for kernel in kernels().into_iter().filter(|k| !matches!(k.0, Form::Cosine | Form::Polynomial { .. })) {
                let means = |x: &Stored, y: &Stored| {
                    mean_distance(x.matrix(), Some(y.matrix()), &[kernel], None, None, &mut go_on()).unwrap()
                };
                let plain = means(&Stored::new(&x, 60, 50, 1), &Stored::new(&y, 60, 50, 1));
                for (a, b) in means(&far(&x), &far(&y)).iter().zip(plain) {
                    assert!((a / b - 1.0).abs() < 3e-6, "{level:?} {kernel:?}: {a} {b}");
                }
            }
        });
    }
}

#[test]
fn near_points_keep_their_digits() {
    let x = Stored::new(&[1e4, 1e4], 1, 2, 0);
    let y = Stored::new(&[1e4, 1e4 + 0.25], 1, 2, 0);
    let mean = |name, parameters: &[f64]| {
        let kernel = Kernel::new(name, parameters).unwrap();
        mean_distance(x.matrix(), Some(y.matrix()), &[kernel], None, None, &mut go_on()).unwrap()[0]
    };
    assert_eq!(mean("linear", &[]), 0.25);
    for (name, parameters, want) in [
        ("rbf", vec![1e6], 0.25e-6), // here 2 − 2k in float64 has two digits left
        ("laplacian", vec![1e6], 0.5e-6_f64.sqrt()),
        ("exponential", vec![1e6], 0.5e-6_f64.sqrt()),
        ("matern", vec![1.5, 1e6], 3.0_f64.sqrt() * 0.25e-6),
        ("matern", vec![2.5, 1e6], (5.0_f64 / 3.0).sqrt() * 0.25e-6),
        ("rational_quadratic", vec![2.0, 1e6], 0.25e-6),
        ("inverse_multiquadric", vec![1e3], 0.25 * 1e3_f64.powf(-1.5)),
        ("distance", vec![], 0.5_f64.sqrt()),
    ] {
        let got = mean(name, &parameters);
        assert!((got / want - 1.0).abs() < 2e-6, "{name}: {got} {want}");
    }
}

#[test]
fn extreme_bandwidths_stay_finite() {
    let (x, y) = (Stored::new(&[0.0], 1, 1, 0), Stored::new(&[0.0, 1.0], 2, 1, 0));
    for name in ["rbf", "laplacian", "exponential"] {
        for bandwidth in [f64::MIN_POSITIVE, 1e-200, 1e-30] {
            let kernel = [Kernel::new(name, &[bandwidth]).unwrap()];
            let sums = row_sums(x.matrix(), Some(y.matrix()), &kernel, None, None, &mut go_on()).unwrap();
            assert_eq!(sums, [1.0], "{name} {bandwidth}");
            let means = mean_distance(x.matrix(), Some(y.matrix()), &kernel, None, None, &mut go_on()).unwrap();
            assert!((means[0] - 0.5 * 2.0_f64.sqrt()).abs() < 1e-7, "{name} {bandwidth}: {means:?}");
        }
    }
}

#[test]
fn empty_and_unequal_inputs() {
    let none = Stored::new(&[], 0, 2, 0);
    let two = Stored::new(&[1.0, 2.0, 3.0, 4.0], 2, 2, 0);
    let flat = Stored::new(&[1.0], 1, 1, 0);
    let (none, two, flat) = (none.matrix(), two.matrix(), flat.matrix());
    let mut out = [0.0_f32; 2];
    for kernel in kernels() {
        let kernel = &[kernel][..];
        assert_eq!(mean_distance(two, Some(none), kernel, None, None, &mut go_on()), Err(Error::NoRows));
        assert_eq!(mean_distance(none, Some(two), kernel, None, None, &mut go_on()), Ok(vec![]));
        assert_eq!(row_sums(two, Some(none), kernel, None, None, &mut go_on()), Ok(vec![0.0, 0.0]));
        assert_eq!(row_sums(two, Some(two), kernel, Some((&[], 0)), None, &mut go_on()), Ok(vec![]));
        let columns = Err(Error::Columns { x: 2, y: 1 });
        assert_eq!(row_sums(two, Some(flat), kernel, None, None, &mut go_on()), columns);
        assert_eq!(mean_distance(two, Some(flat), kernel, None, None, &mut go_on()), columns);
        let threads = Err(Error::Threads { threads: 0, max: 1024 });
        assert_eq!(row_sums(two, Some(two), kernel, None, Some(0), &mut go_on()), threads);
        let wrong = row_sums(two, Some(two), kernel, Some((&[1.0], 1)), None, &mut go_on());
        assert_eq!(wrong, Err(Error::Shape { rows: 2, columns: 1, len: 1 }));
        assert!(gram(two, None, kernel, &mut out, None, &mut go_on()).is_err());
        let few = nearest(two, None, Some(kernel), 3, None, &mut go_on());
        assert_eq!(few, Err(Error::Neighbours { count: 3, rows: 2 }));
        assert_eq!(nearest(two, None, Some(kernel), 0, None, &mut go_on()), Ok((vec![], vec![])));
    }
    assert_eq!(row_sums(two, None, &[], None, None, &mut go_on()), Err(Error::NoKernel));
    assert_eq!(gram(two, Some(flat), &[], &mut [0.0_f64; 2], None, &mut go_on()), Err(Error::OutType));
}

#[test]
fn a_row_with_nan_or_infinity_is_a_row_of_nan() {
    for level in Level::available() {
        level.within(|| {
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                for kind in 0..4 {
                    let mut values = numbers(70, 5, 1);
                    values[42 * 5 + 2] = bad;
                    let (good, bad) = (Stored::new(&numbers(9, 5, 2), 9, 5, kind), Stored::new(&values, 70, 5, kind));
                    for kernel in kernels() {
                        let sums = |x: &Stored, y: &Stored| {
                            let mut check = go_on();
                            let mut sums =
                                row_sums(x.matrix(), Some(y.matrix()), &[kernel], None, None, &mut check).unwrap();
                            sums.extend(
                                mean_distance(x.matrix(), Some(y.matrix()), &[kernel], None, None, &mut check).unwrap(),
                            );
                            sums
                        };
                        let x_is_bad: Vec<usize> = (0..140).filter(|i| sums(&bad, &good)[*i].is_nan()).collect();
                        assert_eq!(x_is_bad, [42, 112], "{level:?} {kernel:?} {kind}");
                        assert!(sums(&good, &bad).iter().all(|sum| sum.is_nan()), "{level:?} {kernel:?} {kind}");
                        let one = Stored::new(&numbers(1, 5, 2), 1, 5, kind); // nine rows go through tiles, one does not
                        for (x, y) in [(&good, &bad), (&one, &bad), (&bad, &good), (&bad, &one)] {
                            for kernels in [None, Some(&[kernel][..])] {
                                let (x, y) = (x.matrix(), Some(y.matrix()));
                                let (values, rows) = nearest(x, y, kernels, 1, None, &mut go_on()).unwrap();
                                assert!(values.iter().all(|value| value.is_nan()) && rows.len() == x.rows());
                            }
                        }
                    }
                }
            }
        });
    }
}

#[test]
fn kernels_that_are_none_are_refused() {
    for (name, parameters) in [
        ("gaussian", vec![1.0]),
        ("linear", vec![1.0]),
        ("rbf", vec![]),
        ("rbf", vec![-1.0]),
        ("rbf", vec![f64::NAN]),
        ("polynomial", vec![1.5, 0.0]),
        ("polynomial", vec![2.0, -1.0]),
        ("polynomial", vec![65.0, 0.0]),
        ("inverse_multiquadric", vec![0.0]),
        ("rational_quadratic", vec![1.0]),
        ("matern", vec![0.5, 1.0]),
    ] {
        assert!(Kernel::new(name, &parameters).is_err(), "{name} {parameters:?}");
    }
}

/// Chunks of y: more rows than are packed at once.
#[test]
fn many_rows_of_y() {
    let x = Stored::new(&numbers(3, 1, 1), 3, 1, 0);
    let y = Stored::new(&numbers(150_000, 1, 2), 150_000, 1, 0);
    let kernel = [Kernel::new("rbf", &[0.5]).unwrap()];
    let sums = row_sums(x.matrix(), Some(y.matrix()), &kernel, None, None, &mut go_on()).unwrap();
    let pairs = pair_sums(y.matrix(), Some(x.matrix()), &kernel, None, &mut go_on()).unwrap();
    for (i, (by_row, by_column)) in sums.iter().zip(&pairs.columns).enumerate() {
        let sum: f64 = (0..150_000).map(|j| reference::value(x.row(i), y.row(j), kernel[0])).sum();
        assert!((by_row / sum - 1.0).abs() < 1e-6 && (by_column / sum - 1.0).abs() < 1e-6, "{by_row} {sum}");
    }
}
