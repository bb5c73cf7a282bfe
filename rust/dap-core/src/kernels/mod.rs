//! Mercer kernels and their reductions over the rows of two matrices.
//!
//! A kernel k(x, y) has the distance D(x, y) = √(k(x,x) + k(y,y) − 2 k(x,y)) (Su et al., "Diffusion Models as Dataset
//! Distillation Priors", ICLR 2026, Eq. 6), computed here in forms that lose no digits to cancellation:
//!
//! | kernel | k(x, y) | D(x, y) |
//! |---|---|---|
//! | linear | x·y | ‖x − y‖ |
//! | RBF | exp(−‖x − y‖² / 2σ²) | √(−2 expm1(−‖x − y‖² / 2σ²)) |
//!
//! ‖x − y‖² is summed in float32 from the differences (it overflows to infinity beyond 3.4e38), everything after it in
//! float64. NaN and infinity propagate into the rows that they belong to.

mod pairs;
mod reductions;
pub mod reference;

use crate::error::{Error, Result};

pub use reductions::{mean_distance, row_sums};

/// A Mercer kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kernel {
    /// k(x, y) = x·y.
    Linear,
    /// k(x, y) = exp(−‖x − y‖² / 2σ²); made by [`Kernel::rbf`].
    Rbf(Bandwidth),
}

/// A bandwidth σ: positive and finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bandwidth(f64);

impl Kernel {
    /// The Gaussian kernel with bandwidth σ, in the units of the features; an error unless σ is positive and finite.
    ///
    /// ```
    /// use dap_core::kernels::Kernel;
    /// assert!(Kernel::rbf(2.0).is_ok());
    /// assert!(Kernel::rbf(0.0).is_err());
    /// ```
    pub fn rbf(bandwidth: f64) -> Result<Self> {
        if bandwidth.is_finite() && bandwidth > 0.0 {
            Ok(Self::Rbf(Bandwidth(bandwidth)))
        } else {
            Err(Error::Bandwidth(bandwidth))
        }
    }
}

impl Bandwidth {
    /// −s / 2σ². Divided twice, since σ² may underflow.
    fn exponent(self, squared: f64) -> f64 {
        -0.5 * (squared / self.0 / self.0)
    }
}
