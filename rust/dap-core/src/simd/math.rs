//! Vectorised eˣ, eˣ − 1 and ln(1 + z), accurate to about two units in the last place; NaN gives NaN.

use super::{Real, Simd};

/// 1/k! for k from 0.
const EXP: [f64; 16] = {
    let mut terms = [1.0; 16];
    let mut k = 1;
    while k < 16 {
        terms[k] = terms[k - 1] / k as f64;
        k += 1;
    }
    terms
};

/// 2/(2k + 1) for k from 0: the series of 2 artanh(t) / t in t².
const LN: [f64; 12] = {
    let mut terms = [0.0; 12];
    let mut k = 0;
    while k < 12 {
        terms[k] = 2.0 / (2 * k + 1) as f64;
        k += 1;
    }
    terms
};

/// Σ_k terms[k] x^k.
#[inline(always)]
pub(crate) fn polynomial<S: Simd>(simd: S, x: S::Vector, terms: &[f64]) -> S::Vector {
    let mut sum = simd.splat(S::Real::from_f64(0.0));
    for term in terms.iter().rev() {
        sum = simd.mul_add(sum, x, simd.splat(S::Real::from_f64(*term)));
    }
    sum
}

/// eˣ for x ≤ 0; 0 where the result would not be a normal number.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    let real = S::Real::from_f64;
    let lowest = simd.splat(real(S::Real::EXP_LOWEST));
    let clamped = simd.max(lowest, x);
    let n = simd.round(simd.mul(clamped, simd.splat(real(std::f64::consts::LOG2_E))));
    let rest = simd.mul_add(n, simd.splat(real(-S::Real::LN_2.0)), clamped);
    let rest = simd.mul_add(n, simd.splat(real(-S::Real::LN_2.1)), rest);
    let value = simd.scale(polynomial(simd, rest, &EXP[..S::Real::TERMS.exp]), n);
    simd.where_less(x, lowest, simd.splat(real(0.0)), value)
}

/// eˣ − 1 for x ≤ 0, accurate near zero.
#[inline(always)]
pub(crate) fn exp_m1<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    let real = S::Real::from_f64;
    let near = simd.mul(x, polynomial(simd, x, &EXP[1..=S::Real::TERMS.exp]));
    let far = simd.sub(exp(simd, x), simd.splat(real(1.0)));
    simd.where_less(x, simd.splat(real(-0.35)), far, near)
}

/// ln(1 + z) for z ≥ 0; a z above a quarter of the largest number counts as that quarter.
#[inline(always)]
pub(crate) fn ln_1p<S: Simd>(simd: S, z: S::Vector) -> S::Vector {
    let real = S::Real::from_f64;
    let one = simd.splat(real(1.0));
    let z = simd.min(simd.splat(real(S::Real::LARGEST / 4.0)), z);
    let sum = simd.add(one, z);
    let (mut exponent, mut mantissa) = (simd.exponent(sum), simd.mantissa(sum));
    let root = simd.splat(real(std::f64::consts::SQRT_2));
    exponent = simd.where_less(root, mantissa, simd.add(exponent, one), exponent);
    mantissa = simd.where_less(root, mantissa, simd.mul(mantissa, simd.splat(real(0.5))), mantissa);
    let t = simd.div(simd.sub(mantissa, one), simd.add(mantissa, one));
    let series = simd.mul(t, polynomial(simd, simd.mul(t, t), &LN[..S::Real::TERMS.ln]));
    let logarithm = simd.mul_add(exponent, simd.splat(real(std::f64::consts::LN_2)), series);
    let lost = simd.sub(z, simd.sub(sum, one)); // the rounding error of 1 + z; NaN where z is
    simd.add(logarithm, simd.div(lost, sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Level, Vectorized};

    /// The function in float64, and the sign of its arguments.
    type Exact = (fn(f64) -> f64, f64);

    struct Each<'a, R>(fn(f64) -> f64, usize, &'a [R]);

    impl<R: Real> Vectorized<R> for Each<'_, R> {
        type Output = Vec<(f64, f64, f64)>;

        #[inline(always)]
        fn run<S: Simd<Real = R>, const Y: usize>(self, simd: S) -> Self::Output {
            let Self(exact, which, values) = self;
            let one = |value: R| {
                let x = simd.splat(value);
                let y = match which {
                    0 => exp(simd, x),
                    1 => exp_m1(simd, x),
                    _ => ln_1p(simd, x),
                };
                let mut lanes = vec![R::default(); S::LANES];
                // SAFETY: `lanes` has that many.
                unsafe { simd.store(lanes.as_mut_ptr(), y) };
                (value.to_f64(), lanes[S::LANES - 1].to_f64(), exact(value.to_f64()))
            };
            values.iter().map(|value| one(*value)).collect()
        }
    }

    fn check<R: Real>(epsilon: f64, lowest: f64) {
        let functions: [Exact; 3] = [(f64::exp, -1.0), (f64::exp_m1, -1.0), (f64::ln_1p, 1.0)];
        for level in Level::available() {
            for (which, (exact, sign)) in functions.into_iter().enumerate() {
                let mut values: Vec<R> = (0..4000).map(|i| R::from_f64(sign * 1e-9 * 1.0065_f64.powi(i))).collect();
                values.extend([0.0, -0.0, sign * 1e30].map(R::from_f64));
                for (x, got, want) in R::run(level, Each(exact, which, &values)) {
                    // float32 rounds x·log2 e for large |x|: the bound is relative to max(1, |x|) there.
                    if which == 0 && x < lowest {
                        assert_eq!(got, 0.0, "{level:?} exp({x})");
                    } else {
                        assert!(
                            (got - want).abs() <= 3.0 * epsilon * want.abs(),
                            "{level:?} {which} {x}: {got} {want}"
                        );
                    }
                }
                let nan = R::run(level, Each(exact, which, &[R::from_f64(f64::NAN)]));
                assert!(nan[0].1.is_nan(), "{level:?} {which}");
            }
        }
    }

    #[test]
    fn float32() {
        check::<f32>(f64::from(f32::EPSILON), f64::from(-87.33_f32));
    }

    #[test]
    fn float64() {
        check::<f64>(f64::EPSILON, -708.39);
    }
}
