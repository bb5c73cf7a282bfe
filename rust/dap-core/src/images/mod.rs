//! Images in and out: PNG files, lossless WebP files (written only), resized squares, and augmented batches.
//!
//! Pixels equal those of Pillow to the bit: transparent pixels are composited on black, 16 bits become 8, grey is the
//! luma of ITU-R 601, and [`square`] resizes with the weights, the rounding and the order of passes of `Image.resize`.
//!
//! Files may be hostile: before memory is allocated, the size that a file claims is checked against a limit and against
//! the number of its bytes. JPEG files are only inspected here; Python decodes them with libjpeg-turbo.

mod augment;
mod bytes;
mod colour;
mod crop;
mod jpeg;
mod plane;
mod png;
mod resize;
mod resized_crops;
mod webp;

#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result};

pub use augment::{Change, augment};
pub use crop::{Crop, square};
pub use plane::View;
pub use resized_crops::{ResizedCrop, resized_crops};

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// PNG, decoded and encoded here.
    Png,
    /// JPEG, inspected here.
    Jpeg,
    /// WebP, encoded without loss here.
    WebP,
}

impl Format {
    /// Returns its name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::WebP => "webp",
        }
    }

    /// Returns the format of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Png, Self::Jpeg, Self::WebP].into_iter().find(|format| format.name() == name)
    }

    fn damaged(self, reason: impl std::fmt::Display) -> Error {
        Error::Image { format: self.name(), reason: reason.to_string() }
    }
}

/// The headers of an image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its format.
    pub format: Format,
    /// Columns as stored.
    pub width: usize,
    /// Rows as stored.
    pub height: usize,
    /// 1 for grey, 3 for colour, 4 for the CMYK of a JPEG.
    pub channels: usize,
    /// EXIF metadata: a TIFF file, which may have the prefix `Exif\0\0`.
    pub exif: Option<Vec<u8>>,
    /// XMP metadata: XML.
    pub xmp: Option<Vec<u8>>,
}

/// An image as stored: rows of interleaved channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 or 3.
    pub channels: usize,
    /// Height × width × channels values.
    pub pixels: Vec<u8>,
}

impl Image {
    /// The image with the EXIF orientation that its file gives, 1 to 8.
    pub fn view(&self, orientation: u8) -> View<'_> {
        let Self { width, height, channels, ref pixels } = *self;
        View { width, height, channels, pixels, orientation }
    }
}

/// Reads the headers of a PNG or JPEG file; `None` if the file has another format.
pub fn inspect(data: &[u8], max_pixels: usize) -> Result<Option<Info>> {
    if data.starts_with(&png::SIGNATURE) {
        png::inspect(data, max_pixels).map(Some)
    } else if data.starts_with(&[0xFF, 0xD8, 0xFF]) {
        jpeg::inspect(data, max_pixels).map(Some)
    } else {
        Ok(None)
    }
}

/// Decodes a PNG file as stored, without turning it; `channels` is 1 or 3, or `None` for 1 if the file is grey, else 3.
pub fn decode(data: &[u8], channels: Option<usize>, max_pixels: usize) -> Result<Image> {
    let info = inspect(data, max_pixels)?.filter(|info| info.format == Format::Png);
    let info = info.ok_or_else(|| Format::Png.damaged("expected the bytes of a PNG file"))?;
    let work = || png::decode(data, channels.unwrap_or(info.channels));
    // A panic of the external decoder means that the file is damaged, not that the caller made a mistake.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Format::Png.damaged("damaged data")))
}

/// Encodes planes, channels × height × width, without loss; the same pixels give the same bytes.
pub fn encode(planes: &[u8], shape: [usize; 3], format: Format) -> Result<Vec<u8>> {
    let [channels, height, width] = shape;
    let fits = |side: usize| side > 0 && u32::try_from(side).is_ok();
    if !matches!(channels, 1 | 3) || !fits(height) || !fits(width) || planes.len() != channels * height * width {
        return Err(Error::ImageShape { shape, expected: "(1 or 3, height, width), none of them empty" });
    }
    let image = Image { width, height, channels, pixels: plane::interleave(planes, channels)? };
    match format {
        Format::Png => png::encode(&image),
        Format::WebP => webp::encode(&image),
        Format::Jpeg => Err(format.damaged("is not encoded here")),
    }
}

/// Returns the number of pixels, or an error if it exceeds the limit.
fn allowed(width: usize, height: usize, max_pixels: usize) -> Result<usize> {
    let pixels = width.saturating_mul(height);
    if pixels <= max_pixels { Ok(pixels) } else { Err(Error::Pixels { width, height, max_pixels }) }
}
