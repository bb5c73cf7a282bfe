//! One block of pairs, tile by tile: micro-kernel, squared distances, kernel function, sink.

use super::function::{Base, Map, Sizes};
use super::kernel::Kernel;
use super::sink::{GROUP, Pairs, Place, Reduction, Sink, Tile, Tiles};
use crate::error::Result;
use crate::memory::zeros;
use crate::simd::{Real, Simd, Vectorized};
use crate::tiles::{Dot, Manhattan, Packing, Panels, Squared, VECTORS, sum};

/// A squared distance below this fraction of ‖x‖² + ‖y‖² has lost digits, and is computed again from the differences.
const NEAR: f64 = 1.0 / 32.0;

/// Kernels that are computed from the same base of the same packed rows.
pub(super) struct Component<'a> {
    pub packing: Packing,
    pub base: Base,
    pub kernels: Vec<&'a Kernel>,
}

/// Rows in a block: about 200, in whole panels of x and of y.
#[inline(always)]
pub(super) fn block_rows(x: usize, y: usize) -> usize {
    let mut rows = x;
    while !rows.is_multiple_of(y) || rows < 200 {
        rows += x;
    }
    rows
}

/// The pairs of one task.
pub(super) struct Block<'a, R, D> {
    pub pairs: Pairs<'a>,
    pub components: &'a [Component<'a>],
    /// Panels of the chunk of x, by component and block.
    pub x: &'a [Vec<Panels<R>>],
    /// Panels of the chunk of y, by component and block.
    pub y: &'a [Vec<Panels<R>>],
    /// The rows of the two chunks.
    pub chunks: Place,
    pub place: Place,
    pub reduction: &'a D,
}

impl<R: Real, D: Reduction<R>> Vectorized<R> for Block<'_, R, D> {
    type Output = Result<D::Output>;

    #[inline(always)]
    fn run<S: Simd<Real = R>, const Y: usize>(self, simd: S) -> Self::Output {
        let values = zeros(GROUP * Y * VECTORS * S::LANES)?;
        let tiles = BlockTiles::<S, D, Y> { block: &self, simd, tile: values.clone(), values };
        Ok(self.reduction.task::<S, Y>(simd, self.place, tiles))
    }
}

/// The tiles of a block.
struct BlockTiles<'a, S: Simd, D, const Y: usize> {
    block: &'a Block<'a, S::Real, D>,
    simd: S,
    /// The base of the current tile; if there is one kernel, its values replace the base.
    tile: Vec<S::Real>,
    /// The sum of the values of all kernels if there are several.
    values: Vec<S::Real>,
}

impl<S: Simd, D, const Y: usize> Tiles<S> for BlockTiles<'_, S, D, Y> {
    #[inline(always)]
    fn reduce(mut self, sink: &mut impl Sink<S>) {
        let width = VECTORS * S::LANES;
        let block = block_rows(width, Y);
        let Place { x_first, x_rows, y_first, y_rows } = self.block.place;
        let mut row = 0;
        while row < y_rows {
            // A group does not cross the end of a block, because only the panels of one block are contiguous.
            let in_chunk = y_first - self.block.chunks.y_first + row;
            let (index, within) = (in_chunk / block, in_chunk % block);
            let rows = (GROUP * Y).min(y_rows - row).min(block - within);
            for first in (0..x_rows).step_by(width) {
                for component in 0..self.block.components.len() {
                    self.component(component, first / width, index, within / Y, rows.div_ceil(Y));
                }
                let values = if self.block.pairs.kernels.len() == 1 { &self.tile } else { &self.values };
                sink.take::<Y>(
                    self.simd,
                    Tile {
                        values,
                        width,
                        x_first: first,
                        x_rows: width.min(x_rows - first),
                        y_first: y_first + row,
                        y_rows: rows,
                        mirrored: self.block.pairs.y.is_none() && y_first + row >= x_first + block,
                    },
                );
            }
            row += rows;
        }
    }
}

impl<S: Simd, D, const Y: usize> BlockTiles<'_, S, D, Y> {
    /// Adds the values of one component's kernels: panel `x` of x with `count` panels of y from `first` on in `block`.
    #[inline(always)]
    fn component(&mut self, component: usize, x: usize, block: usize, first: usize, count: usize) {
        let (simd, width) = (self.simd, VECTORS * S::LANES);
        let Component { base, kernels, .. } = &self.block.components[component];
        let x_block = (self.block.place.x_first - self.block.chunks.x_first) / block_rows(width, Y);
        let (x_panels, y_panels) = (&self.block.x[component][x_block], &self.block.y[component][block]);
        let y = |panel: usize| y_panels.panel(first + panel);
        let tile = &mut self.tile[..];
        match base {
            Base::Dot => sum::<S, Dot, Y>(simd, x_panels.panel(x), y, count, tile),
            Base::Manhattan => sum::<S, Manhattan, Y>(simd, x_panels.panel(x), y, count, tile),
            Base::Squared => {
                sum::<S, Dot, Y>(simd, x_panels.panel(x), y, count, tile);
                let x_squared = &x_panels.squared[x * width..][..width];
                for (panel, tile) in tile.chunks_exact_mut(Y * width).take(count).enumerate() {
                    let y_squared = &y_panels.squared[(first + panel) * Y..][..Y];
                    if !squared_from_dot::<S, Y>(simd, x_squared, y_squared, tile) {
                        sum::<S, Squared, Y>(simd, x_panels.panel(x), |_| y(panel), 1, tile);
                    }
                }
            }
        }
        for (index, kernel) in kernels.iter().enumerate() {
            let place = Function {
                x_squared: &x_panels.squared[x * width..][..width],
                x_norms: &x_panels.norms[x * width..][..width],
                y_squared: &y_panels.squared[first * Y..][..count * Y],
                y_norms: &y_panels.norms[first * Y..][..count * Y],
                tile: self.tile.as_mut_ptr(),
                values: if self.block.pairs.kernels.len() == 1 { None } else { Some(self.values.as_mut_ptr()) },
                fresh: component == 0 && index == 0,
            };
            kernel.apply(simd, self.block.pairs.want, place);
        }
    }
}

/// Replaces x·y by ‖x‖² + ‖y‖² − 2 x·y; false if a value lost digits or is NaN.
#[inline(always)]
fn squared_from_dot<S: Simd, const Y: usize>(
    simd: S,
    x_squared: &[S::Real],
    y_squared: &[S::Real],
    tile: &mut [S::Real],
) -> bool {
    let (near, minus_two) = (simd.splat(S::Real::from_f64(NEAR)), simd.splat(S::Real::from_f64(-2.0)));
    assert!(x_squared.len() == VECTORS * S::LANES && tile.len() == Y * x_squared.len());
    let mut good = true;
    for (row, y) in y_squared.iter().enumerate().take(Y) {
        for vector in 0..VECTORS {
            // SAFETY: the lengths were checked above.
            unsafe {
                let place = tile.as_mut_ptr().add((row * VECTORS + vector) * S::LANES);
                let size = simd.add(simd.load(x_squared.as_ptr().add(vector * S::LANES)), simd.splat(*y));
                let squared = simd.mul_add(minus_two, simd.load(place), size);
                good &= simd.all_at_least(squared, simd.mul(near, size));
                simd.store(place, squared);
            }
        }
    }
    good
}

/// Applies a kernel's function to a tile, in place or adding the results to other values.
struct Function<'a, R> {
    x_squared: &'a [R],
    x_norms: &'a [R],
    y_squared: &'a [R],
    y_norms: &'a [R],
    tile: *mut R,
    values: Option<*mut R>,
    fresh: bool,
}

impl<S: Simd> Map<S> for Function<'_, S::Real> {
    #[inline(always)]
    fn map(self, simd: S, function: impl Fn(S::Vector, Sizes<S::Vector>, Sizes<S::Vector>) -> S::Vector) {
        for (row, (y_squared, y_norm)) in self.y_squared.iter().zip(self.y_norms).enumerate() {
            let y = Sizes { squared: simd.splat(*y_squared), norm: simd.splat(*y_norm) };
            for vector in 0..VECTORS {
                // SAFETY: tile and values hold a row of `VECTORS` vectors for each row of y, as do the x sizes once.
                unsafe {
                    let squared = simd.load(self.x_squared.as_ptr().add(vector * S::LANES));
                    let norm = simd.load(self.x_norms.as_ptr().add(vector * S::LANES));
                    let place = (row * VECTORS + vector) * S::LANES;
                    let value = function(simd.load(self.tile.add(place)), Sizes { squared, norm }, y);
                    match self.values {
                        None => simd.store(self.tile.add(place), value),
                        Some(values) if self.fresh => simd.store(values.add(place), value),
                        Some(values) => {
                            simd.store(values.add(place), simd.add(simd.load(values.add(place)), value));
                        }
                    }
                }
            }
        }
    }
}
