//! Converts Python's arguments to those of `dap_core`, without copying arrays.

use dap_core::Matrix;
use dap_core::kernels::Kernel;
use dap_core::matrix::Values;
use half::slice::HalfBitsSliceExt;
use half::{bf16, f16};
use numpy::ndarray::Dimension;
use numpy::{
    Element, PyArray2, PyArrayMethods, PyReadonlyArray, PyReadonlyArray2, PyReadwriteArray, PyReadwriteArray2,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::calls::to_python;

/// A kernel in Python: its name and its parameters.
pub(crate) type Named = (String, Vec<f64>);

/// Returns the kernels with these names and parameters.
pub(crate) fn kernels(named: Vec<Named>) -> PyResult<Vec<Kernel>> {
    named.iter().map(|(name, parameters)| Kernel::new(name, parameters).map_err(to_python)).collect()
}

/// A 2-D array, borrowed for reading.
pub(crate) enum Rows<'py> {
    Float32(PyReadonlyArray2<'py, f32>),
    Float64(PyReadonlyArray2<'py, f64>),
    Float16(PyReadonlyArray2<'py, f16>),
    /// The bits of bfloat16, for which numpy has no type.
    Bits(PyReadonlyArray2<'py, u16>),
}

/// Borrows `value` as a 2-D array.
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
    let kind = match (value.getattr("ndim"), value.getattr("dtype")) {
        (Ok(ndim), Ok(dtype)) => format!("{ndim}-D {dtype}"),
        _ => value.get_type().to_string(),
    };
    Err(PyTypeError::new_err(format!(
        "{name}: expected a 2-D numpy array of float32, float64, float16 or uint16 (bfloat16), got {kind}"
    )))
}

fn readonly<'py, T: Element>(name: &str, array: &Bound<'py, PyArray2<T>>) -> PyResult<PyReadonlyArray2<'py, T>> {
    if !array.is_c_contiguous() {
        return Err(PyValueError::new_err(format!("{name}: expected a C-contiguous array")));
    }
    array.try_readonly().map_err(|error| PyValueError::new_err(format!("{name}: {error}")))
}

impl Rows<'_> {
    /// Returns the matrix that `dap_core` reads.
    pub(crate) fn borrow(&self) -> PyResult<Matrix<'_>> {
        match self {
            Self::Float32(array) => matrix(array, Values::Float32),
            Self::Float64(array) => matrix(array, Values::Float64),
            Self::Float16(array) => matrix(array, Values::Float16),
            Self::Bits(array) => matrix(array, |bits| Values::Bfloat16(bits.reinterpret_cast::<bf16>())),
        }
    }
}

/// The rows of x, and of y if it is not x.
pub(crate) struct Pair<'py> {
    x: Rows<'py>,
    y: Option<Rows<'py>>,
}

/// Borrows x and y as 2-D arrays.
pub(crate) fn pair<'py>(x: &Bound<'py, PyAny>, y: Option<&Bound<'py, PyAny>>) -> PyResult<Pair<'py>> {
    Ok(Pair { x: rows("x", x)?, y: y.map(|y| rows("y", y)).transpose()? })
}

impl Pair<'_> {
    /// Returns the matrices that `dap_core` reads.
    pub(crate) fn borrow(&self) -> PyResult<(Matrix<'_>, Option<Matrix<'_>>)> {
        Ok((self.x.borrow()?, self.y.as_ref().map(Rows::borrow).transpose()?))
    }
}

/// A 2-D array that the caller gives for the result.
pub(crate) enum Output<'py> {
    Float32(PyReadwriteArray2<'py, f32>),
    Float64(PyReadwriteArray2<'py, f64>),
}

/// Borrows `out` for writing.
pub(crate) fn output<'py>(out: &Bound<'py, PyAny>) -> PyResult<Output<'py>> {
    let refused = |error| PyValueError::new_err(format!("out: {error}"));
    if let Ok(array) = out.cast::<PyArray2<f32>>() {
        return array.try_readwrite().map(Output::Float32).map_err(refused);
    }
    if let Ok(array) = out.cast::<PyArray2<f64>>() {
        return array.try_readwrite().map(Output::Float64).map_err(refused);
    }
    Err(PyTypeError::new_err("out: expected a 2-D numpy array of float32 or float64"))
}

/// Returns the values of an array in C order; an error unless it has this shape and is C-contiguous.
pub(crate) fn slice<'a, T: Element, D: Dimension>(
    name: &str,
    array: &'a PyReadonlyArray<'_, T, D>,
    shape: &[usize],
) -> PyResult<&'a [T]> {
    check_layout(name, array.shape(), array.is_c_contiguous(), shape)?;
    array.as_slice().map_err(|error| PyValueError::new_err(format!("{name}: {error}")))
}

/// [`slice`] of an array that is written to.
pub(crate) fn slice_mut<'a, T: Element, D: Dimension>(
    name: &str,
    array: &'a mut PyReadwriteArray<'_, T, D>,
    shape: &[usize],
) -> PyResult<&'a mut [T]> {
    check_layout(name, array.shape(), array.is_c_contiguous(), shape)?;
    array.as_slice_mut().map_err(|error| PyValueError::new_err(format!("{name}: {error}")))
}

fn check_layout(name: &str, shape: &[usize], contiguous: bool, expected: &[usize]) -> PyResult<()> {
    if shape == expected && contiguous {
        return Ok(());
    }
    let got = if contiguous { format!("shape {shape:?}") } else { "an array that is not C-contiguous".to_owned() };
    Err(PyValueError::new_err(format!("{name}: expected a C-contiguous array with shape {expected:?}, got {got}")))
}

fn matrix<'a, T: Element>(
    array: &'a PyReadonlyArray2<'_, T>,
    values: impl Fn(&'a [T]) -> Values<'a>,
) -> PyResult<Matrix<'a>> {
    let data = array.as_slice().map_err(|error| PyValueError::new_err(error.to_string()))?;
    let shape = array.as_array();
    Matrix::new(values(data), shape.nrows(), shape.ncols()).map_err(to_python)
}
