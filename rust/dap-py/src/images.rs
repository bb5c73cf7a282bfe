//! Image files and resizing; wrapped by `dap.data`.

use dap_core::images::{self, Crop, Format, View};
use numpy::{IntoPyArray, PyArray3, PyArrayMethods, PyReadonlyArray3, PyReadwriteArray3, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::arguments::{slice, slice_mut};
use crate::calls::to_python;

/// Format, channels (1, 3, or 4 for CMYK), EXIF and XMP metadata.
type Info<'py> = (&'static str, usize, Option<Bound<'py, PyBytes>>, Option<Bound<'py, PyBytes>>);

/// Reads the headers of a PNG or JPEG file; None if the file has another format.
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
    let (crop, (out, channels, size)) = (crop(filter)?, square(&mut out)?);
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
    let (crop, (out, channels, size)) = (crop(filter)?, square(&mut out)?);
    let [height, width, stored] = dimensions(pixels.shape())?;
    let pixels = slice("pixels", &pixels, pixels.shape())?;
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
    let planes = slice("planes", &planes, planes.shape())?;
    let data = py.detach(|| images::encode(planes, shape, format)).map_err(to_python)?;
    Ok(PyBytes::new(py, &data))
}

fn crop(filter: &str) -> PyResult<Crop> {
    let unknown = || PyValueError::new_err(format!("filter: expected adm, bicubic, lanczos or box, got {filter:?}"));
    Crop::from_name(filter).ok_or_else(unknown)
}

/// Returns the planes of ``out``, (channels, size, size), and their shape.
fn square<'a>(out: &'a mut PyReadwriteArray3<'_, u8>) -> PyResult<(&'a mut [u8], usize, usize)> {
    let [channels, size, _] = dimensions(out.shape())?;
    Ok((slice_mut("out", out, &[channels, size, size])?, channels, size))
}

fn dimensions(shape: &[usize]) -> PyResult<[usize; 3]> {
    shape.try_into().map_err(|_| PyValueError::new_err(format!("expected three dimensions, got {shape:?}")))
}
