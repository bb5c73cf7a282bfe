//! The parts of dap that run on the CPU in Rust: kernels, clustering, images, index files and tar archives. No Python.
//!
//! Results do not depend on the number of threads: blocks are fixed by the shapes and the SIMD level, and partial sums are
//! combined in index order.

pub mod clustering;
pub mod error;
mod files;
pub mod images;
pub mod index;
pub mod kernels;
pub mod matrix;
mod memory;
pub mod pool;
pub mod simd;
pub mod tar;
mod tasks;
mod tiles;

pub use error::{Error, Interrupted, Result};
pub use matrix::Matrix;
pub use tasks::Check;
