//! Images in and out; wrapped by `dap.data`.

use dap_core::images::{self, Change, Crop, Format, View};
use numpy::{
    IntoPyArray, PyArray3, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3, PyReadonlyArray4,
    PyReadwriteArray3, PyReadwriteArray4, PyUntypedArrayMethods,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::calls::{interruptible, to_python};

/// Format, channels (1, 3, or 4 for CMYK), EXIF and XMP metadata.
type Info<'py> = (&'static str, usize, Option<Bound<'py, PyBytes>>, Option<Bound<'py, PyBytes>>);

/// What the headers of a PNG or JPEG file say; None if the file has another format.
#[pyfunction]
pub(crate) fn image_info<'py>(py: Python<'py>, data: &[u8], max_pixels: usize) -> PyResult<Option<Info<'py>>> {
    let info = py.detach(|| images::inspect(data, max_pixels)).map_err(to_python)?;
    let bytes = |data: Option<Vec<u8>>| data.map(|data| PyBytes::new(py, &data));
    Ok(info.map(|info| (info.format.name(), info.channels, bytes(info.exif), bytes(info.xmp))))
}

/// The pixels of a PNG file as stored, (H, W, C); C is 1 if the file is grey, otherwise 3.
#[pyfunction]
pub(crate) fn decode_image<'py>(py: Python<'py>, data: &[u8], max_pixels: usize) -> PyResult<Bound<'py, PyArray3<u8>>> {
    let image = py.detach(|| images::decode(data, None, max_pixels)).map_err(to_python)?;
    image.pixels.into_pyarray(py).reshape([image.height, image.width, image.channels])
}

/// Decodes a PNG file into ``out``, (1 or 3, size, size), turned upright, resized and cropped.
#[pyfunction]
pub(crate) fn decode_square(
    py: Python<'_>,
    data: &[u8],
    orientation: u8,
    mut out: PyReadwriteArray3<'_, u8>,
    filter: &str,
    max_pixels: usize,
) -> PyResult<()> {
    let (crop, [channels, size, _]) = (crop(filter)?, shape(&out)?);
    let out = out.as_slice_mut().map_err(|error| PyValueError::new_err(format!("out: {error}")))?;
    let work = || {
        let image = images::decode(data, Some(channels), max_pixels)?;
        images::square(image.view(orientation), crop, channels, size, out)
    };
    py.detach(work).map_err(to_python)
}

/// Writes pixels (H, W, 1 or 3) into ``out``, (1 or 3, size, size), turned upright, resized and cropped.
#[pyfunction]
pub(crate) fn crop_square(
    py: Python<'_>,
    pixels: PyReadonlyArray3<'_, u8>,
    orientation: u8,
    mut out: PyReadwriteArray3<'_, u8>,
    filter: &str,
) -> PyResult<()> {
    let (crop, [channels, size, _]) = (crop(filter)?, shape(&out)?);
    let out = out.as_slice_mut().map_err(|error| PyValueError::new_err(format!("out: {error}")))?;
    let [height, width, stored] = dimensions(pixels.shape())?;
    let pixels = pixels.as_slice().map_err(|error| PyValueError::new_err(format!("pixels: {error}")))?;
    let view = View { width, height, channels: stored, pixels, orientation };
    py.detach(|| images::square(view, crop, channels, size, out)).map_err(to_python)
}

/// The bytes of a PNG or lossless WebP file with these planes, (1 or 3, H, W).
#[pyfunction]
pub(crate) fn encode_image<'py>(
    py: Python<'py>,
    planes: PyReadonlyArray3<'py, u8>,
    format: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let known = Format::from_name(format);
    let format = known.ok_or_else(|| PyValueError::new_err(format!("format: expected png or webp, got {format:?}")))?;
    let shape = dimensions(planes.shape())?;
    let planes = planes.as_slice().map_err(|error| PyValueError::new_err(format!("planes: {error}")))?;
    let data = py.detach(|| images::encode(planes, shape, format)).map_err(to_python)?;
    Ok(PyBytes::new(py, &data))
}

/// Writes some of the images (N, 1 or 3, H, W), shifted, mirrored, with other colours and normalised, into ``out``.
///
/// ``rows`` (B,) are their numbers, ``out`` is (B, 1 or 3, H, W). ``corners`` (B, 2) are top and left, ``factors`` (B, 3) or None, ``normal`` (channels, 2) mean and deviation.
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
    let refused = |name: &str| PyValueError::new_err(format!("{name}: of another shape, or not C-contiguous"));
    let shape: [usize; 4] = images.shape().try_into().map_err(|_| refused("images"))?;
    let ([_, channels, height, width], count) = (shape, rows.len());
    if !out.is_c_contiguous() || out.shape() != [count, channels, height, width] {
        return Err(refused("out"));
    }
    if !images.is_c_contiguous() || !normal.is_c_contiguous() {
        return Err(refused("images or normal"));
    }
    let (images, out) =
        (images.as_slice().map_err(|_| refused("images"))?, out.as_slice_mut().map_err(|_| refused("out"))?);
    let fits = |factors: &PyReadonlyArray2<'_, f32>| factors.shape() == [count, 3] && factors.is_c_contiguous();
    let corners_fit = corners.shape() == [count, 2] && corners.is_c_contiguous();
    if !factors.as_ref().is_none_or(fits) || !corners_fit || flips.shape() != [count] {
        return Err(refused("corners, flips or factors"));
    }
    let (corners, flips) =
        (corners.as_slice().map_err(|_| refused("corners"))?, flips.as_slice().map_err(|_| refused("flips"))?);
    let factors = factors.as_ref().map(|factors| factors.as_slice()).transpose().map_err(|_| refused("factors"))?;
    let mut factors = factors.map(|factors| factors.as_chunks::<3>().0.iter());
    let places = rows.as_slice().map_err(|_| refused("rows"))?.iter().zip(corners.as_chunks::<2>().0).zip(flips);
    let changes = places.map(|((&row, &[top, left]), &flip)| {
        let image = usize::try_from(row).map_err(|_| PyValueError::new_err(format!("rows: got {row}")))?;
        Ok(Change { image, top, left, flip, factors: factors.as_mut().and_then(Iterator::next).copied() })
    });
    let changes = changes.collect::<PyResult<Vec<_>>>()?;
    let normal = normal.as_slice().map_err(|_| refused("normal"))?.as_chunks::<2>().0;
    interruptible(py, |check| images::augment(images, [channels, height, width], &changes, normal, out, threads, check))
}

fn crop(filter: &str) -> PyResult<Crop> {
    let unknown = || PyValueError::new_err(format!("filter: expected adm, bicubic, lanczos or box, got {filter:?}"));
    Crop::from_name(filter).ok_or_else(unknown)
}

fn shape(out: &PyReadwriteArray3<'_, u8>) -> PyResult<[usize; 3]> {
    let shape = dimensions(out.shape())?;
    if shape[1] == shape[2] && out.is_c_contiguous() {
        return Ok(shape);
    }
    Err(PyValueError::new_err(format!("out: expected a C-contiguous array (1 or 3, size, size), got {shape:?}")))
}

fn dimensions(shape: &[usize]) -> PyResult<[usize; 3]> {
    shape.try_into().map_err(|_| PyValueError::new_err(format!("expected three dimensions, got {shape:?}")))
}
