//! Row sums of the linear kernel, which are computed without pairs.

use crate::error::{Error, Result};
use crate::memory::zeros;
use crate::tasks::Check;
use crate::{Matrix, tasks};

/// Values in a task.
const ROW_VALUES: usize = 1 << 18;

/// Returns Σ_j x_i·y_j = x_i · Σ_j y_j for each row i of x, in float64.
pub(super) fn dot_with_sum(x: Matrix, y: Matrix, threads: Option<usize>, check: Check) -> Result<Vec<f64>> {
    if x.columns() != y.columns() {
        return Err(Error::Columns { x: x.columns(), y: y.columns() });
    }
    let mut dots = zeros(x.rows())?;
    if dots.is_empty() {
        return Ok(dots); // a matrix without rows may have more columns than memory holds
    }
    let rows = (ROW_VALUES / y.columns().max(1)).max(1);
    let mut total = vec![0.0_f64; y.columns()];
    let part = |block: usize| {
        let (mut sum, mut values) = (vec![0.0_f64; y.columns()], vec![0.0_f64; y.columns()]);
        for row in block * rows..(block * rows + rows).min(y.rows()) {
            y.read(row, 0, &mut values);
            sum.iter_mut().zip(&values).for_each(|(sum, value)| *sum += finite(*value));
        }
        sum
    };
    tasks::run(y.rows().div_ceil(rows), threads, &mut *check, part, |_, part| {
        total.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
    })?;
    let dot = |block: usize| {
        let mut values = vec![0.0_f64; x.columns()];
        let dot = |row: usize| {
            x.read(row, 0, &mut values);
            values.iter().zip(&total).map(|(a, b)| finite(*a) * b).sum::<f64>()
        };
        (block * rows..(block * rows + rows).min(x.rows())).map(dot).collect::<Vec<f64>>()
    };
    tasks::run(x.rows().div_ceil(rows), threads, check, dot, |block, part| {
        dots[block * rows..][..part.len()].copy_from_slice(&part);
    })?;
    Ok(dots)
}

/// Replaces infinity by NaN.
fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { f64::NAN }
}
