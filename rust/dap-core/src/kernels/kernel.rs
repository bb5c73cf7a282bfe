//! The kernels: their names, their parameters and their formulas.

use crate::error::{Error, Result};

/// A Mercer kernel; a slice of them stands for their sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kernel(pub(super) Form);

// Private to `kernels`, so that every kernel is checked when it is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Form {
    Linear,
    Cosine,
    Polynomial { degree: i32, c: f64 },
    Rbf { bandwidth: f64 },
    Laplacian { bandwidth: f64 },
    Exponential { bandwidth: f64 },
    InverseMultiquadric { c: f64 },
    RationalQuadratic { alpha: f64, bandwidth: f64 },
    Matern15 { bandwidth: f64 },
    Matern25 { bandwidth: f64 },
    Distance,
}

/// The highest degree of a polynomial kernel.
pub const MAX_DEGREE: i32 = 64;

impl Kernel {
    /// The kernel with this name and these parameters, in the order of its formula:
    ///
    /// | name | parameters | k(x, y) |
    /// |---|---|---|
    /// | linear | | x·y |
    /// | cosine | | x·y / ‖x‖‖y‖, 0 where a norm is 0 |
    /// | polynomial | degree, c ≥ 0 | (x·y + c)^degree |
    /// | rbf | σ | exp(−‖x − y‖² / 2σ²) |
    /// | laplacian | σ | exp(−‖x − y‖₁ / σ) |
    /// | exponential | σ | exp(−‖x − y‖ / σ) |
    /// | inverse_multiquadric | c > 0 | (c² + ‖x − y‖²)^−½ |
    /// | rational_quadratic | α, σ | (1 + ‖x − y‖² / 2ασ²)^−α |
    /// | matern | ν = 1.5, σ | (1 + z) e^−z, z = √3 ‖x − y‖ / σ |
    /// | matern | ν = 2.5, σ | (1 + z + z²/3) e^−z, z = √5 ‖x − y‖ / σ |
    /// | distance | | ‖x‖ + ‖y‖ − ‖x − y‖ |
    ///
    /// ```
    /// use dap_core::kernels::Kernel;
    /// assert!(Kernel::new("rbf", &[2.0]).is_ok());
    /// assert!(Kernel::new("rbf", &[0.0]).is_err());
    /// ```
    pub fn new(name: &str, parameters: &[f64]) -> Result<Self> {
        let refused = || Error::Kernel { name: name.to_owned(), parameters: parameters.to_vec() };
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let form = match (name, parameters) {
            ("linear", []) => Form::Linear,
            ("cosine", []) => Form::Cosine,
            ("distance", []) => Form::Distance,
            ("polynomial", &[degree, c])
                if degree.fract() == 0.0
                    && (1.0..=f64::from(MAX_DEGREE)).contains(&degree)
                    && c.is_finite()
                    && c >= 0.0 =>
            {
                Form::Polynomial { degree: degree as i32, c }
            }
            ("rbf", &[bandwidth]) if positive(bandwidth) => Form::Rbf { bandwidth },
            ("laplacian", &[bandwidth]) if positive(bandwidth) => Form::Laplacian { bandwidth },
            ("exponential", &[bandwidth]) if positive(bandwidth) => Form::Exponential { bandwidth },
            ("inverse_multiquadric", &[c]) if positive(c) => Form::InverseMultiquadric { c },
            ("rational_quadratic", &[alpha, bandwidth]) if positive(alpha) && positive(bandwidth) => {
                Form::RationalQuadratic { alpha, bandwidth }
            }
            ("matern", &[nu, bandwidth]) if positive(bandwidth) && nu == 1.5 => Form::Matern15 { bandwidth },
            ("matern", &[nu, bandwidth]) if positive(bandwidth) && nu == 2.5 => Form::Matern25 { bandwidth },
            _ => return Err(refused()),
        };
        Ok(Self(form))
    }
}
