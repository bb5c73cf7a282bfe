//! Micro-kernels: a tile of 2 vectors of x rows and Y rows of y, whose sums stay in registers over the columns.

use crate::simd::{Real, Simd};

/// Vectors of x rows in a panel; with the Y of each level their sums fill its registers.
pub(crate) const VECTORS: usize = 2;

/// What is summed over the columns.
pub(crate) trait Step {
    fn step<S: Simd>(simd: S, x: S::Vector, y: S::Vector, sum: S::Vector) -> S::Vector;
}

/// x·y.
pub(crate) struct Dot;
/// (x − y)².
pub(crate) struct Squared;
/// |x − y|.
pub(crate) struct Manhattan;

impl Step for Dot {
    #[inline(always)]
    fn step<S: Simd>(simd: S, x: S::Vector, y: S::Vector, sum: S::Vector) -> S::Vector {
        simd.mul_add(x, y, sum)
    }
}

impl Step for Squared {
    #[inline(always)]
    fn step<S: Simd>(simd: S, x: S::Vector, y: S::Vector, sum: S::Vector) -> S::Vector {
        let difference = simd.sub(x, y);
        simd.mul_add(difference, difference, sum)
    }
}

impl Step for Manhattan {
    #[inline(always)]
    fn step<S: Simd>(simd: S, x: S::Vector, y: S::Vector, sum: S::Vector) -> S::Vector {
        // As a product with one: some CPUs have units for adding beside those for multiplying, and this fills both.
        simd.mul_add(simd.abs(simd.sub(x, y)), simd.splat(S::Real::from_f64(1.0)), sum)
    }
}

/// The sums of one tile over `columns` columns, column by column, as Y rows of `VECTORS` vectors; added to what `tile`
/// holds unless it is `fresh`.
///
/// # Safety
/// `x` holds `columns` × `VECTORS` vectors, `y` `columns` × Y values, `tile` Y × `VECTORS` vectors.
#[inline(always)]
pub(crate) unsafe fn accumulate<S: Simd, T: Step, const Y: usize>(
    simd: S,
    columns: usize,
    x: *const S::Real,
    y: *const S::Real,
    tile: *mut S::Real,
    fresh: bool,
) {
    let mut sums = [[simd.splat(S::Real::default()); VECTORS]; Y];
    let (mut x, mut y) = (x, y);
    for _ in 0..columns {
        // SAFETY: column by column both stay inside what the caller promised; the pointers end one past it.
        unsafe {
            let vectors = [simd.load(x), simd.load(x.add(S::LANES))];
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = simd.splat(*y.add(row));
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    *sum = T::step(simd, vector, value, *sum);
                }
            }
            x = x.add(VECTORS * S::LANES);
            y = y.add(Y);
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        for (vector, sum) in sums.into_iter().enumerate() {
            // SAFETY: row < Y, vector < VECTORS.
            unsafe {
                let place = tile.add((row * VECTORS + vector) * S::LANES);
                simd.store(place, if fresh { sum } else { simd.add(simd.load(place), sum) });
            }
        }
    }
}
