//! Images in and out: PNG and WebP, the square that a prior or a classifier takes, and batches for training.
//!
//! Pixels follow Pillow to the bit: what is transparent lies on black, 16 bits become 8, grey is the luma of ITU-R 601,
//! and [`square`] resizes with the weights, the rounding and the order of passes of `Image.resize`.
//!
//! Files are hostile: a size is checked against a limit, and against what so few bytes can hold, before memory is asked
//! for. JPEG is only inspected here; who decodes it is told its size and its EXIF orientation.

mod augment;
mod colour;
mod container;
mod crop;
mod jpeg;
mod orientation;
mod plane;
mod png;
mod resize;
mod webp;

#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result};

pub use augment::{Change, augment};
pub use crop::{Crop, square};
pub use plane::View;

/// A format that is known by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// PNG, decoded and encoded here.
    Png,
    /// JPEG, inspected here.
    Jpeg,
    /// WebP, decoded and (lossless) encoded here.
    WebP,
}

impl Format {
    /// Its name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::WebP => "webp",
        }
    }

    /// The format of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Png, Self::Jpeg, Self::WebP].into_iter().find(|format| format.name() == name)
    }

    fn damaged(self, reason: impl std::fmt::Display) -> Error {
        Error::Image { format: self.name(), reason: reason.to_string() }
    }
}

/// What a file says of its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its format.
    pub format: Format,
    /// Columns as stored.
    pub width: usize,
    /// Rows as stored.
    pub height: usize,
    /// 1 for grey, 3 for colour, 4 for the CMYK of a JPEG.
    pub channels: usize,
    /// EXIF orientation, 1 to 8.
    pub orientation: u8,
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

/// What is known of an image before it is decoded; `None` if it is of another format.
pub fn inspect(data: &[u8], max_pixels: usize) -> Result<Option<Info>> {
    if data.starts_with(&png::SIGNATURE) {
        png::inspect(data, max_pixels).map(Some)
    } else if data.starts_with(&[0xFF, 0xD8, 0xFF]) {
        jpeg::inspect(data, max_pixels).map(Some)
    } else if data.starts_with(b"RIFF") && data.get(8..12) == Some(b"WEBP") {
        webp::inspect(data, max_pixels).map(Some)
    } else {
        Ok(None)
    }
}

/// Decodes a PNG or WebP file, as stored, to 1 or 3 channels, `None` for grey if it is grey; with what the file says.
pub fn decode(data: &[u8], channels: Option<usize>, max_pixels: usize) -> Result<(Image, Info)> {
    let Some(info) = inspect(data, max_pixels)? else {
        return Err(Error::Image { format: "image", reason: "expected the bytes of a PNG or WebP file".to_owned() });
    };
    let channels = channels.unwrap_or(info.channels);
    let work = || match info.format {
        Format::Png => png::decode(data, channels),
        Format::WebP => webp::decode(data, channels, max_pixels),
        Format::Jpeg => Err(info.format.damaged("expected a PNG or WebP file")),
    };
    // The parsers are other people's code, and a panic of theirs is a damaged file, not a fault of the caller.
    let image = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(info.format.damaged("damaged data")))?;
    Ok((image, info))
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

/// The number of pixels, if it is allowed.
fn allowed(width: usize, height: usize, max_pixels: usize) -> Result<usize> {
    let pixels = width.saturating_mul(height);
    if pixels <= max_pixels { Ok(pixels) } else { Err(Error::Pixels { width, height, max_pixels }) }
}

/// `len` zeros, or an error where there is no memory for them.
fn zeros(len: usize) -> Result<Vec<u8>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| Error::Memory(len))?;
    values.resize(len, 0);
    Ok(values)
}
