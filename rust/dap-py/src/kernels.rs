//! Kernels over arrays; wrapped by `dap.kernels`.

use dap_core::kernels;
use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods,
};
use pyo3::prelude::*;

use crate::arguments::{Named, Output, kernels as named, output, pair, slice, slice_mut};
use crate::calls::interruptible;

type Neighbours<'py> = (Bound<'py, PyArray2<f64>>, Bound<'py, PyArray2<i64>>);
type Sums<'py> = (Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<f64>>, f64);

/// Mean kernel distance of each row of x to the rows of y, or the sum weighted by weights (m,): float64 (n,).
#[pyfunction]
#[pyo3(signature = (x, y, kernel, weights=None, threads=None))]
pub(crate) fn mean_distance<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: Option<&Bound<'py, PyAny>>,
    kernel: Vec<Named>,
    weights: Option<PyReadonlyArray1<'py, f64>>,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let (pair, kernel) = (pair(x, y)?, named(kernel)?);
    let (x, y) = pair.borrow()?;
    let weights = weights.as_ref().map(|weights| slice("weights", weights, weights.shape())).transpose()?;
    let means = interruptible(py, |check| kernels::mean_distance(x, y, &kernel, weights, threads, check))?;
    Ok(means.into_pyarray(py))
}

/// Sum of the kernel of each row of x with the rows of y, (n,); or weighted by the columns of weights, (n, C).
#[pyfunction]
#[pyo3(signature = (x, y, kernel, weights=None, threads=None))]
pub(crate) fn row_sums<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: Option<&Bound<'py, PyAny>>,
    kernel: Vec<Named>,
    weights: Option<PyReadonlyArray2<'py, f64>>,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyAny>> {
    let (pair, kernel) = (pair(x, y)?, named(kernel)?);
    let (x, y) = pair.borrow()?;
    let columns = weights.as_ref().map(|weights| weights.as_array().ncols());
    let values = weights.as_ref().map(|weights| slice("weights", weights, weights.shape())).transpose()?;
    let sums = interruptible(py, |check| kernels::row_sums(x, y, &kernel, values.zip(columns), threads, check))?;
    let sums = sums.into_pyarray(py);
    match columns {
        Some(columns) => Ok(sums.reshape([x.rows(), columns])?.into_any()),
        None => Ok(sums.into_any()),
    }
}

/// (sums over the rows of y, (n,); sums over the rows of x, (m,); sum of the squares) of the kernel.
#[pyfunction]
#[pyo3(signature = (x, y, kernel, threads=None))]
pub(crate) fn pair_sums<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: Option<&Bound<'py, PyAny>>,
    kernel: Vec<Named>,
    threads: Option<usize>,
) -> PyResult<Sums<'py>> {
    let (pair, kernel) = (pair(x, y)?, named(kernel)?);
    let (x, y) = pair.borrow()?;
    let sums = interruptible(py, |check| kernels::pair_sums(x, y, &kernel, threads, check))?;
    Ok((sums.rows.into_pyarray(py), sums.columns.into_pyarray(py), sums.squares))
}

/// The Gram matrix, written into ``out``: C-contiguous (n, m), float64 if x or y is, otherwise float32.
#[pyfunction]
#[pyo3(signature = (x, y, kernel, out, threads=None))]
pub(crate) fn gram<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: Option<&Bound<'py, PyAny>>,
    kernel: Vec<Named>,
    out: &Bound<'py, PyAny>,
    threads: Option<usize>,
) -> PyResult<()> {
    let (pair, kernel, mut out) = (pair(x, y)?, named(kernel)?, output(out)?);
    let (x, y) = pair.borrow()?;
    let shape = [x.rows(), y.unwrap_or(x).rows()];
    match &mut out {
        Output::Float32(out) => {
            let out = slice_mut("out", out, &shape)?;
            interruptible(py, |check| kernels::gram(x, y, &kernel, out, threads, check))
        }
        Output::Float64(out) => {
            let out = slice_mut("out", out, &shape)?;
            interruptible(py, |check| kernels::gram(x, y, &kernel, out, threads, check))
        }
    }
}

/// (values, rows of y), (n, k) each: the nearest by distance (kernel None), or those with the largest kernel.
#[pyfunction]
#[pyo3(signature = (x, y, kernel, k, threads=None))]
pub(crate) fn nearest<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    y: Option<&Bound<'py, PyAny>>,
    kernel: Option<Vec<Named>>,
    k: usize,
    threads: Option<usize>,
) -> PyResult<Neighbours<'py>> {
    let (pair, kernel) = (pair(x, y)?, kernel.map(named).transpose()?);
    let (x, y) = pair.borrow()?;
    let search = |check: dap_core::Check<'_>| kernels::nearest(x, y, kernel.as_deref(), k, threads, check);
    let (values, indices) = interruptible(py, search)?;
    let shape = [x.rows(), k];
    Ok((values.into_pyarray(py).reshape(shape)?, indices.into_pyarray(py).reshape(shape)?))
}
