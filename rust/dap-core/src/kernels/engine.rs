//! Runs a reduction over all pairs of rows: blocks of x against panels of y, in parallel, folded in a fixed order.
//!
//! x and y are packed a chunk at a time (8 MiB each), which all threads share. A task takes one block of x (about 224
//! rows) and goes through the panels of y in groups, so that the values are still in the L1 cache when the sink takes
//! them. Blocks depend on the shapes and the SIMD level only, so the bits are the same for any number of threads.

use std::ops::Range;

use super::block::{Block, Component, block_rows};
use super::function::{Base, Rows};
use super::kernel::Kernel;
use super::sink::{Pairs, Place, Reduction};
use crate::error::{Error, Result};
use crate::simd::{Level, Real, Simd, Vectorized};
use crate::tasks::Check;
use crate::tiles::{Packing, Side, VECTORS, centre, pack_blocks};
use crate::{Matrix, tasks};

/// Bytes of x, and of y, that are packed at once.
const CHUNK_BYTES: usize = 8 << 20;

/// Rows that are packed at once at most, because tasks may return a number for each.
const CHUNK_ROWS: usize = 1 << 16;

/// About how many tasks there are at least, if there are as many blocks, so that no thread is idle.
const TASKS: usize = 64;

/// Runs a reduction over all pairs; `fold` gets the results of the tasks in order.
pub(super) fn run<R: Real, D: Reduction<R>>(
    pairs: Pairs,
    reduction: &D,
    threads: Option<usize>,
    check: Check,
    mut fold: impl FnMut(Place, D::Output),
) -> Result<()> {
    if pairs.kernels.is_empty() {
        return Err(Error::NoKernel);
    }
    let y = pairs.y.unwrap_or(pairs.x);
    if pairs.x.columns() != y.columns() {
        return Err(Error::Columns { x: pairs.x.columns(), y: y.columns() });
    }
    let level = Level::detect();
    let block = R::run(level, BlockRows);
    let components = components(pairs, y);
    let chunk = CHUNK_BYTES / (size_of::<R>() * components.len() * y.columns().max(1));
    let chunk = (chunk.min(CHUNK_ROWS) / block).max(1) * block;
    let pack = |rows: Matrix, range: Range<usize>, side, check: &mut dyn FnMut() -> _| {
        let pack = |component: &Component| {
            pack_blocks::<R>(rows, range.clone(), block, side, &component.packing, threads, &mut *check)
        };
        components.iter().map(pack).collect::<Result<Vec<_>>>()
    };
    for x_first in (0..pairs.x.rows()).step_by(chunk) {
        let x_rows = chunk.min(pairs.x.rows() - x_first);
        let x_packed = pack(pairs.x, x_first..x_first + x_rows, Side::X, check)?;
        // Where x is y, the pairs with earlier chunks are done.
        for y_first in (if pairs.y.is_none() { x_first } else { 0 }..y.rows()).step_by(chunk) {
            let y_rows = chunk.min(y.rows() - y_first);
            let y_packed = pack(y, y_first..y_first + y_rows, Side::Y, check)?;
            let chunks = Place { x_first, x_rows, y_first, y_rows };
            let places = places(pairs, chunks, block);
            let task = |index: usize| {
                let (x, y) = (&x_packed[..], &y_packed[..]);
                R::run(level, Block { pairs, components: &components, x, y, chunks, place: places[index], reduction })
            };
            tasks::try_run(places.len(), threads, check, task, |index, output| fold(places[index], output))?;
        }
    }
    Ok(())
}

/// Groups the kernels by the base that they are computed from.
fn components<'a>(pairs: Pairs<'a>, y: Matrix) -> Vec<Component<'a>> {
    let mut groups: Vec<((Rows, Base), Vec<&Kernel>)> = Vec::new();
    for kernel in pairs.kernels {
        let parts = kernel.parts(pairs.want);
        match groups.iter_mut().find(|(known, _)| *known == parts) {
            Some((_, kernels)) => kernels.push(kernel),
            None => groups.push((parts, vec![kernel])),
        }
    }
    let component = |((rows, base), kernels)| {
        let packing = match rows {
            Rows::Plain => Packing::Plain,
            Rows::Unit => Packing::Unit,
            Rows::Centred => Packing::Centred(centre(y)),
        };
        Component { packing, base, kernels }
    };
    groups.into_iter().map(component).collect()
}

struct BlockRows;

impl<R> Vectorized<R> for BlockRows {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd<Real = R>, const Y: usize>(self, _: S) -> usize {
        block_rows(VECTORS * S::LANES, Y)
    }
}

/// The tasks over a chunk of x and one of y, in order.
fn places(pairs: Pairs, chunks: Place, block: usize) -> Vec<Place> {
    let x_blocks = chunks.x_rows.div_ceil(block);
    let step = (x_blocks * chunks.y_rows.div_ceil(block) / TASKS).max(1) * block;
    let (x_end, y_end) = (chunks.x_first + chunks.x_rows, chunks.y_first + chunks.y_rows);
    let mut places = Vec::new();
    for x_first in (chunks.x_first..x_end).step_by(block) {
        let start = if pairs.y.is_none() { chunks.y_first.max(x_first) } else { chunks.y_first };
        for y_first in (start..y_end).step_by(step) {
            let (x_rows, y_rows) = (block.min(x_end - x_first), step.min(y_end - y_first));
            places.push(Place { x_first, x_rows, y_first, y_rows });
        }
    }
    places
}
