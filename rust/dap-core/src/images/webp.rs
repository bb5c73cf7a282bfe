//! Lossless WebP, written only: Pillow decodes WebP files.
//!
//! Format: RFC 9649.

use image_webp::{ColorType, WebPEncoder};

use super::{Format, Image};
use crate::error::{Error, Result};

/// The most columns or rows that the format allows.
const MAX_SIDE: usize = 1 << 14;

pub(super) fn encode(image: &Image) -> Result<Vec<u8>> {
    if image.width.max(image.height) > MAX_SIDE {
        let shape = [image.channels, image.height, image.width];
        return Err(Error::ImageShape { shape, expected: "sides of at most 16384 pixels, the most that WebP holds" });
    }
    let colour = if image.channels == 1 { ColorType::L8 } else { ColorType::Rgb8 };
    let mut data = Vec::new();
    let encoder = WebPEncoder::new(&mut data);
    let written = encoder.encode(&image.pixels, image.width as u32, image.height as u32, colour);
    written.map_err(|error| Format::WebP.damaged(error))?;
    Ok(data)
}
