//! The one error of this crate.

use std::path::PathBuf;

use thiserror::Error;

use crate::index::LayoutError;
use crate::tar::TarError;

/// The caller's check asked a long computation to stop.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("interrupted")]
pub struct Interrupted;

/// Why a computation gave no result.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum Error {
    /// The buffer does not hold rows × columns values.
    #[error("expected {rows} x {columns} values, got {len}")]
    Shape {
        /// Rows that were asked for.
        rows: usize,
        /// Columns that were asked for.
        columns: usize,
        /// Values in the buffer.
        len: usize,
    },
    /// x and y have different numbers of columns.
    #[error("x and y must have the same number of columns, got {x} and {y}")]
    Columns {
        /// Columns of x.
        x: usize,
        /// Columns of y.
        y: usize,
    },
    /// A mean over no rows.
    #[error("y has no rows: the mean distance to nothing is not defined")]
    NoRows,
    /// A kernel that is not known, or whose parameters are not what it takes.
    #[error("no kernel {name:?} has the parameters {parameters:?}")]
    Kernel {
        /// The name that was asked for.
        name: String,
        /// The parameters that were given.
        parameters: Vec<f64>,
    },
    /// No kernel at all.
    #[error("expected at least one kernel, got none")]
    NoKernel,
    /// An output array of another type than the computation's.
    #[error("out must be float64 if x or y is, otherwise float32")]
    OutType,
    /// More neighbours than there are rows.
    #[error("y has {rows} rows, fewer than the {count} neighbours that were asked for")]
    Neighbours {
        /// Neighbours that were asked for.
        count: usize,
        /// Rows of y.
        rows: usize,
    },
    /// No rows, or more than there are.
    #[error("expected a number of rows from 1 to {rows}, got {count}")]
    Count {
        /// Rows that were asked for.
        count: usize,
        /// Rows that there are.
        rows: usize,
    },
    /// A row that does not exist.
    #[error("expected a row below {rows}, got {row}")]
    Row {
        /// The row that was asked for.
        row: usize,
        /// Rows that there are.
        rows: usize,
    },
    /// A number of threads outside the accepted range.
    #[error("threads must be from 1 to {max}, got {threads}", max = crate::pool::MAX_THREADS)]
    Threads {
        /// Threads that were asked for.
        threads: usize,
    },
    /// The operating system gave no threads.
    #[error("cannot start the thread pool: {0}")]
    Pool(String),
    /// The header of a safetensors file is refused.
    #[error("{}: {error}; copy or build the file again", path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: LayoutError,
    },
    /// A tar archive is refused.
    #[error("{}: {error}", path.display())]
    Tar {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: TarError,
    },
    /// Rows that a file has no place for.
    #[error("{}: tensor {tensor:?} is not there, or has another dtype, other columns or fewer rows", path.display())]
    Rows {
        /// The file.
        path: PathBuf,
        /// The tensor that was asked for.
        tensor: String,
    },
    /// A block of a file whose bytes are not those that were hashed.
    #[error("{}: block {block} (from byte {}) differs from its recorded hash; copy or build the file again", path.display(), *block as u64 * block_bytes)]
    Block {
        /// The file.
        path: PathBuf,
        /// Number of the block, from 0.
        block: usize,
        /// Bytes of a block.
        block_bytes: u64,
    },
    /// An image that is damaged, or of a kind that is not read.
    #[error("{format}: {reason}")]
    Image {
        /// What it was taken for.
        format: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// An image with more pixels than are allowed.
    #[error("{width}×{height} pixels are more than max_pixels = {max_pixels} allows")]
    Pixels {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// The limit.
        max_pixels: usize,
    },
    /// An image that cannot be enlarged to a square.
    #[error("an image of {width}×{height} is too long a strip to be resized to {size}")]
    Strip {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// Side of the square.
        size: usize,
    },
    /// An array of pixels that does not have the shape of an image.
    #[error("expected {expected}, got {shape:?}")]
    ImageShape {
        /// The shape.
        shape: [usize; 3],
        /// What it should be.
        expected: &'static str,
    },
    /// Blocks of no bytes, or more of them than there are numbers.
    #[error("block_bytes must be at least 1")]
    BlockBytes,
    /// The operating system refused.
    #[error("{}: {message}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's number of the error.
        code: Option<i32>,
        /// What it says.
        message: String,
    },
    /// The result does not fit into memory.
    #[error("no memory for a result of {0} values")]
    Memory(usize),
    /// The caller's check asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
