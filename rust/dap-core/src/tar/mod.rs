//! Tar archives (WebDataset shards): a reader that checks every header, and a writer that makes reproducible bytes.
//!
//! The `tar` crate is not used, because it accepts links, devices, sparse files and repeated names, and does not compare a
//! member's size with the file's. Shards need none of these, and only the members' offsets are read.
//!
//! The reader knows v7, ustar, pax (`path`, `size`) and GNU long names. The writer writes ustar, with pax for names that
//! are too long for it.

mod header;
mod reader;
mod writer;

pub use crate::error::TarError;
pub use reader::{Member, read, scan};
pub use writer::Writer;

/// Bytes of a block: a header is one block, and data is padded to whole blocks.
const BLOCK: usize = 512;

#[cfg(test)]
mod tests;
