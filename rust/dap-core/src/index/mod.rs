//! Files of the feature index: safetensors that are written row by row, read with every field checked, and hashed.
//!
//! A file is created as `<name>.partial` with its final size and header, filled in any order, and renamed when whole.

mod blocks;
mod layout;
mod writer;

pub use blocks::{hash_blocks, verify_blocks};
pub use layout::{Dtype, Layout, LayoutError, MAX_HEADER, Tensor};
pub(crate) use writer::sync_folder;
pub use writer::{create_tensors, finish_tensors, write_rows};

use std::io;
use std::path::Path;

use crate::error::Error;

/// The error of an operation on a file.
pub(crate) fn failed(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    |error| Error::Io { path: path.into(), code: error.raw_os_error(), message: error.to_string() }
}

#[cfg(test)]
mod tests;
