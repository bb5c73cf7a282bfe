//! Rows packed once for many passes of the micro-kernels, in blocks that are the tasks of each pass.

use crate::error::Result;
use crate::kernels::micro::{Step, VECTORS, accumulate};
use crate::kernels::panels::{Packing, Panels, centre};
use crate::simd::{Level, Real, Simd, Vectorized};
use crate::tasks::Check;
use crate::{Matrix, tasks};

/// Rows of a block are a multiple of this: whole panels at every level.
const ROWS: usize = 256;

/// Blocks that a pass is cut into, where there are rows enough.
const BLOCKS: usize = 64;

/// Columns that a micro-kernel goes through at once: a panel stays in the L1 cache meanwhile.
const COLUMNS: usize = 256;

/// The rows of a matrix less their centre, in blocks of panels of two vectors.
pub(super) struct Packed<R> {
    pub blocks: Vec<Panels<R>>,
    pub centre: Vec<f64>,
    /// Rows of a block; the last may have fewer.
    pub block: usize,
    pub rows: usize,
}

impl<R: Real> Packed<R> {
    pub fn new(x: Matrix, threads: Option<usize>, check: Check) -> Result<Self> {
        let level = Level::detect();
        let block = x.rows().div_ceil(BLOCKS).next_multiple_of(ROWS).max(ROWS);
        let packing = Packing::Centred(centre(x));
        let pack = |index: usize| {
            let first = index * block;
            R::run(level, Pack { x, first, count: block.min(x.rows() - first), packing: &packing })
        };
        let (mut blocks, mut failed) = (Vec::new(), None);
        tasks::run(x.rows().div_ceil(block), threads, check, pack, |_, panels| match panels {
            Ok(panels) => blocks.push(panels),
            Err(error) => failed = Some(error),
        })?;
        let Packing::Centred(centre) = packing else { unreachable!("it was made above") };
        failed.map_or(Ok(Self { blocks, centre, block, rows: x.rows() }), Err)
    }

    /// Rows of block `index`.
    pub fn rows_of(&self, index: usize) -> usize {
        self.block.min(self.rows - index * self.block)
    }

    /// `points` (float64, rows of as many columns) less the centre, as the other operand: panels of `width` points.
    pub fn pack_points(&self, points: &[f64], width: usize) -> Vec<R> {
        let columns = self.centre.len();
        let count = points.len() / columns.max(1);
        let mut packed = vec![R::default(); count.div_ceil(width) * width * columns];
        for (number, point) in points.chunks_exact(columns.max(1)).enumerate() {
            let panel = &mut packed[number / width * width * columns..];
            for (column, (value, centre)) in point.iter().zip(&self.centre).enumerate() {
                panel[column * width + number % width] = R::from_f64(value - centre);
            }
        }
        packed
    }
}

/// The panels of one block.
struct Pack<'a> {
    x: Matrix<'a>,
    first: usize,
    count: usize,
    packing: &'a Packing,
}

impl<R: Real> Vectorized<R> for Pack<'_> {
    type Output = Result<Panels<R>>;

    #[inline(always)]
    fn run<S: Simd<Real = R>, const Y: usize>(self, _: S) -> Self::Output {
        Panels::pack(self.x, self.first, self.count, VECTORS * S::LANES, self.packing)
    }
}

/// The sums of a tile: a panel of rows with a panel of `Y` points, `Y` rows of two vectors.
#[inline(always)]
pub(super) fn sums<S: Simd, T: Step, const Y: usize>(
    simd: S,
    rows: &[S::Real],
    points: &[S::Real],
    tile: &mut [S::Real],
) {
    let width = VECTORS * S::LANES;
    let columns = rows.len() / width;
    assert!(points.len() == columns * Y && tile.len() == Y * width);
    if columns == 0 {
        tile.fill(S::Real::default());
    }
    for first in (0..columns).step_by(COLUMNS) {
        let some = COLUMNS.min(columns - first);
        // SAFETY: the panels hold all columns, of which `some` follow `first`; the tile was checked above.
        unsafe {
            let (rows, points) = (rows.as_ptr().add(first * width), points.as_ptr().add(first * Y));
            accumulate::<S, T, Y>(simd, some, rows, points, tile.as_mut_ptr(), first == 0);
        }
    }
}
