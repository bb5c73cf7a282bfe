//! How the module was built.

use dap_core::simd::Level;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// How this module was built, and the SIMD level that it uses on this CPU.
#[pyfunction]
pub(crate) fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = PyDict::new(py);
    info.set_item("version", env!("CARGO_PKG_VERSION"))?;
    info.set_item("profile", if cfg!(debug_assertions) { "debug" } else { "release" })?;
    info.set_item("target", format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS))?;
    info.set_item("simd", Level::detect().name())?;
    info.set_item("features", ["abi3-py311"])?;
    Ok(info)
}
