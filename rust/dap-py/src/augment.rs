//! Augmented batches; wrapped by `dap.nets`.

use dap_core::images::{self, Change, ResizedCrop};
use numpy::{
    PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3, PyReadonlyArray4, PyReadwriteArray4, PyUntypedArrayMethods,
};
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

/// Writes parts of some of the images (N, C, H, W), resized, mirrored and with other colours, into ``out``.
///
/// C is 1 or 3. ``rows`` (B,) are the numbers of the images and ``out`` is (B, C, S, S). ``strips`` (B, 2, k) are the
/// orders of columns and rows of strips, ``boxes`` (B, 4) top, left, height and width of the parts, ``colours``
/// (B, C, 2 C + 1) the factors of the channels and of their means, and a summand.
#[pyfunction]
#[pyo3(signature = (images, rows, strips, boxes, flips, colours, out, threads=None))]
#[expect(clippy::too_many_arguments, reason = "one call for a whole batch")]
pub(crate) fn resized_crops(
    py: Python<'_>,
    images: PyReadonlyArray4<'_, u8>,
    rows: PyReadonlyArray1<'_, i64>,
    strips: PyReadonlyArray3<'_, i64>,
    boxes: PyReadonlyArray2<'_, i64>,
    flips: PyReadonlyArray1<'_, bool>,
    colours: PyReadonlyArray3<'_, f32>,
    mut out: PyReadwriteArray4<'_, f32>,
    threads: Option<usize>,
) -> PyResult<()> {
    let (&[_, channels, height, width], &[_, _, strip_count], &[_, _, _, size]) =
        (images.shape(), strips.shape(), out.shape())
    else {
        return Err(PyValueError::new_err("images, strips or out: wrong number of dimensions"));
    };
    let (count, factors) = (rows.len(), channels * (2 * channels + 1));
    let pixels = slice("images", &images, images.shape())?;
    let orders = slice("strips", &strips, &[count, 2, strip_count])?.chunks_exact((2 * strip_count).max(1));
    let boxes = slice("boxes", &boxes, &[count, 4])?.as_chunks::<4>().0;
    let flips = slice("flips", &flips, &[count])?;
    let colours = slice("colours", &colours, &[count, channels, 2 * channels + 1])?.chunks_exact(factors.max(1));
    let number = |value: i64| usize::try_from(value).map_err(|_| PyValueError::new_err(format!("got {value}")));
    let draws = slice("rows", &rows, &[count])?.iter().zip(orders).zip(boxes).zip(flips).zip(colours);
    let crops = draws.map(|((((&row, order), &[top, left, height, width]), &flip), colours)| {
        let (columns, rows) = order.split_at(strip_count);
        let part = [number(top)?, number(left)?, number(height)?, number(width)?];
        Ok(ResizedCrop { image: number(row)?, strips: [columns, rows], part, flip, colours })
    });
    let crops = crops.collect::<PyResult<Vec<_>>>()?;
    let out = slice_mut("out", &mut out, &[count, channels, size, size])?;
    interruptible(py, |check| {
        images::resized_crops(pixels, [channels, height, width], &crops, size, out, threads, check)
    })
}
