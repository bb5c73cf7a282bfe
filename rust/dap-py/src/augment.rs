//! Augmented batches; wrapped by `dap.nets`.

use dap_core::images::{self, Change};
use numpy::{PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray4, PyReadwriteArray4, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arguments::{slice, slice_mut};
use crate::calls::interruptible;

/// Writes some of the images (N, C, H, W), shifted, mirrored, with other colours and normalised, into ``out``.
///
/// C is 1 or 3. ``rows`` (B,) are the numbers of the images and ``out`` is (B, C, H, W). ``corners`` (B, 2) are top and
/// left, ``factors`` (B, 3) those of brightness, contrast and saturation, ``normal`` (C, 2) mean and deviation.
#[pyfunction]
#[pyo3(signature = (images, rows, corners, flips, factors, normal, out, threads=None))]
#[expect(clippy::too_many_arguments, reason = "one call for a whole batch")]
pub(crate) fn augment(
    py: Python<'_>,
    images: PyReadonlyArray4<'_, u8>,
    rows: PyReadonlyArray1<'_, i64>,
    corners: PyReadonlyArray2<'_, i64>,
    flips: PyReadonlyArray1<'_, bool>,
    factors: Option<PyReadonlyArray2<'_, f32>>,
    normal: PyReadonlyArray2<'_, f32>,
    mut out: PyReadwriteArray4<'_, f32>,
    threads: Option<usize>,
) -> PyResult<()> {
    let changes = changes(&rows, &corners, &flips, factors.as_ref())?;
    let images_shape = <[usize; 4]>::try_from(images.shape());
    let [_, channels, height, width] = images_shape.map_err(|error| PyValueError::new_err(error.to_string()))?;
    let shape = [channels, height, width];
    let images = slice("images", &images, images.shape())?;
    let normal = slice("normal", &normal, &[channels, 2])?.as_chunks::<2>().0;
    let out = slice_mut("out", &mut out, &[changes.len(), channels, height, width])?;
    interruptible(py, |check| images::augment(images, shape, &changes, normal, out, threads, check))
}

/// Returns the change of each image of the batch.
fn changes(
    rows: &PyReadonlyArray1<'_, i64>,
    corners: &PyReadonlyArray2<'_, i64>,
    flips: &PyReadonlyArray1<'_, bool>,
    factors: Option<&PyReadonlyArray2<'_, f32>>,
) -> PyResult<Vec<Change>> {
    let count = rows.len();
    let corners = slice("corners", corners, &[count, 2])?.as_chunks::<2>().0;
    let flips = slice("flips", flips, &[count])?;
    let factors = factors.map(|factors| slice("factors", factors, &[count, 3])).transpose()?;
    let mut factors = factors.map(|factors| factors.as_chunks::<3>().0.iter());
    let images = slice("rows", rows, &[count])?.iter().zip(corners).zip(flips);
    let changes = images.map(|((&row, &[top, left]), &flip)| {
        let image = usize::try_from(row).map_err(|_| PyValueError::new_err(format!("rows: got {row}")))?;
        Ok(Change { image, top, left, flip, factors: factors.as_mut().and_then(Iterator::next).copied() })
    });
    changes.collect()
}
