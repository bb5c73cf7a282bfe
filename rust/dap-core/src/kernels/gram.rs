//! The Gram matrix itself, written block by block into the caller's array.

use super::engine;
use super::function::Want;
use super::kernel::Kernel;
use super::sink::{Pairs, Place, Reduction, Sink, Tile, Tiles};
use crate::Matrix;
use crate::error::{Error, Result};
use crate::simd::{Real, Simd};
use crate::tasks::Check;

/// Writes k(x_i, y_j), the sum of `kernels`, into `out` row by row; where y is None it is x, and only half is computed.
///
/// `R` is f64 if x or y is, otherwise f32.
///
/// # Errors
/// Different columns, an `out` of another length than n × m or another type, a bad number of threads, too little memory, or
/// what `check` returns; `out` may be partly written then.
///
/// ```
/// use dap_core::kernels::{Kernel, gram};
/// use dap_core::matrix::{Matrix, Values};
/// let x = Matrix::new(Values::Float32(&[1.0, 2.0]), 1, 2)?;
/// let y = Matrix::new(Values::Float32(&[3.0, 4.0, 0.0, 1.0]), 2, 2)?;
/// let mut out = [0.0_f32; 2];
/// gram(x, Some(y), &[Kernel::new("linear", &[])?], &mut out, None, &mut || Ok(()))?;
/// assert_eq!(out, [11.0, 2.0]);
/// # Ok::<(), dap_core::Error>(())
/// ```
pub fn gram<R: Real>(
    x: Matrix,
    y: Option<Matrix>,
    kernels: &[Kernel],
    out: &mut [R],
    threads: Option<usize>,
    check: Check,
) -> Result<()> {
    let other = y.unwrap_or(x);
    if x.rows().checked_mul(other.rows()) != Some(out.len()) {
        return Err(Error::Shape { rows: x.rows(), columns: other.rows(), len: out.len() });
    }
    if (x.is_float64() || other.is_float64()) != (size_of::<R>() == size_of::<f64>()) {
        return Err(Error::OutType);
    }
    let gram = Gram { out: out.as_mut_ptr(), columns: other.rows(), symmetric: y.is_none() };
    engine::run(Pairs { x, y, kernels, want: Want::Value }, &gram, threads, check, |_, ()| ())
}

struct Gram<R> {
    out: *mut R,
    /// Rows of y.
    columns: usize,
    symmetric: bool,
}

// SAFETY: tasks write to different places: each pair of rows, with its mirror image, belongs to one task.
unsafe impl<R: Sync> Sync for Gram<R> {}

impl<R: Real> Reduction<R> for Gram<R> {
    type Output = ();

    #[inline(always)]
    fn task<S: Simd<Real = R>, const Y: usize>(&self, _: S, place: Place, tiles: impl Tiles<S>) {
        tiles.reduce(&mut GramSink { gram: self, x_first: place.x_first });
    }
}

struct GramSink<'a, R> {
    gram: &'a Gram<R>,
    x_first: usize,
}

impl<S: Simd> Sink<S> for GramSink<'_, S::Real> {
    #[inline(always)]
    fn take<const Y: usize>(&mut self, _: S, tile: Tile<'_, S::Real>) {
        let Gram { out, columns, symmetric } = *self.gram;
        let x_first = self.x_first + tile.x_first;
        for x in 0..tile.x_rows {
            // In a block on the diagonal a pair and its mirror image may lie in tiles that round differently.
            let first = if symmetric { (x_first + x).saturating_sub(tile.y_first) } else { 0 };
            for y in first..tile.y_rows {
                // SAFETY: rows of x and y exist, and `out` has a value for each pair; no other task has this one.
                unsafe { *out.add((x_first + x) * columns + tile.y_first + y) = tile.values[y * tile.width + x] };
            }
        }
        if symmetric {
            for (y, values) in tile.values.chunks_exact(tile.width).take(tile.y_rows).enumerate() {
                let end = tile.x_rows.min((tile.y_first + y + 1).saturating_sub(x_first));
                for (x, value) in values[..end].iter().enumerate() {
                    // SAFETY: as above; here x and y are rows of the same matrix.
                    unsafe { *out.add((tile.y_first + y) * columns + x_first + x) = *value };
                }
            }
        }
    }
}
