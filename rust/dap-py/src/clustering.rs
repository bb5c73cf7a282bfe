//! Clustering and greedy selection of rows; wrapped by `dap.selection`.

use dap_core::clustering;
use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods,
};
use pyo3::prelude::*;

use crate::arguments::{Named, kernels as named, rows, slice};
use crate::calls::interruptible;

type Clusters<'py> = (Bound<'py, PyArray2<f64>>, Bound<'py, PyArray1<i64>>, f64, usize);
type Spread<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<f64>>);

/// (centres (k, d), label of each row (n,), inertia, rounds): Lloyd's algorithm from the centres ``start`` on.
#[pyfunction]
#[pyo3(signature = (x, start, max_iter, tol, threads=None))]
pub(crate) fn k_means<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    start: PyReadonlyArray2<'py, f64>,
    max_iter: usize,
    tol: f64,
    threads: Option<usize>,
) -> PyResult<Clusters<'py>> {
    let x = rows("x", x)?;
    let (x, clusters) = (x.borrow()?, start.as_array().nrows());
    let start = slice("start", &start, start.shape())?;
    let work = |check: dap_core::Check<'_>| clustering::k_means(x, start, clusters, max_iter, tol, threads, check);
    let result = interruptible(py, work)?;
    let centers = result.centers.into_pyarray(py).reshape([clusters, x.columns()])?;
    Ok((centers, result.labels.into_pyarray(py), result.inertia, result.iterations))
}

/// The rows (clusters,) that greedy k-means++ chooses, each as the best of ``trials``.
#[pyfunction]
#[pyo3(signature = (x, clusters, trials, seed, threads=None))]
pub(crate) fn plus_plus<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    clusters: usize,
    trials: usize,
    seed: u64,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let x = rows("x", x)?;
    let x = x.borrow()?;
    let chosen = interruptible(py, |check| clustering::plus_plus(x, clusters, trials, seed, threads, check))?;
    Ok(chosen.into_pyarray(py))
}

/// The rows (count,) that herding chooses, for the mean embedding ``means`` (n,) and k(x, x) (n,).
#[pyfunction]
#[pyo3(signature = (x, kernel, means, diagonal, count, threads=None))]
pub(crate) fn herding<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    kernel: Vec<Named>,
    means: PyReadonlyArray1<'py, f64>,
    diagonal: PyReadonlyArray1<'py, f64>,
    count: usize,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let (x, kernel) = (rows("x", x)?, named(kernel)?);
    let (means, diagonal) = (slice("means", &means, means.shape())?, slice("diagonal", &diagonal, diagonal.shape())?);
    let x = x.borrow()?;
    let work = |check: dap_core::Check<'_>| clustering::herding(x, &kernel, means, diagonal, count, threads, check);
    Ok(interruptible(py, work)?.into_pyarray(py))
}

/// (rows (count,), distance of each row to the nearest of them (n,)): ``first``, then each time the farthest row.
#[pyfunction]
#[pyo3(signature = (x, first, count, threads=None))]
pub(crate) fn farthest_points<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    first: usize,
    count: usize,
    threads: Option<usize>,
) -> PyResult<Spread<'py>> {
    let x = rows("x", x)?;
    let x = x.borrow()?;
    let (chosen, distances) = interruptible(py, |check| clustering::farthest_points(x, first, count, threads, check))?;
    Ok((chosen.into_pyarray(py), distances.into_pyarray(py)))
}

/// The rows (count,) that greedy facility location chooses, for a kernel k ≥ 0.
#[pyfunction]
#[pyo3(signature = (x, kernel, count, threads=None))]
pub(crate) fn facility_location<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    kernel: Vec<Named>,
    count: usize,
    threads: Option<usize>,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let (x, kernel) = (rows("x", x)?, named(kernel)?);
    let x = x.borrow()?;
    let chosen = interruptible(py, |check| clustering::facility_location(x, &kernel, count, threads, check))?;
    Ok(chosen.into_pyarray(py))
}
