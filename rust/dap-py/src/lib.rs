//! The compiled module `dap._core`. A binding checks and borrows, detaches, calls `dap_core`, moves out.
//!
//! Private: `dap.kernels` wraps what is here, `python/dap/_core.pyi` types it.

mod arguments;
mod calls;

use pyo3::prelude::*;

/// Reductions over float32 arrays on the CPU; private to dap, wrapped by ``dap.kernels``.
#[pymodule]
mod _core {
    use dap_core::kernels;
    use dap_core::simd::Level;
    use numpy::{IntoPyArray, PyArray1};
    use pyo3::prelude::*;
    use pyo3::types::PyDict;

    use crate::arguments::{kernel_named, matrix};
    use crate::calls::interruptible;

    /// Mean kernel distance of each row of x to the rows of y; C-contiguous float32 in, float64 with shape (n,) out.
    #[pyfunction]
    #[pyo3(signature = (x, y, kernel, bandwidth=None, threads=None))]
    fn mean_distance<'py>(
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        y: &Bound<'py, PyAny>,
        kernel: &str,
        bandwidth: Option<f64>,
        threads: Option<usize>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let (x, y, kernel) = (matrix("x", x)?, matrix("y", y)?, kernel_named(kernel, bandwidth)?);
        let (x, y) = (x.borrow()?, y.borrow()?);
        let means = interruptible(py, |check| kernels::mean_distance(x, y, kernel, threads, check))?;
        Ok(means.into_pyarray(py))
    }

    /// Sum of the kernel of each row of x with the rows of y; C-contiguous float32 in, float64 with shape (n,) out.
    #[pyfunction]
    #[pyo3(signature = (x, y, kernel, bandwidth=None, threads=None))]
    fn row_sums<'py>(
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        y: &Bound<'py, PyAny>,
        kernel: &str,
        bandwidth: Option<f64>,
        threads: Option<usize>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let (x, y, kernel) = (matrix("x", x)?, matrix("y", y)?, kernel_named(kernel, bandwidth)?);
        let (x, y) = (x.borrow()?, y.borrow()?);
        let sums = interruptible(py, |check| kernels::row_sums(x, y, kernel, threads, check))?;
        Ok(sums.into_pyarray(py))
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
