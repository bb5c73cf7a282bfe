//! Files of the feature index: safetensors files that are written row by row, checked when read, and hashed in blocks.
//!
//! A file is created as `<name>.partial` with its final size and header, filled in any order, and renamed when complete.

mod blocks;
mod layout;
mod writer;

pub use crate::error::{LayoutError, MAX_HEADER};
pub use blocks::{hash_blocks, verify_blocks};
pub use layout::{Dtype, Layout, Tensor};
pub use writer::{create_tensors, finish_tensors, write_rows};

#[cfg(test)]
mod tests;
