//! Errors of the headers of safetensors files.

use thiserror::Error;

/// Most bytes of a header, as in the safetensors package.
pub const MAX_HEADER: u64 = 100_000_000;

/// Faults of a file's header.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LayoutError {
    /// The file ends before the header does.
    #[error("the header should end at byte {end}, but the file has {bytes}")]
    Truncated {
        /// Where the header should end.
        end: u64,
        /// Bytes of the file.
        bytes: u64,
    },
    /// The header is longer than [`MAX_HEADER`].
    #[error("a header of {0} bytes, more than {MAX_HEADER}")]
    HeaderLength(u64),
    /// The header is not a JSON object of tensors.
    #[error("the header is not what safetensors writes: {0}")]
    Json(String),
    /// Two tensors with the same name.
    #[error("more than one tensor {0:?}")]
    Repeated(String),
    /// A dtype that an index cannot hold.
    #[error("tensor {name:?} has the dtype {dtype:?}, expected F16 or F32")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its dtype.
        dtype: String,
    },
    /// The tensor's size in bytes exceeds 64 bits.
    #[error("tensor {name:?} claims the shape {shape:?}, more bytes than 64 bits count")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// The offsets do not match the shape.
    #[error("tensor {name:?} takes {expected} bytes by its shape, but has the offsets {begin} to {end}")]
    Size {
        /// The tensor.
        name: String,
        /// Size by its shape and dtype.
        expected: u64,
        /// Its claimed start in the data.
        begin: u64,
        /// Its claimed end in the data.
        end: u64,
    },
    /// A tensor that does not begin where the previous one ends.
    #[error("tensor {name:?} begins at byte {begin} of the data, expected {expected}: a gap or an overlap")]
    Offset {
        /// The tensor.
        name: String,
        /// Its claimed start in the data.
        begin: u64,
        /// Where the previous tensor ends.
        expected: u64,
    },
    /// The tensors do not end where the file ends.
    #[error("the tensors end at byte {end}, but the file has {bytes}")]
    End {
        /// Where the tensors end in the file.
        end: u64,
        /// Bytes of the file.
        bytes: u64,
    },
}
