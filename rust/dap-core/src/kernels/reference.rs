//! The definitions in float64, one pair at a time, which tests and benches compare the fast forms with.

use super::kernel::{Form, Kernel};

/// Returns k(x, y) of one pair of rows of the same length.
///
/// ```
/// use dap_core::kernels::{Kernel, reference};
/// assert_eq!(reference::value(&[1.0, 2.0], &[3.0, 4.0], Kernel::new("linear", &[])?), 11.0);
/// # Ok::<(), dap_core::Error>(())
/// ```
pub fn value(x: &[f64], y: &[f64], kernel: Kernel) -> f64 {
    let pairs = || x.iter().zip(y);
    let dot = pairs().map(|(a, b)| a * b).sum::<f64>();
    let squared = pairs().map(|(a, b)| (a - b).powi(2)).sum::<f64>();
    let norm = |row: &[f64]| row.iter().map(|a| a * a).sum::<f64>().sqrt();
    match kernel.0 {
        Form::Linear => dot,
        Form::Cosine if norm(x) == 0.0 || norm(y) == 0.0 => 0.0,
        Form::Cosine => dot / norm(x) / norm(y),
        Form::Polynomial { degree, c } => (dot + c).powi(degree),
        Form::Rbf { bandwidth } => (-squared / (2.0 * bandwidth * bandwidth)).exp(),
        Form::Laplacian { bandwidth } => (-pairs().map(|(a, b)| (a - b).abs()).sum::<f64>() / bandwidth).exp(),
        Form::Exponential { bandwidth } => (-squared.sqrt() / bandwidth).exp(),
        Form::InverseMultiquadric { c } => (c * c + squared).powf(-0.5),
        Form::RationalQuadratic { alpha, bandwidth } => {
            (1.0 + squared / (2.0 * alpha * bandwidth * bandwidth)).powf(-alpha)
        }
        Form::Matern15 { bandwidth } => {
            let z = (3.0 * squared).sqrt() / bandwidth;
            (1.0 + z) * (-z).exp()
        }
        Form::Matern25 { bandwidth } => {
            let z = (5.0 * squared).sqrt() / bandwidth;
            (1.0 + z + z * z / 3.0) * (-z).exp()
        }
        Form::Distance => norm(x) + norm(y) - squared.sqrt(),
    }
}

/// Returns D(x, y) = √max(k(x,x) + k(y,y) − 2 k(x,y), 0) of one pair of rows: by definition, so near points lose digits.
///
/// ```
/// use dap_core::kernels::{Kernel, reference};
/// assert_eq!(reference::distance(&[1.0, 2.0], &[4.0, 6.0], Kernel::new("linear", &[])?), 5.0);
/// # Ok::<(), dap_core::Error>(())
/// ```
pub fn distance(x: &[f64], y: &[f64], kernel: Kernel) -> f64 {
    (value(x, x, kernel) + value(y, y, kernel) - 2.0 * value(x, y, kernel)).max(0.0).sqrt()
}
