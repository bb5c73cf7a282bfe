//! From x·y, ‖x − y‖² or ‖x − y‖₁ to k(x, y), and to D(x, y)² in forms that lose no digits for near points.

use super::kernel::{Form, Kernel};
use crate::simd::math::{exp, exp_m1, ln_1p, polynomial};
use crate::simd::{Real, Simd};

/// The quantity that is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Want {
    /// k(x, y).
    Value,
    /// D(x, y)².
    SquaredDistance,
}

/// The quantity that a kernel is computed from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Base {
    /// x·y.
    Dot,
    /// ‖x − y‖².
    Squared,
    /// ‖x − y‖₁.
    Manhattan,
}

/// How rows are changed when they are packed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rows {
    /// Unchanged.
    Plain,
    /// Divided by their norms; rows of zeros stay zero.
    Unit,
    /// Less a common centre, for kernels of differences only.
    Centred,
}

/// Norms of a row: ‖·‖² after packing and ‖·‖ before.
#[derive(Clone, Copy)]
pub(super) struct Sizes<V> {
    pub squared: V,
    pub norm: V,
}

impl Kernel {
    /// Returns the rows and the base that `want` is computed from.
    pub(super) fn parts(self, want: Want) -> (Rows, Base) {
        match (self.0, want) {
            (Form::Linear | Form::Polynomial { .. }, Want::Value) => (Rows::Plain, Base::Dot),
            (Form::Cosine, Want::Value) => (Rows::Unit, Base::Dot),
            (Form::Cosine, Want::SquaredDistance) => (Rows::Unit, Base::Squared),
            (Form::Polynomial { .. }, Want::SquaredDistance) => (Rows::Plain, Base::Squared),
            (Form::Laplacian { .. }, _) => (Rows::Centred, Base::Manhattan),
            _ => (Rows::Centred, Base::Squared),
        }
    }

    /// Calls `map` with the function that computes `want` from the base and the norms of x and y: the kernel's form is
    /// looked up once, not once a pair.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(self, simd: S, want: Want, map: impl Map<S>) {
        let real = |value: f64| simd.splat(S::Real::from_f64(value));
        let zero = real(0.0);
        // A tiny bandwidth must not make the factor infinite: ∞ · 0 is NaN where points coincide.
        let factor = |value: f64| real(value.clamp(-S::Real::LARGEST, S::Real::LARGEST));
        let largest = real(1e18); // a z whose square is finite, and at which the Matérn kernels are 0
        match (self.0, want) {
            (Form::Linear | Form::Cosine, _) => map.map(
                simd,
                #[inline(always)]
                |base, _, _| base,
            ),
            (Form::Polynomial { degree, c }, Want::Value) => {
                let c = real(c);
                map.map(
                    simd,
                    #[inline(always)]
                    |dot, _, _| power(simd, simd.add(dot, c), degree),
                );
            }
            (Form::Polynomial { degree, c }, Want::SquaredDistance) => {
                let (c, half) = (real(c), real(0.5));
                map.map(
                    simd,
                    #[inline(always)]
                    |s, x: Sizes<_>, y: Sizes<_>| {
                        // With a = g + u, b = g + v and u + v = s: aᵖ + bᵖ − 2gᵖ, whose terms 2gᵖ cancel by themselves.
                        let g = simd.add(simd.mul(half, simd.sub(simd.add(x.squared, y.squared), s)), c);
                        let apart = simd.sub(x.squared, y.squared);
                        let (u, v) = (simd.mul(half, simd.add(s, apart)), simd.mul(half, simd.sub(s, apart)));
                        let mut sum = simd.mul(simd.mul(real(f64::from(degree)), power(simd, g, degree - 1)), s);
                        let mut binomial = f64::from(degree);
                        for q in 2..=degree {
                            binomial *= f64::from(degree - q + 1) / f64::from(q);
                            let powers = simd.add(power(simd, u, q), power(simd, v, q));
                            sum = simd.mul_add(simd.mul(real(binomial), power(simd, g, degree - q)), powers, sum);
                        }
                        simd.max(zero, sum)
                    },
                );
            }
            (Form::Rbf { bandwidth }, Want::Value) => {
                let factor = factor(-0.5 / bandwidth / bandwidth);
                map.map(
                    simd,
                    #[inline(always)]
                    |s, _, _| exp(simd, simd.mul(factor, s)),
                );
            }
            (Form::Rbf { bandwidth }, Want::SquaredDistance) => {
                let factor = factor(-0.5 / bandwidth / bandwidth);
                map.map(
                    simd,
                    #[inline(always)]
                    |s, _, _| twice_exp_m1(simd, simd.mul(factor, s)),
                );
            }
            (Form::Laplacian { bandwidth }, Want::Value) => {
                let factor = factor(-1.0 / bandwidth);
                map.map(
                    simd,
                    #[inline(always)]
                    |l, _, _| exp(simd, simd.mul(factor, l)),
                );
            }
            (Form::Laplacian { bandwidth }, Want::SquaredDistance) => {
                let factor = factor(-1.0 / bandwidth);
                map.map(
                    simd,
                    #[inline(always)]
                    |l, _, _| twice_exp_m1(simd, simd.mul(factor, l)),
                );
            }
            (Form::Exponential { bandwidth }, Want::Value) => {
                let factor = factor(-1.0 / bandwidth);
                map.map(
                    simd,
                    #[inline(always)]
                    |s, _, _| exp(simd, simd.mul(factor, simd.sqrt(s))),
                );
            }
            (Form::Exponential { bandwidth }, Want::SquaredDistance) => {
                let factor = factor(-1.0 / bandwidth);
                map.map(
                    simd,
                    #[inline(always)]
                    |s, _, _| twice_exp_m1(simd, simd.mul(factor, simd.sqrt(s))),
                );
            }
            (Form::InverseMultiquadric { c }, Want::Value) => {
                let (square, one) = (real(c * c), real(1.0));
                map.map(
                    simd,
                    #[inline(always)]
                    |s, _, _| simd.div(one, simd.sqrt(simd.add(square, s))),
                );
            }
            (Form::InverseMultiquadric { c }, Want::SquaredDistance) => {
                let (square, c, two) = (real(c * c), real(c), real(2.0));
                map.map(
                    simd,
                    #[inline(always)]
                    |s, _, _| {
                        let root = simd.sqrt(simd.add(square, s));
                        simd.div(simd.mul(two, s), simd.mul(simd.mul(c, root), simd.add(root, c)))
                    },
                );
            }
            (Form::RationalQuadratic { alpha, bandwidth }, Want::Value) => {
                let (factor, alpha) = (factor(0.5 / alpha / bandwidth / bandwidth), real(-alpha));
                map.map(
                    simd,
                    #[inline(always)]
                    |s, _, _| exp(simd, simd.mul(alpha, ln_1p(simd, simd.mul(factor, s)))),
                );
            }
            (Form::RationalQuadratic { alpha, bandwidth }, Want::SquaredDistance) => {
                let (factor, alpha) = (factor(0.5 / alpha / bandwidth / bandwidth), real(-alpha));
                map.map(
                    simd,
                    #[inline(always)]
                    |s, _, _| twice_exp_m1(simd, simd.mul(alpha, ln_1p(simd, simd.mul(factor, s)))),
                );
            }
            (Form::Matern15 { bandwidth }, want) => {
                let (factor, one) = (factor(3.0_f64.sqrt() / bandwidth), real(1.0));
                map.map(
                    simd,
                    #[inline(always)]
                    |s, _, _| {
                        let z = simd.min(largest, simd.mul(factor, simd.sqrt(s)));
                        matern(simd, want, z, simd.add(one, z), &MATERN_15)
                    },
                );
            }
            (Form::Matern25 { bandwidth }, want) => {
                let (factor, one, third) = (factor(5.0_f64.sqrt() / bandwidth), real(1.0), real(1.0 / 3.0));
                map.map(
                    simd,
                    #[inline(always)]
                    |s, _, _| {
                        let z = simd.min(largest, simd.mul(factor, simd.sqrt(s)));
                        let terms = simd.mul_add(simd.mul(third, z), z, simd.add(one, z));
                        matern(simd, want, z, terms, &MATERN_25)
                    },
                );
            }
            (Form::Distance, Want::Value) => {
                map.map(
                    simd,
                    #[inline(always)]
                    |s, x: Sizes<_>, y: Sizes<_>| simd.sub(simd.add(x.norm, y.norm), simd.sqrt(s)),
                );
            }
            (Form::Distance, Want::SquaredDistance) => {
                let two = real(2.0);
                map.map(
                    simd,
                    #[inline(always)]
                    |s, _, _| simd.mul(two, simd.sqrt(s)),
                );
            }
        }
    }
}

/// Applies a function of the base and the norms of x and y to many pairs.
pub(super) trait Map<S: Simd> {
    /// Applies it.
    fn map(self, simd: S, function: impl Fn(S::Vector, Sizes<S::Vector>, Sizes<S::Vector>) -> S::Vector);
}

/// −2 (eˣ − 1).
#[inline(always)]
fn twice_exp_m1<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    simd.mul(simd.splat(S::Real::from_f64(-2.0)), exp_m1(simd, x))
}

/// aᵖ by squaring.
#[inline(always)]
fn power<S: Simd>(simd: S, a: S::Vector, exponent: i32) -> S::Vector {
    let (mut result, mut square, mut left) = (simd.splat(S::Real::from_f64(1.0)), a, exponent);
    while left > 0 {
        if left & 1 == 1 {
            result = simd.mul(result, square);
        }
        square = simd.mul(square, square);
        left >>= 1;
    }
    result
}

/// p(z) e^−z, or 2 − 2 p(z) e^−z, for small z from the latter's series, which begins at z².
#[inline(always)]
fn matern<S: Simd>(simd: S, want: Want, z: S::Vector, terms: S::Vector, series: &[f64]) -> S::Vector {
    let real = |value: f64| simd.splat(S::Real::from_f64(value));
    let value = simd.mul(terms, exp(simd, simd.sub(real(0.0), z)));
    if want == Want::Value {
        return value;
    }
    let near = simd.mul(simd.mul(z, z), polynomial(simd, z, series));
    let far = simd.sub(real(1.0), value);
    simd.mul(real(2.0), simd.where_less(z, real(0.5), near, far))
}

/// 1 − (1 + z) e^−z = Σ_{n≥2} (−1)ⁿ (n − 1)/n! zⁿ.
const MATERN_15: [f64; 14] = {
    let mut terms = [0.0; 14];
    let (mut n, mut factor) = (2, 0.5);
    while n < 16 {
        terms[n - 2] = (n - 1) as f64 * factor;
        n += 1;
        factor /= -(n as f64);
    }
    terms
};

/// 1 − (1 + z + z²/3) e^−z = Σ_{n≥2} (−1)ⁿ⁺¹ (n − 1)(n − 3)/(3 n!) zⁿ.
const MATERN_25: [f64; 14] = {
    let mut terms = [0.0; 14];
    let (mut n, mut factor) = (2_usize, -0.5);
    while n < 16 {
        terms[n - 2] = (n as f64 - 1.0) * (n as f64 - 3.0) / 3.0 * factor;
        n += 1;
        factor /= -(n as f64);
    }
    terms
};
