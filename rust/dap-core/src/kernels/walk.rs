//! One task's way through its tiles: micro-kernel, squared distances, kernel function, sink.

use super::engine::{Component, GROUP, Place, Sink, Task, Tile, WalkTiles, block_rows};
use super::function::{Base, Map, Sizes};
use super::micro::{Dot, Manhattan, Squared, Step, VECTORS, accumulate};
use crate::simd::{Real, Simd};

/// A squared distance below this part of ‖x‖² + ‖y‖² has lost digits, and is summed again from the differences.
const NEAR: f64 = 1.0 / 32.0;

/// Columns that a micro-kernel goes through at once: a panel of x stays in the L1 cache meanwhile.
const COLUMNS: usize = 256;

/// The tiles of a task.
pub(super) struct Walk<'a, S: Simd, D, const Y: usize> {
    pub task: &'a Task<'a, S::Real, D>,
    pub simd: S,
    /// What the micro-kernels make, and what the kernels make of it.
    pub tile: Vec<S::Real>,
    pub values: Vec<S::Real>,
}

impl<S: Simd, D, const Y: usize> WalkTiles<S> for Walk<'_, S, D, Y> {
    #[inline(always)]
    fn walk(mut self, sink: &mut impl Sink<S>) {
        let width = VECTORS * S::LANES;
        let block = block_rows(width, Y);
        let Place { x_first, x_rows, y_first, y_rows } = self.task.place;
        let mut row = 0;
        while row < y_rows {
            // Groups end where blocks do: the packed panels of a block lie together.
            let in_chunk = y_first - self.task.chunks.y_first + row;
            let (index, within) = (in_chunk / block, in_chunk % block);
            let rows = (GROUP * Y).min(y_rows - row).min(block - within);
            for first in (0..x_rows).step_by(width) {
                for component in 0..self.task.components.len() {
                    self.component(component, first / width, index, within / Y, rows.div_ceil(Y));
                }
                let values = if self.task.pairs.kernels.len() == 1 { &self.tile } else { &self.values };
                sink.take::<Y>(
                    self.simd,
                    Tile {
                        values,
                        width,
                        x_first: first,
                        x_rows: width.min(x_rows - first),
                        y_first: y_first + row,
                        y_rows: rows,
                        mirrored: self.task.pairs.y.is_none() && y_first + row >= x_first + block,
                    },
                );
            }
            row += rows;
        }
    }
}

impl<S: Simd, D, const Y: usize> Walk<'_, S, D, Y> {
    /// Adds the values of one component's kernels: panel `x` of x, `count` panels of y from `first` on in a block.
    #[inline(always)]
    fn component(&mut self, component: usize, x: usize, block: usize, first: usize, count: usize) {
        let (simd, width) = (self.simd, VECTORS * S::LANES);
        let Component { base, kernels, .. } = &self.task.components[component];
        let x_block = (self.task.place.x_first - self.task.chunks.x_first) / block_rows(width, Y);
        let (x_panels, y_panels) = (&self.task.x[component][x_block], &self.task.y[component][block]);
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
                values: if self.task.pairs.kernels.len() == 1 { None } else { Some(self.values.as_mut_ptr()) },
                fresh: component == 0 && index == 0,
            };
            kernel.apply(simd, self.task.pairs.want, place);
        }
    }
}

/// Sums over all columns for `count` panels of y, a slice of the columns at a time.
#[inline(always)]
fn sum<'y, S: Simd, T: Step, const Y: usize>(
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
        let some = COLUMNS.min(columns - first);
        for panel in 0..count {
            let y = y(panel);
            assert!(y.len() == columns * Y);
            // SAFETY: the panels hold all columns, of which `some` follow `first`; the tile was checked above.
            unsafe {
                let (x, y) = (x.as_ptr().add(first * width), y.as_ptr().add(first * Y));
                let tile = tile.as_mut_ptr().add(panel * Y * width);
                accumulate::<S, T, Y>(simd, some, x, y, tile, first == 0);
            }
        }
    }
}

/// ‖x‖² + ‖y‖² − 2 x·y in place of x·y; false if it lost digits anywhere, or holds NaN.
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

/// Where a kernel's function is applied: from the tile, in place or added to other values.
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
