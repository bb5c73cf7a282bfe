//! From Python's arguments to those of `dap_core`.

use dap_core::Matrix;
use dap_core::kernels::Kernel;
use dap_core::matrix::Values;
use half::slice::HalfBitsSliceExt;
use half::{bf16, f16};
use numpy::{Element, PyArray2, PyArrayMethods, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::calls::to_python;

/// A kernel as Python names it: its name and its parameters.
pub(crate) type Named = (String, Vec<f64>);

/// The kernels with these names.
pub(crate) fn kernels(named: Vec<Named>) -> PyResult<Vec<Kernel>> {
    named.iter().map(|(name, parameters)| Kernel::new(name, parameters).map_err(to_python)).collect()
}

/// An array that is borrowed for reading while this lives.
pub(crate) enum Rows<'py> {
    Float32(PyReadonlyArray2<'py, f32>),
    Float64(PyReadonlyArray2<'py, f64>),
    Float16(PyReadonlyArray2<'py, f16>),
    /// The bits of bfloat16, for which numpy has no type.
    Bits(PyReadonlyArray2<'py, u16>),
}

/// `value` as a 2-D array, without a copy.
pub(crate) fn rows<'py>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<Rows<'py>> {
    if let Ok(array) = value.cast::<PyArray2<f32>>() {
        return readonly(name, array).map(Rows::Float32);
    }
    if let Ok(array) = value.cast::<PyArray2<f64>>() {
        return readonly(name, array).map(Rows::Float64);
    }
    if let Ok(array) = value.cast::<PyArray2<f16>>() {
        return readonly(name, array).map(Rows::Float16);
    }
    if let Ok(array) = value.cast::<PyArray2<u16>>() {
        return readonly(name, array).map(Rows::Bits);
    }
    let found = match (value.getattr("ndim"), value.getattr("dtype")) {
        (Ok(ndim), Ok(dtype)) => format!("{ndim}-D {dtype}"),
        _ => value.get_type().to_string(),
    };
    Err(PyTypeError::new_err(format!(
        "{name}: expected a 2-D numpy array of float32, float64, float16 or uint16 (bfloat16), got {found}"
    )))
}

fn readonly<'py, T: Element>(name: &str, array: &Bound<'py, PyArray2<T>>) -> PyResult<PyReadonlyArray2<'py, T>> {
    if !array.is_c_contiguous() {
        return Err(PyValueError::new_err(format!("{name}: expected a C-contiguous array")));
    }
    array.try_readonly().map_err(|error| PyValueError::new_err(format!("{name}: {error}")))
}

impl Rows<'_> {
    /// The rows as `dap_core` reads them.
    pub(crate) fn borrow(&self) -> PyResult<Matrix<'_>> {
        match self {
            Self::Float32(array) => matrix(array, Values::Float32),
            Self::Float64(array) => matrix(array, Values::Float64),
            Self::Float16(array) => matrix(array, Values::Float16),
            Self::Bits(array) => matrix(array, |bits| Values::Bfloat16(bits.reinterpret_cast::<bf16>())),
        }
    }
}

fn matrix<'a, T: Element>(
    array: &'a PyReadonlyArray2<'_, T>,
    values: impl Fn(&'a [T]) -> Values<'a>,
) -> PyResult<Matrix<'a>> {
    let data = array.as_slice().map_err(|error| PyValueError::new_err(error.to_string()))?;
    let shape = array.as_array();
    Matrix::new(values(data), shape.nrows(), shape.ncols()).map_err(to_python)
}
