//! Tar archives, as WebDataset shards are: a reader of headers that trusts nothing, and a writer of the same bytes.
//!
//! Own code and not the `tar` crate: that reader takes links, devices, sparse files and repeated names, and believes a
//! member's size without a look at the file's; a shard needs none of it, and its offsets are all that is wanted.
//! Read are v7, ustar, pax (`path`, `size`) and GNU long names; written is ustar, with pax for a name that is too long.

mod error;
mod header;
mod reader;
mod writer;

pub use error::TarError;
pub use reader::{Member, read, scan};
pub use writer::Writer;

/// Headers are one block, and data is filled up to whole ones.
const BLOCK: usize = 512;

#[cfg(test)]
mod tests;
