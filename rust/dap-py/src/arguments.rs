//! From Python's arguments to those of `dap_core`.

use dap_core::Matrix;
use dap_core::kernels::Kernel;
use numpy::{PyArray2, PyArrayMethods, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::calls::to_python;

/// A float32 array that is borrowed for reading while this lives.
pub(crate) struct Rows<'py> {
    name: &'static str,
    array: PyReadonlyArray2<'py, f32>,
}

/// `value` as a 2-D float32 array, without a copy.
pub(crate) fn matrix<'py>(name: &'static str, value: &Bound<'py, PyAny>) -> PyResult<Rows<'py>> {
    let array = value.cast::<PyArray2<f32>>().map_err(|_| {
        let kind = value.get_type();
        PyTypeError::new_err(format!("{name}: expected a 2-D numpy array of float32, got {}", described(value, &kind)))
    })?;
    let array = array.try_readonly().map_err(|error| PyValueError::new_err(format!("{name}: {error}")))?;
    Ok(Rows { name, array })
}

/// The kernel "linear", or "rbf" with a bandwidth.
pub(crate) fn kernel_named(name: &str, bandwidth: Option<f64>) -> PyResult<Kernel> {
    match (name, bandwidth) {
        ("linear", None) => Ok(Kernel::Linear),
        ("rbf", Some(bandwidth)) => Kernel::rbf(bandwidth).map_err(to_python),
        _ => Err(PyValueError::new_err(format!(
            "expected kernel \"linear\" without a bandwidth or \"rbf\" with one, got {name:?} with {bandwidth:?}"
        ))),
    }
}

impl Rows<'_> {
    /// The rows as `dap_core` reads them; an error unless they are C-contiguous.
    pub(crate) fn borrow(&self) -> PyResult<Matrix<'_>> {
        if !self.array.is_c_contiguous() {
            return Err(PyValueError::new_err(format!("{}: expected a C-contiguous array", self.name)));
        }
        let data = self.array.as_slice().map_err(|error| PyValueError::new_err(error.to_string()))?;
        let array = self.array.as_array();
        Matrix::new(data, array.nrows(), array.ncols()).map_err(to_python)
    }
}

fn described(value: &Bound<'_, PyAny>, kind: &Bound<'_, pyo3::types::PyType>) -> String {
    match (value.getattr("ndim"), value.getattr("dtype")) {
        (Ok(ndim), Ok(dtype)) => format!("{ndim}-D {dtype}"),
        _ => kind.to_string(),
    }
}
