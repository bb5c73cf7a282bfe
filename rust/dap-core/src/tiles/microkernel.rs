//! The micro-kernel: sums over columns for 2 vectors of rows of x and Y rows of y, kept in registers.

use crate::simd::{Real, Simd};

/// Vectors of x rows in a panel; with the Y of each level their sums fill its registers.
pub(crate) const VECTORS: usize = 2;

/// Columns that the micro-kernel goes through at once: a panel of x stays in the L1 cache meanwhile.
const COLUMNS: usize = 256;

/// The term that is summed over the columns.
pub(crate) trait Step {
    /// Adds the term of x and y to `sum`.
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
        // A product with one, because some CPUs add in other units than they multiply, and this uses both.
        simd.mul_add(simd.abs(simd.sub(x, y)), simd.splat(S::Real::from_f64(1.0)), sum)
    }
}

/// The sums of one tile over `columns` columns, column by column, as Y rows of `VECTORS` vectors; added to the values
/// in `tile` unless it is `fresh`.
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

/// Writes the sums of a panel of x with `count` panels of y into `tile`, going through [`COLUMNS`] columns at a time.
#[inline(always)]
pub(crate) fn sum<'y, S: Simd, T: Step, const Y: usize>(
    simd: S,
    x: &[S::Real],
    y: impl Fn(usize) -> &'y [S::Real],
    count: usize,
    tile: &mut [S::Real],
) where
    S::Real: 'y,
{
    let width = VECTORS * S::LANES;
    let columns = x.len() / width;
    assert!(tile.len() >= count * Y * width);
    if columns == 0 {
        tile.fill(S::Real::default());
    }
    for first in (0..columns).step_by(COLUMNS) {
        let part = COLUMNS.min(columns - first);
        for panel in 0..count {
            let y = y(panel);
            assert!(y.len() == columns * Y);
            // SAFETY: the panels hold all columns, of which `part` follow `first`; the tile was checked above.
            unsafe {
                let (x, y) = (x.as_ptr().add(first * width), y.as_ptr().add(first * Y));
                let tile = tile.as_mut_ptr().add(panel * Y * width);
                accumulate::<S, T, Y>(simd, part, x, y, tile, first == 0);
            }
        }
    }
}
