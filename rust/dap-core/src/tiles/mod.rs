//! Tiles of pairs of rows: how rows are packed, and the sums that the micro-kernel makes of packed rows.
//!
//! Rows of x are packed in panels of `VECTORS` SIMD vectors, rows of y in panels of `Y` rows. A tile holds the sums of one
//! panel of x with one or more panels of y: for each row of y, `VECTORS` vectors with a lane for each row of x.

mod microkernel;
mod panels;

pub(crate) use microkernel::{Dot, Manhattan, Squared, Step, VECTORS, accumulate, sum};
pub(crate) use panels::{Packing, Panels, Side, centre, pack_blocks};
