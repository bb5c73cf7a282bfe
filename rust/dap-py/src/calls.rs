//! Calls of `dap_core`: detached from the interpreter, stopped by Ctrl-C, with errors turned into Python's.

use dap_core::{Error, Interrupted, Result};
use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

/// Runs `work` detached from the interpreter; `work` regularly calls the check that it gets, which stops it at Ctrl-C.
pub(crate) fn interruptible<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&mut dyn FnMut() -> std::result::Result<(), Interrupted>) -> Result<T> + Send,
) -> PyResult<T> {
    let mut raised = None;
    let result = py.detach(|| {
        work(&mut || {
            Python::attach(|py| py.check_signals()).map_err(|error| {
                raised = Some(error);
                Interrupted
            })
        })
    });
    result.map_err(|error| raised.unwrap_or_else(|| to_python(error)))
}

/// Returns the Python error with the same message.
pub(crate) fn to_python(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Layout { .. }
        | Error::Tar { .. }
        | Error::Block { .. }
        | Error::Image { .. }
        | Error::Pixels { .. }
        | Error::Strip { .. } => format_error(message),
        Error::Io { path, code: Some(code), message } => PyOSError::new_err((code, message, path)),
        Error::Io { code: None, .. } => PyOSError::new_err(message),
        Error::Memory(_) => PyMemoryError::new_err(message),
        Error::Pool(_) | Error::Interrupted(_) => PyRuntimeError::new_err(message),
        Error::Shape { .. }
        | Error::Columns { .. }
        | Error::NoRows
        | Error::Kernel { .. }
        | Error::NoKernel
        | Error::OutType
        | Error::Neighbours { .. }
        | Error::Rows { .. }
        | Error::ImageShape { .. }
        | Error::BlockBytes
        | Error::Count { .. }
        | Error::Row { .. }
        | Error::Part { .. }
        | Error::Threads { .. } => PyValueError::new_err(message),
    }
}

/// A `dap.errors.FormatError`.
fn format_error(message: String) -> PyErr {
    let make = |py: Python<'_>| {
        let class = py.import("dap.errors")?.getattr("FormatError")?;
        Ok(PyErr::from_value(class.call1((message,))?))
    };
    Python::attach(make).unwrap_or_else(|error| error)
}
