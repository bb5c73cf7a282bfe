//! Clustering against the definitions, at every SIMD level, for one and more threads.

use super::*;
use crate::kernels::{Kernel, reference, row_sums};
use crate::matrix::{Matrix, Values};
use crate::simd::Level;

fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        f64::from((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..count).map(|_| next()).collect()
}

fn at_every_level(test: impl Fn(Option<usize>)) {
    for level in Level::available() {
        level.within(|| test(Some(1)));
    }
    test(Some(3));
}

fn squared(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// Lloyd's algorithm by its definition, until no label changes.
fn lloyd(rows: &[&[f64]], start: &[f64], clusters: usize) -> (Vec<f64>, Vec<i64>) {
    let columns = rows[0].len();
    let (mut centers, mut labels) = (start.to_vec(), Vec::new());
    loop {
        let distance = |row: &[f64], cluster: usize| squared(row, &centers[cluster * columns..][..columns]);
        let nearest =
            |row: &&[f64]| (0..clusters).min_by(|a, b| distance(row, *a).total_cmp(&distance(row, *b))).unwrap() as i64;
        let new: Vec<i64> = rows.iter().map(nearest).collect();
        if new == labels {
            return (centers, labels);
        }
        labels = new;
        for cluster in 0..clusters {
            let members: Vec<&[f64]> =
                rows.iter().zip(&labels).filter(|(_, label)| **label == cluster as i64).map(|(row, _)| *row).collect();
            for column in 0..columns {
                centers[cluster * columns + column] =
                    members.iter().map(|row| row[column]).sum::<f64>() / members.len() as f64;
            }
        }
    }
}

#[test]
fn k_means_is_lloyds_algorithm() {
    for (rows, columns, clusters) in [(700, 3, 17), (900, 65, 5), (40, 301, 40)] {
        let values = numbers(rows * columns, 1);
        let single: Vec<f32> = values.iter().map(|value| *value as f32).collect();
        let (expected, labels) =
            lloyd(&values.chunks(columns).collect::<Vec<_>>(), &values[..clusters * columns], clusters);
        let inertia: f64 = values
            .chunks(columns)
            .zip(&labels)
            .map(|(row, label)| squared(row, &expected[*label as usize * columns..][..columns]))
            .sum();
        at_every_level(|threads| {
            for (stored, tolerance) in [(Values::Float64(&values), 1e-12), (Values::Float32(&single), 1e-5)] {
                let x = Matrix::new(stored, rows, columns).unwrap();
                let result =
                    k_means(x, &values[..clusters * columns], clusters, 500, 0.0, threads, &mut || Ok(())).unwrap();
                assert_eq!(result.labels, labels);
                assert!((result.inertia - inertia).abs() <= tolerance * inertia.max(1.0));
                assert!(squared(&result.centers, &expected) < 1e-8);
            }
        });
    }
}

#[test]
fn an_empty_cluster_takes_the_farthest_row() {
    let values = [0.0, 1.0, 2.0, 30.0];
    let x = Matrix::new(Values::Float64(&values), 4, 1).unwrap();
    let result = k_means(x, &[1.0, 1000.0], 2, 300, 0.0, None, &mut || Ok(())).unwrap();
    assert_eq!((result.centers, result.labels), (vec![1.0, 30.0], vec![0, 0, 0, 1]));
    let same = Matrix::new(Values::Float64(&[5.0; 3]), 3, 1).unwrap();
    let result = k_means(same, &[5.0, 6.0], 2, 300, 0.0, None, &mut || Ok(())).unwrap();
    assert_eq!((result.labels, result.inertia), (vec![0; 3], 0.0)); // no row can be moved
}

#[test]
fn plus_plus_draws_by_squared_distance() {
    // Two far rows among many at the origin: of 2,000 second draws nearly all the ones by weight 4 : 1.
    let mut values = vec![0.0_f32; 600];
    (values[100], values[599]) = (2.0, 1.0);
    let x = Matrix::new(Values::Float32(&values), 600, 1).unwrap();
    let mut drawn = [0, 0];
    for seed in 0..2000 {
        let chosen = plus_plus(x, 2, 1, seed, Some(1), &mut || Ok(())).unwrap();
        if chosen[0] != 100 && chosen[0] != 599 {
            drawn[usize::from(chosen[1] == 100)] += i32::from(chosen[1] == 100 || chosen[1] == 599);
        }
    }
    let share = f64::from(drawn[1]) / f64::from(drawn[0] + drawn[1]);
    assert!(drawn[0] + drawn[1] > 1950 && (share - 0.8).abs() < 0.04, "{drawn:?}");
}

#[test]
fn plus_plus_takes_the_best_trial_and_different_rows() {
    let values = numbers(500 * 4, 3);
    let single: Vec<f32> = values.iter().map(|value| *value as f32).collect();
    let x = Matrix::new(Values::Float32(&single), 500, 4).unwrap();
    let potential = |chosen: &[i64]| -> f64 {
        let row = |index: usize| &values[index * 4..][..4];
        let nearest = |i: usize| chosen.iter().map(|c| squared(row(i), row(*c as usize))).fold(f64::INFINITY, f64::min);
        (0..500).map(nearest).sum()
    };
    let mean = |trials| {
        (0..40).map(|seed| potential(&plus_plus(x, 10, trials, seed, None, &mut || Ok(())).unwrap())).sum::<f64>()
            / 40.0
    };
    assert!(mean(13) < 0.93 * mean(1), "{} {}", mean(13), mean(1));
    at_every_level(|threads| {
        assert_eq!(plus_plus(x, 30, 13, 7, threads, &mut || Ok(())), plus_plus(x, 30, 13, 7, Some(1), &mut || Ok(())));
    });
    let same = Matrix::new(Values::Float32(&[1.0; 5]), 5, 1).unwrap();
    let mut chosen = plus_plus(same, 5, 2, 0, None, &mut || Ok(())).unwrap();
    chosen.sort_unstable();
    assert_eq!(chosen, [0, 1, 2, 3, 4]);
}

#[test]
fn herding_minimises_the_discrepancy() {
    let (rows, columns) = (60, 5);
    let values = numbers(rows * columns, 9);
    let x = Matrix::new(Values::Float64(&values), rows, columns).unwrap();
    let row = |index: usize| &values[index * columns..][..columns];
    for kernel in [Kernel::new("distance", &[]).unwrap(), Kernel::new("rbf", &[1.0]).unwrap()] {
        let k = |a: usize, b: usize| reference::value(row(a), row(b), kernel);
        let means: Vec<f64> = (0..rows).map(|a| (0..rows).map(|b| k(a, b)).sum::<f64>() / rows as f64).collect();
        let diagonal: Vec<f64> = (0..rows).map(|a| k(a, a)).collect();
        let discrepancy = |set: &[usize]| {
            let within: f64 = set.iter().flat_map(|a| set.iter().map(move |b| (a, b))).map(|(a, b)| k(*a, *b)).sum();
            let n = set.len() as f64;
            within / n / n - 2.0 * set.iter().map(|a| means[*a]).sum::<f64>() / n
        };
        let mut set: Vec<usize> = Vec::new();
        for _ in 0..12 {
            let with = |next: usize| discrepancy(&set.iter().copied().chain([next]).collect::<Vec<_>>());
            let free = (0..rows).filter(|row| !set.contains(row));
            let next = free.min_by(|a, b| with(*a).total_cmp(&with(*b))).unwrap();
            set.push(next);
        }
        let expected: Vec<i64> = set.iter().map(|row| *row as i64).collect();
        at_every_level(|threads| {
            assert_eq!(herding(x, &[kernel], &means, &diagonal, 12, threads, &mut || Ok(())).unwrap(), expected);
        });
    }
}

#[test]
fn farthest_points_by_definition() {
    let values = numbers(300 * 7, 4);
    let x = Matrix::new(Values::Float64(&values), 300, 7).unwrap();
    let row = |index: usize| &values[index * 7..][..7];
    let distance = |chosen: &[usize], i: usize| {
        chosen.iter().map(|c| squared(row(i), row(*c)).sqrt()).fold(f64::INFINITY, f64::min)
    };
    let mut chosen = vec![11];
    while chosen.len() < 9 {
        chosen.push((0..300).max_by(|a, b| distance(&chosen, *a).total_cmp(&distance(&chosen, *b))).unwrap());
    }
    at_every_level(|threads| {
        let (rows, distances) = farthest_points(x, 11, 9, threads, &mut || Ok(())).unwrap();
        assert_eq!(rows, chosen.iter().map(|row| *row as i64).collect::<Vec<_>>());
        assert!((0..300).all(|i| (distances[i] - distance(&chosen, i)).abs() < 1e-12));
    });
}

#[test]
fn lazy_is_plain_greedy() {
    let (rows, columns) = (150, 3);
    let values = numbers(rows * columns, 5);
    let x = Matrix::new(Values::Float64(&values), rows, columns).unwrap();
    let kernel = Kernel::new("rbf", &[0.3]).unwrap();
    let k = |a: usize, b: usize| {
        reference::value(&values[a * columns..][..columns], &values[b * columns..][..columns], kernel)
    };
    let (mut covered, mut chosen) = (vec![0.0_f64; rows], Vec::new());
    for _ in 0..40 {
        let gain = |row: usize| (0..rows).map(|i| (k(i, row) - covered[i]).max(0.0)).sum::<f64>();
        let best = (0..rows).max_by(|a, b| gain(*a).total_cmp(&gain(*b)).then(b.cmp(a))).unwrap();
        (0..rows).for_each(|i| covered[i] = covered[i].max(k(i, best)));
        chosen.push(best as i64);
    }
    at_every_level(|threads| {
        assert_eq!(facility_location(x, &[kernel], 40, threads, &mut || Ok(())).unwrap(), chosen);
    });
    assert_eq!(facility_location(x, &[kernel], rows, None, &mut || Ok(())).unwrap().len(), rows);
}

#[test]
fn few_rows_give_the_kernels_of_the_definition() {
    let (rows, columns) = (700, 67);
    let values = numbers(rows * columns, 6);
    let single: Vec<f32> = values.iter().map(|value| *value as f32).collect();
    let half: Vec<half::f16> = values.iter().map(|value| half::f16::from_f64(*value)).collect();
    let rounded: Vec<f64> = half.iter().map(|value| value.to_f64()).collect();
    let names: [(&str, &[f64]); 8] = [
        ("linear", &[]),
        ("cosine", &[]),
        ("polynomial", &[3.0, 0.7]),
        ("rbf", &[6.0]),
        ("laplacian", &[40.0]),
        ("exponential", &[5.0]),
        ("rational_quadratic", &[0.4, 5.0]),
        ("distance", &[]),
    ];
    let kernels: Vec<Kernel> = names.iter().map(|(name, values)| Kernel::new(name, values).unwrap()).collect();
    let chosen = [0, 699, 33];
    at_every_level(|threads| {
        for (stored, exact, tolerance) in [
            (Values::Float64(&values), &values, 1e-12),
            (Values::Float32(&single), &values, 2e-5),
            (Values::Float16(&half), &rounded, 2e-5),
        ] {
            let x = Matrix::new(stored, rows, columns).unwrap();
            let row = |index: usize| &exact[index * columns..][..columns];
            for set in kernels.iter().map(std::slice::from_ref).chain([&kernels[3..5]]) {
                let columns_of_chosen = crate::kernels::columns(x, &chosen, set, threads, &mut || Ok(())).unwrap();
                let sums = row_sums(x, None, set, None, threads, &mut || Ok(())).unwrap();
                for (query, column) in chosen.iter().zip(columns_of_chosen.chunks(rows)) {
                    for (index, value) in column.iter().enumerate() {
                        let want: f64 =
                            set.iter().map(|kernel| reference::value(row(*query), row(index), *kernel)).sum();
                        assert!((value - want).abs() <= tolerance * want.abs().max(1.0), "{set:?} {value} {want}");
                    }
                    let sum: f64 = column.iter().sum();
                    assert!((sum - sums[*query]).abs() <= 1e-3 * sums[*query].abs().max(1.0), "{set:?}");
                }
            }
        }
    });
}

#[test]
fn bad_arguments_are_errors() {
    let x = Matrix::new(Values::Float64(&[0.0, 1.0]), 2, 1).unwrap();
    let go = &mut || Ok(());
    let kernel = [Kernel::new("rbf", &[1.0]).unwrap()];
    assert!(k_means(x, &[0.0], 2, 1, 0.0, None, go).is_err());
    assert!(k_means(x, &[0.0; 3], 3, 1, 0.0, None, go).is_err());
    assert!(plus_plus(x, 0, 1, 0, None, go).is_err());
    assert!(herding(x, &kernel, &[0.0], &[0.0; 2], 1, None, go).is_err());
    assert!(farthest_points(x, 2, 1, None, go).is_err());
    assert!(facility_location(x, &kernel, 3, None, go).is_err());
}
