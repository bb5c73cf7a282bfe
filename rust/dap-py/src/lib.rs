//! The compiled module `dap._core`. A binding checks and borrows, detaches, calls `dap_core`, moves out.
//!
//! Private: `dap.kernels` wraps what is here, `python/dap/_core.pyi` types it.

mod arguments;
mod calls;
mod clustering;
mod images;
mod index;
mod tar;

use pyo3::prelude::*;

/// Reductions of kernels over arrays on the CPU; private to dap, wrapped by ``dap.kernels``.
///
/// x and y are C-contiguous 2-D arrays of float32, float64, float16, or of uint16 with the bits of bfloat16; y None is
/// x. ``kernel`` is a list of (name, parameters), which stands for the sum of those kernels.
#[pymodule]
mod _core {
    use dap_core::kernels;
    use dap_core::simd::Level;
    use numpy::{
        IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods,
    };
    use pyo3::exceptions::{PyTypeError, PyValueError};
    use pyo3::prelude::*;
    use pyo3::types::PyDict;

    #[pymodule_export]
    use crate::images::{augment, crop_square, decode_image, decode_square, encode_image, image_info};
    #[pymodule_export]
    use crate::index::{create_tensors, finish_tensors, hash_blocks, read_layout, verify_blocks, write_rows};

    #[pymodule_export]
    use crate::tar::{TarWriter, scan_tar};

    use crate::arguments::{Named, kernels as named, rows};
    use crate::calls::interruptible;
    #[pymodule_export]
    use crate::clustering::{facility_location, farthest_points, herding, k_means, plus_plus};

    type Neighbours<'py> = (Bound<'py, PyArray2<f64>>, Bound<'py, PyArray2<i64>>);
    type Sums<'py> = (Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<f64>>, f64);

    /// Mean kernel distance of each row of x to the rows of y, or the sum weighted by weights (m,): float64 (n,).
    #[pyfunction]
    #[pyo3(signature = (x, y, kernel, weights=None, threads=None))]
    fn mean_distance<'py>(
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        y: Option<&Bound<'py, PyAny>>,
        kernel: Vec<Named>,
        weights: Option<PyReadonlyArray1<'py, f64>>,
        threads: Option<usize>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let (x, y, kernel) = (rows("x", x)?, y.map(|y| rows("y", y)).transpose()?, named(kernel)?);
        let (x, y) = (x.borrow()?, y.as_ref().map(|y| y.borrow()).transpose()?);
        let weights = weights.as_ref().map(|weights| weights.as_slice());
        let weights = weights.transpose().map_err(|error| PyValueError::new_err(format!("weights: {error}")))?;
        let means = interruptible(py, |check| kernels::mean_distance(x, y, &kernel, weights, threads, check))?;
        Ok(means.into_pyarray(py))
    }

    /// Sum of the kernel of each row of x with the rows of y, (n,); or weighted by the columns of weights, (n, C).
    #[pyfunction]
    #[pyo3(signature = (x, y, kernel, weights=None, threads=None))]
    fn row_sums<'py>(
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        y: Option<&Bound<'py, PyAny>>,
        kernel: Vec<Named>,
        weights: Option<PyReadonlyArray2<'py, f64>>,
        threads: Option<usize>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (x, y, kernel) = (rows("x", x)?, y.map(|y| rows("y", y)).transpose()?, named(kernel)?);
        let (x, y) = (x.borrow()?, y.as_ref().map(|y| y.borrow()).transpose()?);
        let columns = weights.as_ref().map(|weights| weights.as_array().ncols());
        let values = weights.as_ref().map(|weights| weights.as_slice());
        let values = values.transpose().map_err(|error| PyValueError::new_err(format!("weights: {error}")))?;
        let weights = values.zip(columns);
        let sums = interruptible(py, |check| kernels::row_sums(x, y, &kernel, weights, threads, check))?;
        let sums = sums.into_pyarray(py);
        match columns {
            Some(columns) => Ok(sums.reshape([x.rows(), columns])?.into_any()),
            None => Ok(sums.into_any()),
        }
    }

    /// (sums over the rows of y, (n,); sums over the rows of x, (m,); sum of the squares) of the kernel.
    #[pyfunction]
    #[pyo3(signature = (x, y, kernel, threads=None))]
    fn pair_sums<'py>(
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        y: Option<&Bound<'py, PyAny>>,
        kernel: Vec<Named>,
        threads: Option<usize>,
    ) -> PyResult<Sums<'py>> {
        let (x, y, kernel) = (rows("x", x)?, y.map(|y| rows("y", y)).transpose()?, named(kernel)?);
        let (x, y) = (x.borrow()?, y.as_ref().map(|y| y.borrow()).transpose()?);
        let sums = interruptible(py, |check| kernels::pair_sums(x, y, &kernel, threads, check))?;
        Ok((sums.rows.into_pyarray(py), sums.columns.into_pyarray(py), sums.squares))
    }

    /// The Gram matrix, written into ``out``: C-contiguous (n, m), float64 if x or y is, otherwise float32.
    #[pyfunction]
    #[pyo3(signature = (x, y, kernel, out, threads=None))]
    fn gram<'py>(
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        y: Option<&Bound<'py, PyAny>>,
        kernel: Vec<Named>,
        out: &Bound<'py, PyAny>,
        threads: Option<usize>,
    ) -> PyResult<()> {
        let (x, y, kernel) = (rows("x", x)?, y.map(|y| rows("y", y)).transpose()?, named(kernel)?);
        let (x, y) = (x.borrow()?, y.as_ref().map(|y| y.borrow()).transpose()?);
        let shape = [x.rows(), y.as_ref().unwrap_or(&x).rows()];
        let refused = |error: &dyn std::fmt::Display| PyValueError::new_err(format!("out: {error}"));
        macro_rules! write_into {
            ($array:expr) => {{
                if $array.shape() != shape || !$array.is_c_contiguous() {
                    return Err(refused(&format!("expected a C-contiguous array with shape {shape:?}")));
                }
                let mut array = $array.try_readwrite().map_err(|error| refused(&error))?;
                let out = array.as_slice_mut().map_err(|error| refused(&error))?;
                interruptible(py, |check| kernels::gram(x, y, &kernel, out, threads, check))
            }};
        }
        if let Ok(array) = out.cast::<PyArray2<f32>>() {
            write_into!(array)
        } else if let Ok(array) = out.cast::<PyArray2<f64>>() {
            write_into!(array)
        } else {
            Err(PyTypeError::new_err("out: expected a 2-D numpy array of float32 or float64"))
        }
    }

    /// (values, rows of y), (n, k) each: the nearest by distance (kernel None), or those with the largest kernel.
    #[pyfunction]
    #[pyo3(signature = (x, y, kernel, k, threads=None))]
    fn nearest<'py>(
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        y: Option<&Bound<'py, PyAny>>,
        kernel: Option<Vec<Named>>,
        k: usize,
        threads: Option<usize>,
    ) -> PyResult<Neighbours<'py>> {
        let (x, y) = (rows("x", x)?, y.map(|y| rows("y", y)).transpose()?);
        let kernel = kernel.map(named).transpose()?;
        let (x, y) = (x.borrow()?, y.as_ref().map(|y| y.borrow()).transpose()?);
        let search = |check: dap_core::Check<'_>| kernels::nearest(x, y, kernel.as_deref(), k, threads, check);
        let (values, indices) = interruptible(py, search)?;
        let shape = [x.rows(), k];
        Ok((values.into_pyarray(py).reshape(shape)?, indices.into_pyarray(py).reshape(shape)?))
    }

    /// How this module was built, and the SIMD level that it uses here.
    #[pyfunction]
    fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
        let info = PyDict::new(py);
        info.set_item("version", env!("CARGO_PKG_VERSION"))?;
        info.set_item("profile", if cfg!(debug_assertions) { "debug" } else { "release" })?;
        info.set_item("target", format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS))?;
        info.set_item("simd", Level::detect().name())?;
        info.set_item("features", ["abi3-py311"])?;
        Ok(info)
    }
}
