//! Tar archives; wrapped by `dap.data.webdataset`.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use dap_core::{Result, tar};
use numpy::{IntoPyArray, PyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::calls::{interruptible, to_python};

/// Bytes that are written between two checks for signals.
const PIECE: usize = 1 << 24;

type Placed<'py> = (Vec<String>, Bound<'py, PyArray1<u64>>, Bound<'py, PyArray1<u64>>);

/// The regular files of a tar archive, in its order: names, first bytes (n,) and sizes (n,).
#[pyfunction]
pub(crate) fn scan_tar(py: Python<'_>, path: PathBuf) -> PyResult<Placed<'_>> {
    let members = interruptible(py, |check| tar::scan(&path, check))?;
    let offsets: Vec<_> = members.iter().map(|member| member.offset).collect();
    let sizes: Vec<_> = members.iter().map(|member| member.size).collect();
    let names = members.into_iter().map(|member| member.name).collect();
    Ok((names, offsets.into_pyarray(py), sizes.into_pyarray(py)))
}

/// A tar archive that gets its name when it is finished; if it is dropped before, its file is removed.
#[pyclass(frozen)]
pub(crate) struct TarWriter(Mutex<Option<tar::Writer>>);

#[pymethods]
impl TarWriter {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let writer = py.detach(|| tar::Writer::create(&path)).map_err(to_python)?;
        Ok(Self(Mutex::new(Some(writer))))
    }

    /// Adds files (name, content); after an error the archive cannot be used any more.
    fn append(&self, py: Python<'_>, members: Vec<(String, PyBackedBytes)>) -> PyResult<()> {
        let mut writer = self.take()?;
        interruptible(py, |check| {
            let mut written = 0;
            members.iter().try_for_each(|(name, data)| -> Result<()> {
                written += data.len();
                if written > PIECE {
                    written = 0;
                    check()?;
                }
                writer.append(name, data)
            })
        })?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer);
        Ok(())
    }

    /// Syncs the archive and gives it its name; returns its SHA-256 in hexadecimal.
    fn finish(&self, py: Python<'_>) -> PyResult<String> {
        let writer = self.take()?;
        py.detach(|| writer.finish()).map_err(to_python)
    }

    /// Removes the unfinished file; does nothing after ``finish``.
    fn discard(&self) {
        drop(self.take());
    }
}

impl TarWriter {
    /// Takes the writer out of the lock while it works: waiting for a lock that a detached thread holds could deadlock.
    fn take(&self) -> PyResult<tar::Writer> {
        let writer = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        writer.ok_or_else(|| PyValueError::new_err("the archive is finished, or another thread is writing to it"))
    }
}
