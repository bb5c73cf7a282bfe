//! What dap computes on the CPU over arrays: pure Rust, no Python.
//!
//! Every reduction gives the same bits whatever the number of threads: the blocks are fixed by the shapes and the SIMD
//! level, and partial sums are combined in index order.

pub mod clustering;
mod elementary;
pub mod error;
pub mod images;
pub mod index;
pub mod kernels;
pub mod matrix;
pub mod pool;
pub mod simd;
pub mod tar;
mod tasks;

pub use error::{Error, Interrupted, Result};
pub use matrix::Matrix;
pub use tasks::Check;
