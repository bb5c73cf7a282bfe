//! The interface of the engine and the reductions: pairs, tiles of their values, and sinks that take the tiles.

use super::function::Want;
use super::kernel::Kernel;
use crate::Matrix;
use crate::simd::{Real, Simd};

/// Panels of y in a tile at most.
pub(super) const GROUP: usize = 8;

/// The pairs that are reduced, and the quantity that is computed for each.
#[derive(Clone, Copy)]
pub(super) struct Pairs<'a> {
    pub x: Matrix<'a>,
    /// `None` for x itself: the Gram matrix is symmetric, and the sink sees the blocks on the diagonal and those on one
    /// side of it, the latter with `mirrored` tiles.
    pub y: Option<Matrix<'a>>,
    pub kernels: &'a [Kernel],
    pub want: Want,
}

/// Values of consecutive rows of y with a panel of rows of x: `width` values for each row of y.
pub(super) struct Tile<'a, R> {
    pub values: &'a [R],
    pub width: usize,
    /// First row of x, counted in the task's block.
    pub x_first: usize,
    /// Rows of x; the other values of the `width` are padding.
    pub x_rows: usize,
    /// First row of y.
    pub y_first: usize,
    pub y_rows: usize,
    /// Whether the tile stands for its mirror image too.
    pub mirrored: bool,
}

/// Reduces tiles.
pub(super) trait Sink<S: Simd>: Sized {
    /// Takes one tile.
    fn take<const Y: usize>(&mut self, simd: S, tile: Tile<'_, S::Real>);
}

/// A reduction: makes the sink of each task and returns the sink's result.
pub(super) trait Reduction<R: Real>: Sync {
    /// The result of one task.
    type Output: Send;
    /// Reduces the pairs of `place`, whose tiles `tiles` passes to the sink.
    fn task<S: Simd<Real = R>, const Y: usize>(&self, simd: S, place: Place, tiles: impl Tiles<S>) -> Self::Output;
}

/// The rows of x and y of a task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub x_first: usize,
    pub x_rows: usize,
    pub y_first: usize,
    pub y_rows: usize,
}

/// The tiles of a task.
pub(super) trait Tiles<S: Simd> {
    /// Passes each tile to the sink.
    fn reduce(self, sink: &mut impl Sink<S>);
}
