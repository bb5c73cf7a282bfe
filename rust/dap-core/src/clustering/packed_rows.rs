//! Rows packed once for many passes of the micro-kernel, in blocks that are the tasks of each pass.

use crate::Matrix;
use crate::error::Result;
use crate::simd::Real;
use crate::tasks::Check;
use crate::tiles::{Packing, Panels, Side, centre, pack_blocks};

/// The rows of a block are a multiple of this: whole panels at every level.
const ROWS: usize = 256;

/// Blocks of a pass, if there are enough rows.
const BLOCKS: usize = 64;

/// The rows of a matrix less their centre, in blocks of panels of two vectors.
pub(super) struct PackedRows<R> {
    pub blocks: Vec<Panels<R>>,
    pub centre: Vec<f64>,
    /// Rows of a block; the last may have fewer.
    pub block: usize,
    pub rows: usize,
}

impl<R: Real> PackedRows<R> {
    pub fn new(x: Matrix, threads: Option<usize>, check: Check) -> Result<Self> {
        let block = x.rows().div_ceil(BLOCKS).next_multiple_of(ROWS).max(ROWS);
        let centre = centre(x);
        let packing = Packing::Centred(centre.clone());
        let blocks = pack_blocks(x, 0..x.rows(), block, Side::X, &packing, threads, check)?;
        Ok(Self { blocks, centre, block, rows: x.rows() })
    }

    /// Rows of block `index`.
    pub fn rows_of(&self, index: usize) -> usize {
        self.block.min(self.rows - index * self.block)
    }

    /// Packs `points` (float64, rows of as many columns) less the centre as the other operand: panels of `width` points.
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
