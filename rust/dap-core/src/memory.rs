//! Allocation that fails with an error instead of ending the process.

use crate::error::{Error, Result};

/// Returns `count` zeros, or an error if memory is short.
pub(crate) fn zeros<R: Copy + Default>(count: usize) -> Result<Vec<R>> {
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|_| Error::Memory(count))?;
    values.resize(count, R::default());
    Ok(values)
}
