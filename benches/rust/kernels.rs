//! The micro-kernels on one thread: pairs of 2,000 rows, as row sums of the kernel that shows each of them.
//!
//!     cargo bench -p dap-core

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_main};
use dap_core::kernels::{Kernel, nearest, row_sums};
use dap_core::matrix::{Matrix, Values};

const ROWS: usize = 2_000;

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|index| ((index * index) as f32 * 0.37).sin()).collect()
}

fn micro_kernels(criterion: &mut Criterion) {
    for columns in [64, 384, 1152] {
        let mut group = criterion.benchmark_group(format!("{ROWS} x {ROWS} x {columns}"));
        // In multiplications, or differences, of two numbers.
        group.throughput(Throughput::Elements((ROWS * ROWS * columns) as u64));
        group.sample_size(20);
        let (x, y) = (numbers(ROWS * columns), numbers(ROWS * columns + 1));
        let single = [Values::Float32(&x), Values::Float32(&y[1..])];
        let wide: [Vec<f64>; 2] = [&x, &y].map(|values| values.iter().map(|value| f64::from(*value)).collect());
        let double = [Values::Float64(&wide[0]), Values::Float64(&wide[1][1..])];
        let scale = columns as f64;
        for (name, values, kernel, parameters) in [
            ("dot product, float32", single, "polynomial", vec![1.0, 0.0]),
            ("dot product, float64", double, "polynomial", vec![1.0, 0.0]),
            ("dot product and exponential, float32", single, "rbf", vec![scale.sqrt()]),
            ("absolute differences, float32", single, "laplacian", vec![scale]),
        ] {
            let kernel = Kernel::new(kernel, &parameters).expect("a kernel");
            let [x, y] = values.map(|values| Matrix::new(values, ROWS, columns).expect("a matrix"));
            group.bench_function(BenchmarkId::new("row_sums", name), |bencher| {
                bencher.iter(|| row_sums(black_box(x), Some(y), &[kernel], None, Some(1), &mut || Ok(())));
            });
        }
        let [x, y] = single.map(|values| Matrix::new(values, ROWS, columns).expect("a matrix"));
        group.bench_function("nearest 10, float32", |bencher| {
            bencher.iter(|| nearest(black_box(x), Some(y), None, 10, Some(1), &mut || Ok(())));
        });
        group.finish();
    }
}

mod groups {
    criterion::criterion_group!(benches, super::micro_kernels);
}

criterion_main!(groups::benches);
