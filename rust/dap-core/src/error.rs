//! The one error of this crate.

use thiserror::Error;

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
    /// A bandwidth that is not a positive finite number.
    #[error("bandwidth must be a positive finite number, got {0}")]
    Bandwidth(f64),
    /// A number of threads outside the accepted range.
    #[error("threads must be from 1 to {max}, got {threads}", max = crate::pool::MAX_THREADS)]
    Threads {
        /// Threads that were asked for.
        threads: usize,
    },
    /// The operating system gave no threads.
    #[error("cannot start the thread pool: {0}")]
    Pool(String),
    /// The result does not fit into memory.
    #[error("no memory for a result of {0} values")]
    Memory(usize),
    /// The caller's check asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
