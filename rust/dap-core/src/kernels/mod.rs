//! Mercer kernels and the reductions of their Gram matrices, without the whole matrix in memory.
//!
//! A kernel k(x, y) has the distance D(x, y) = √(k(x,x) + k(y,y) − 2 k(x,y)) (Su et al., "Diffusion Models as Dataset
//! Distillation Priors", ICLR 2026, Eq. 6). Blocks of pairs go through three steps while they lie in the cache: the
//! micro-kernel of `tiles` computes x·y, ‖x − y‖² or ‖x − y‖₁ of a tile, `function` turns it into k or D², and a
//! [`Sink`](sink::Sink) reduces it. Sums over y are kept in float64.
//!
//! NaN and infinity: a row that holds one counts as a row of NaN.

mod block;
mod engine;
mod function;
mod gram;
mod kernel;
mod linear;
mod nearest;
pub mod reference;
mod sink;
mod streaming;
mod sums;
#[cfg(test)]
mod tests;
mod weighted;

pub use gram::gram;
pub use kernel::{Kernel, MAX_DEGREE};
pub use nearest::nearest;
pub(crate) use streaming::{FEW_ROWS, columns, squared_distances};
pub use sums::{PairSums, mean_distance, pair_sums, row_sums};
