//! The walk over all pairs of rows: blocks of x against panels of y, in parallel, folded in a fixed order.
//!
//! x and y are packed a chunk at a time (8 MiB each), shared by all threads; a task takes one block of x (about 224 rows)
//! through the panels of y in groups, so that values wait in the L1 cache for the sink. Blocks depend on the shapes and
//! the SIMD level alone, hence the same bits for any number of threads.

use std::ops::Range;

use super::Kernel;
use super::function::{Base, Rows, Want};
use super::micro::VECTORS;
use super::panels::{Pack, Packing, Panels, Side, centre, zeros};
use super::walk::Walk;
use crate::error::{Error, Result};
use crate::simd::{Level, Real, Simd, Vectorized};
use crate::tasks::Check;
use crate::{Matrix, tasks};

/// Bytes of x, and of y, that are packed at once.
const CHUNK_BYTES: usize = 8 << 20;

/// Rows that are packed at once at most, since tasks may hand on a number for each.
const CHUNK_ROWS: usize = 1 << 16;

/// Panels of y whose values are kept for a sink at a time.
pub(super) const GROUP: usize = 8;

/// About how many tasks there are at least, where there are as many blocks, so that no thread stands idle.
const TASKS: usize = 64;

/// The pairs that a reduction goes over.
#[derive(Clone, Copy)]
pub(super) struct Pairs<'a> {
    pub x: Matrix<'a>,
    /// None: x itself, and the sink sees only one half, blocks above the diagonal with `mirrored` tiles.
    pub y: Option<Matrix<'a>>,
    pub kernels: &'a [Kernel],
    pub want: Want,
}

/// Values of some rows of y (one after another) with a panel of rows of x (`width` for each row of y).
pub(super) struct Tile<'a, R> {
    pub values: &'a [R],
    pub width: usize,
    /// First row of x, in the task's block.
    pub x_first: usize,
    /// Rows of x that exist: the first of the `width`.
    pub x_rows: usize,
    /// First row of y.
    pub y_first: usize,
    pub y_rows: usize,
    /// Whether it stands for its mirror image too.
    pub mirrored: bool,
}

/// What a task reduces to.
pub(super) trait Sink<S: Simd>: Sized {
    fn take<const Y: usize>(&mut self, simd: S, tile: Tile<'_, S::Real>);
}

/// Makes the sinks of a reduction and takes their results.
pub(super) trait Reduction<R: Real>: Sync {
    type Output: Send;
    /// What `x_rows` rows of x from `x_first` on and the rows of y from `y_first` on are reduced to, by way of `walk`.
    fn task<S: Simd<Real = R>, const Y: usize>(&self, simd: S, place: Place, walk: impl WalkTiles<S>) -> Self::Output;
}

/// Which rows a task has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub x_first: usize,
    pub x_rows: usize,
    pub y_first: usize,
    pub y_rows: usize,
}

/// Hands all tiles of a task to a sink.
pub(super) trait WalkTiles<S: Simd> {
    fn walk(self, sink: &mut impl Sink<S>);
}

/// Runs a reduction over all pairs; `fold` gets what the tasks gave, in order.
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
    for x_first in (0..pairs.x.rows()).step_by(chunk) {
        let x_rows = chunk.min(pairs.x.rows() - x_first);
        let x_packed = pack_chunk(level, pairs.x, x_first..x_first + x_rows, Side::X, &components, threads, check)?;
        // Of a matrix with itself, the chunks before this one have met it.
        for y_first in (if pairs.y.is_none() { x_first } else { 0 }..y.rows()).step_by(chunk) {
            let y_rows = chunk.min(y.rows() - y_first);
            let y_packed = pack_chunk(level, y, y_first..y_first + y_rows, Side::Y, &components, threads, check)?;
            let chunks = Place { x_first, x_rows, y_first, y_rows };
            let places = places(pairs, chunks, block);
            let task = |index: usize| -> Result<D::Output> {
                let (x, y) = (&x_packed[..], &y_packed[..]);
                R::run(level, Task { pairs, components: &components, x, y, chunks, place: places[index], reduction })
            };
            let mut failed = None;
            tasks::run(places.len(), threads, check, task, |index, result| match result {
                Ok(output) if failed.is_none() => fold(places[index], output),
                Ok(_) => {}
                Err(error) => failed = Some(error),
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Kernels that share rows and base, with how their rows are packed.
pub(super) struct Component<'a> {
    packing: Packing,
    pub base: Base,
    pub kernels: Vec<&'a Kernel>,
}

fn components<'a>(pairs: Pairs<'a>, y: Matrix) -> Vec<Component<'a>> {
    let mut found: Vec<((Rows, Base), Vec<&Kernel>)> = Vec::new();
    for kernel in pairs.kernels {
        let parts = kernel.parts(pairs.want);
        match found.iter_mut().find(|(known, _)| *known == parts) {
            Some((_, kernels)) => kernels.push(kernel),
            None => found.push((parts, vec![kernel])),
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
    found.into_iter().map(component).collect()
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

struct BlockRows;

impl<R> Vectorized<R> for BlockRows {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd<Real = R>, const Y: usize>(self, _: S) -> usize {
        block_rows(VECTORS * S::LANES, Y)
    }
}

/// The rows of some chunk packed for each component: blocks of rows in parallel.
fn pack_chunk<R: Real>(
    level: Level,
    rows: Matrix,
    chunk: Range<usize>,
    side: Side,
    components: &[Component],
    threads: Option<usize>,
    check: Check,
) -> Result<Vec<Vec<Panels<R>>>> {
    let mut packed: Vec<Vec<Panels<R>>> = components.iter().map(|_| Vec::new()).collect();
    let block = R::run(level, BlockRows);
    let blocks = chunk.len().div_ceil(block);
    let pack = |index: usize| {
        let first = chunk.start + index % blocks * block;
        let count = block.min(chunk.end - first);
        R::run(level, Pack { rows, first, count, side, packing: &components[index / blocks].packing })
    };
    let mut failed = None;
    tasks::run(blocks * components.len(), threads, check, pack, |index, panels| match panels {
        Ok(panels) => packed[index / blocks].push(panels),
        Err(error) => failed = Some(error),
    })?;
    failed.map_or(Ok(packed), Err)
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

/// The pairs of one place.
pub(super) struct Task<'a, R, D> {
    pub pairs: Pairs<'a>,
    pub components: &'a [Component<'a>],
    /// Panels of the chunks by component and block.
    pub x: &'a [Vec<Panels<R>>],
    pub y: &'a [Vec<Panels<R>>],
    /// What these are the rows of.
    pub chunks: Place,
    pub place: Place,
    reduction: &'a D,
}

impl<R: Real, D: Reduction<R>> Vectorized<R> for Task<'_, R, D> {
    type Output = Result<D::Output>;

    #[inline(always)]
    fn run<S: Simd<Real = R>, const Y: usize>(self, simd: S) -> Self::Output {
        let values = zeros(GROUP * Y * VECTORS * S::LANES)?;
        let walk = Walk::<S, D, Y> { task: &self, simd, tile: values.clone(), values };
        Ok(self.reduction.task::<S, Y>(simd, self.place, walk))
    }
}
