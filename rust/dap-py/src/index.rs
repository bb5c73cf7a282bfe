//! Files of the feature index; wrapped by `dap.index`.

use std::path::PathBuf;

use dap_core::index::{self, Dtype, Layout};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arguments::rows;
use crate::calls::{interruptible, to_python};

/// A tensor in Python: (name, "F16" or "F32", shape, first byte in the file).
type Placed = (String, &'static str, Vec<u64>, u64);

/// Creates ``path`` + ".partial" at its final size, with tensors (name, "F16" or "F32", shape) that are all zero.
#[pyfunction]
pub(crate) fn create_tensors(py: Python<'_>, path: PathBuf, tensors: Vec<(String, String, Vec<u64>)>) -> PyResult<()> {
    let with_dtype = |(name, dtype, shape): (String, String, Vec<u64>)| match Dtype::from_name(&dtype) {
        Some(dtype) => Ok((name, dtype, shape)),
        None => Err(PyValueError::new_err(format!("dtype: expected F16 or F32, got {dtype:?}"))),
    };
    let tensors = tensors.into_iter().map(with_dtype).collect::<PyResult<Vec<_>>>()?;
    py.detach(|| index::create_tensors(&path, &tensors)).map_err(to_python)
}

/// Writes 2-D arrays, by the names of their tensors, into ``path`` + ".partial" from ``row`` on, and syncs it.
#[pyfunction]
pub(crate) fn write_rows(
    py: Python<'_>,
    path: PathBuf,
    row: u64,
    tensors: Vec<(String, Bound<'_, PyAny>)>,
) -> PyResult<()> {
    let arrays = tensors.iter().map(|(name, array)| rows(name, array)).collect::<PyResult<Vec<_>>>()?;
    let named = tensors.iter().zip(&arrays).map(|((name, _), array)| Ok((name.clone(), array.borrow()?)));
    let named = named.collect::<PyResult<Vec<_>>>()?;
    py.detach(|| index::write_rows(&path, row, &named)).map_err(to_python)
}

/// Syncs ``path`` + ".partial" and renames it to ``path``.
#[pyfunction]
pub(crate) fn finish_tensors(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    py.detach(|| index::finish_tensors(&path)).map_err(to_python)
}

/// The tensors of a safetensors file in the order of their data: (name, "F16" or "F32", shape, first byte in the file).
#[pyfunction]
pub(crate) fn read_layout(py: Python<'_>, path: PathBuf) -> PyResult<Vec<Placed>> {
    let layout = py.detach(|| Layout::open(&path)).map_err(to_python)?;
    let tensors = layout.tensors.into_iter();
    Ok(tensors.map(|tensor| (tensor.name, tensor.dtype.name(), tensor.shape, tensor.offset)).collect())
}

/// SHA-256 in hexadecimal of each ``block_bytes`` bytes of a file.
#[pyfunction]
#[pyo3(signature = (path, block_bytes, threads=None))]
pub(crate) fn hash_blocks(
    py: Python<'_>,
    path: PathBuf,
    block_bytes: u64,
    threads: Option<usize>,
) -> PyResult<Vec<String>> {
    interruptible(py, |check| index::hash_blocks(&path, block_bytes, threads, check))
}

/// Compares a file with the result of ``hash_blocks``; ``FormatError`` names the first block that differs.
#[pyfunction]
#[pyo3(signature = (path, block_bytes, hashes, threads=None))]
pub(crate) fn verify_blocks(
    py: Python<'_>,
    path: PathBuf,
    block_bytes: u64,
    hashes: Vec<String>,
    threads: Option<usize>,
) -> PyResult<()> {
    interruptible(py, |check| index::verify_blocks(&path, block_bytes, &hashes, threads, check))
}
