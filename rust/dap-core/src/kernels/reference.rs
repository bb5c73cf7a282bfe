//! The definitions in float64, one pair at a time: what tests and benches hold the fast forms to.

use super::Kernel;

/// k(x, y) of one pair of rows of the same length.
///
/// ```
/// use dap_core::kernels::{Kernel, reference};
/// assert_eq!(reference::value(&[1.0, 2.0], &[3.0, 4.0], Kernel::Linear), 11.0);
/// ```
pub fn value(x: &[f32], y: &[f32], kernel: Kernel) -> f64 {
    let pairs = || x.iter().zip(y).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    match kernel {
        Kernel::Linear => pairs().map(|(a, b)| a * b).sum(),
        Kernel::Rbf(bandwidth) => bandwidth.exponent(pairs().map(|(a, b)| (a - b).powi(2)).sum()).exp(),
    }
}

/// D(x, y) = √max(k(x,x) + k(y,y) − 2 k(x,y), 0) of one pair of rows: by definition, so near points lose digits.
///
/// ```
/// use dap_core::kernels::{Kernel, reference};
/// assert_eq!(reference::distance(&[1.0, 2.0], &[4.0, 6.0], Kernel::Linear), 5.0);
/// ```
pub fn distance(x: &[f32], y: &[f32], kernel: Kernel) -> f64 {
    (value(x, x, kernel) + value(y, y, kernel) - 2.0 * value(x, y, kernel)).max(0.0).sqrt()
}
