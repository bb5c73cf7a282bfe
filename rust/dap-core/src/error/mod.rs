//! The error type of this crate.

mod layout;
mod tar;

use std::path::PathBuf;

use thiserror::Error;

pub use layout::{LayoutError, MAX_HEADER};
pub use tar::TarError;

/// The error of a check that stops a long computation.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("interrupted")]
pub struct Interrupted;

/// Every error of this crate.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum Error {
    /// A buffer that does not hold rows × columns values.
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
    /// A mean over zero rows.
    #[error("y has no rows: the mean distance to nothing is not defined")]
    NoRows,
    /// An unknown kernel, or wrong parameters.
    #[error("no kernel {name:?} has the parameters {parameters:?}")]
    Kernel {
        /// The name that was asked for.
        name: String,
        /// The parameters that were given.
        parameters: Vec<f64>,
    },
    /// An empty list of kernels.
    #[error("expected at least one kernel, got none")]
    NoKernel,
    /// An output array whose type is not that of the computation.
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
    /// A number of rows that is zero or exceeds the rows that exist.
    #[error("expected a number of rows from 1 to {rows}, got {count}")]
    Count {
        /// Rows that were asked for.
        count: usize,
        /// Rows that exist.
        rows: usize,
    },
    /// A row that does not exist.
    #[error("expected a row below {rows}, got {row}")]
    Row {
        /// The row that was asked for.
        row: usize,
        /// Rows that exist.
        rows: usize,
    },
    /// A number of threads outside the accepted range.
    #[error("threads must be from 1 to {max}, got {threads}")]
    Threads {
        /// Threads that were asked for.
        threads: usize,
        /// The most that may be asked for.
        max: usize,
    },
    /// The operating system did not start the threads.
    #[error("cannot start the thread pool: {0}")]
    Pool(String),
    /// A bad header of a safetensors file.
    #[error("{}: {error}; copy or build the file again", path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// Its fault.
        error: LayoutError,
    },
    /// A bad tar archive.
    #[error("{}: {error}", path.display())]
    Tar {
        /// The file.
        path: PathBuf,
        /// Its fault.
        error: TarError,
    },
    /// Rows that do not fit the tensors of a file.
    #[error("{}: tensor {tensor:?} is not there, or has another dtype, other columns or fewer rows", path.display())]
    Rows {
        /// The file.
        path: PathBuf,
        /// The tensor that was asked for.
        tensor: String,
    },
    /// A block of a file whose hash is not the recorded one.
    #[error("{}: block {block} (from byte {}) differs from its recorded hash; copy or build the file again", path.display(), *block as u64 * block_bytes)]
    Block {
        /// The file.
        path: PathBuf,
        /// Number of the block, from 0.
        block: usize,
        /// Bytes of a block.
        block_bytes: u64,
    },
    /// A damaged image, or one of an unsupported kind.
    #[error("{format}: {reason}")]
    Image {
        /// Its format.
        format: &'static str,
        /// Its fault.
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
    /// A part that is empty or not inside of an image.
    #[error("expected a part inside of {height}×{width} pixels, got top, left, height, width = {part:?}")]
    Part {
        /// Top, left, height and width.
        part: [usize; 4],
        /// Rows of the image.
        height: usize,
        /// Columns of the image.
        width: usize,
    },
    /// An image that is too long and narrow to be resized.
    #[error("an image of {width}×{height} is too long a strip to be resized to {size}")]
    Strip {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// Side of the square.
        size: usize,
    },
    /// An array of pixels with a wrong shape.
    #[error("expected {expected}, got {shape:?}")]
    ImageShape {
        /// The shape.
        shape: [usize; 3],
        /// The expected shape.
        expected: &'static str,
    },
    /// Blocks of zero bytes, or too many blocks to count.
    #[error("block_bytes must be at least 1")]
    BlockBytes,
    /// An error of the operating system.
    #[error("{}: {message}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error number.
        code: Option<i32>,
        /// Its message.
        message: String,
    },
    /// Too little memory for a result.
    #[error("no memory for a result of {0} values")]
    Memory(usize),
    /// The caller's check stopped the computation.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
