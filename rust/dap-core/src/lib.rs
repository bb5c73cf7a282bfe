//! What dap computes on the CPU over arrays: pure Rust, no Python.
//!
//! Every reduction gives the same bits whatever the number of threads and the SIMD level: the blocks are fixed by the
//! shapes alone, partial sums are combined in index order, and no multiply-add is fused.

pub mod error;
pub mod kernels;
pub mod matrix;
pub mod pool;
pub mod simd;
mod waves;

pub use error::{Error, Interrupted, Result};
pub use matrix::Matrix;
