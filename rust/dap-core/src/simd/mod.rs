//! Run-time choice of the instruction set, so that one wheel serves every CPU.
//!
//! Work is written once over [`Simd`] and compiled once per level. Levels that fuse multiply and add round differently
//! from those that do not, so results of different levels agree up to rounding; within one level they agree to the bit.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod convert;
pub(crate) mod math;
#[cfg(target_arch = "x86_64")]
mod operations;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt::Debug;

use half::f16;

pub use convert::Convert;

/// The most lanes of any level.
pub const MAX_LANES: usize = 16;

/// A SIMD level that this CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Kind);

// Private, so that a `Level` is only ever made after its features were detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// A floating-point type that kernels are computed in: f32 or f64.
pub trait Real: Convert + Copy + Debug + Default + PartialOrd + Send + Sync + 'static {
    /// Terms of the series in `math` that this type's precision needs.
    const TERMS: Terms;
    /// The lowest x whose eˣ is a normal number.
    const EXP_LOWEST: f64;
    /// ln 2 rounded so that its product with any exponent is exact, and the rest of ln 2.
    const LN_2: (f64, f64);

    /// The largest finite value.
    const LARGEST: f64;

    /// The nearest value.
    fn from_f64(value: f64) -> Self;
    /// The same value.
    fn to_f64(self) -> f64;
    /// Does the work with the instructions of `level`.
    fn run<V: Vectorized<Self>>(level: Level, work: V) -> V::Output;
}

/// The number of terms of each series.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// eʳ on |r| ≤ ln 2 / 2, and the Taylor series near zero.
    pub exp: usize,
    /// 2 artanh on |t| ≤ 0.172.
    pub ln: usize,
}

impl Real for f32 {
    const TERMS: Terms = Terms { exp: 8, ln: 5 };
    const LARGEST: f64 = f32::MAX as f64;
    const EXP_LOWEST: f64 = -87.33;
    const LN_2: (f64, f64) = (0.693_359_375, -2.121_944_400_546_905_8e-4);

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    fn run<V: Vectorized<Self>>(level: Level, work: V) -> V::Output {
        match level.0 {
            Kind::Portable => work.run::<_, 2>(portable::Portable::<f32, 8>::default()),
            // SAFETY: this `Level` exists, so its features were detected.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { x86::run_avx2_f32(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { x86::run_avx512_f32(work) },
        }
    }
}

impl Real for f64 {
    const TERMS: Terms = Terms { exp: 15, ln: 12 };
    const LARGEST: f64 = f64::MAX;
    const EXP_LOWEST: f64 = -708.39;
    const LN_2: (f64, f64) = (0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10);

    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }

    fn run<V: Vectorized<Self>>(level: Level, work: V) -> V::Output {
        match level.0 {
            Kind::Portable => work.run::<_, 2>(portable::Portable::<f64, 4>::default()),
            // SAFETY: this `Level` exists, so its features were detected.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { x86::run_avx2_f64(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { x86::run_avx512_f64(work) },
        }
    }
}

/// Work that is compiled once per level. `run` and all that it calls must be `#[inline(always)]`; otherwise they are
/// compiled for the baseline.
pub trait Vectorized<R> {
    /// The result of the work.
    type Output;
    /// Does the work; `Y` rows of y beside two vectors of x fill the registers of this level.
    fn run<S: Simd<Real = R>, const Y: usize>(self, simd: S) -> Self::Output;
}

/// Vectors of one level; a value of this type proves that the CPU has the level. `max` and `min` return the second operand
/// where either is NaN.
#[expect(missing_docs, reason = "the names say it")]
pub trait Simd: Copy + Send + Sync {
    type Real: Real;
    type Vector: Copy;
    const LANES: usize;

    fn splat(self, value: Self::Real) -> Self::Vector;
    /// # Safety
    /// `LANES` values can be read from `from`.
    unsafe fn load(self, from: *const Self::Real) -> Self::Vector;
    /// # Safety
    /// `LANES` values can be written to `to`.
    unsafe fn store(self, to: *mut Self::Real, value: Self::Vector);
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// a·b + c, fused where the level can.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn abs(self, a: Self::Vector) -> Self::Vector;
    fn sqrt(self, a: Self::Vector) -> Self::Vector;
    /// The nearest integer.
    fn round(self, a: Self::Vector) -> Self::Vector;
    /// `then` where a < b, `otherwise` elsewhere and where either is NaN.
    fn where_less(self, a: Self::Vector, b: Self::Vector, then: Self::Vector, otherwise: Self::Vector) -> Self::Vector;
    /// Whether a ≥ b in every lane; false if any lane holds NaN.
    fn all_at_least(self, a: Self::Vector, b: Self::Vector) -> bool;
    /// a·2ⁿ, for integers n from that of [`Real::EXP_LOWEST`] to 0.
    fn scale(self, a: Self::Vector, n: Self::Vector) -> Self::Vector;
    /// The integer e of a = m·2ᵉ with 1 ≤ m < 2, for normal a > 0.
    fn exponent(self, a: Self::Vector) -> Self::Vector;
    /// The m of a = m·2ᵉ with 1 ≤ m < 2, for normal a > 0.
    fn mantissa(self, a: Self::Vector) -> Self::Vector;
    /// Adds each lane to its own float64.
    ///
    /// # Safety
    /// `LANES` values can be read from and written to `sums`.
    unsafe fn add_to(self, sums: *mut f64, a: Self::Vector);

    /// Converts `from`, which has as many values as `to`.
    #[inline(always)]
    fn widen(self, from: &[f16], to: &mut [Self::Real]) {
        Self::Real::from_half(from, to);
    }

    /// The sum of the lanes, by halving.
    #[inline(always)]
    fn total(self, a: Self::Vector) -> f64 {
        let mut lanes = [0.0; MAX_LANES];
        // SAFETY: no level has more lanes.
        unsafe { self.add_to(lanes.as_mut_ptr(), a) };
        let mut width = Self::LANES / 2;
        while width > 0 {
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
            width /= 2;
        }
        lanes[0]
    }
}

#[cfg(test)]
thread_local! {
    static WITHIN: std::cell::Cell<Option<Level>> = const { std::cell::Cell::new(None) };
}

impl Level {
    /// Returns the best level of this CPU; in a test, that of [`Level::within`].
    pub fn detect() -> Self {
        #[cfg(test)]
        if let Some(level) = WITHIN.get() {
            return level;
        }
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                return Self(Kind::Avx512);
            }
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                return Self(Kind::Avx2);
            }
        }
        Self(Kind::Portable)
    }

    /// Returns its name: "avx512", "avx2" or "portable" (the baseline of the target: SSE2, NEON).
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
        }
    }

    /// Does the work with this level in place of the detected one, on this thread.
    #[cfg(test)]
    pub(crate) fn within(self, work: impl FnOnce()) {
        WITHIN.set(Some(self));
        work();
        WITHIN.set(None);
    }

    /// The levels of this CPU, the simplest first.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Self> {
        let levels = [
            Self(Kind::Portable),
            #[cfg(target_arch = "x86_64")]
            Self(Kind::Avx2),
            #[cfg(target_arch = "x86_64")]
            Self(Kind::Avx512),
        ];
        let best = levels.iter().position(|level| *level == Self::detect()).unwrap();
        levels[..=best].to_vec()
    }
}
