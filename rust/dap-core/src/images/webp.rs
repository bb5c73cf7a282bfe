//! WebP: lossy, lossless, with alpha; of an animation the first frame. Written without loss.
//!
//! Format: RFC 9649.

use std::io::Cursor;

use image_webp::{ColorType, WebPDecoder, WebPEncoder};

use super::colour::{on_black, write};
use super::container::{bytes, little};
use super::orientation::orientation;
use super::{Format, Image, Info, allowed, zeros};
use crate::error::{Error, Result};

const HEADER_BYTES: usize = 12;
const FRAME_BYTES: usize = 16;
const CANVAS_BYTES: usize = 10;

pub(super) fn inspect(data: &[u8], max_pixels: usize) -> Result<Info> {
    let (mut size, mut exif, mut xmp) = (None, None, None);
    let mut chunks = Chunks(whole(data)?.get(HEADER_BYTES..).unwrap_or_default());
    for (name, content) in &mut chunks {
        if &name == b"VP8X" && content.len() < CANVAS_BYTES {
            return Err(Format::WebP.damaged("a chunk VP8X that is cut short"));
        }
        let framed = &name == b"ANMF";
        // A frame inside may claim another size than the canvas; the decoder believes it until it has decoded it.
        let inside = if framed { content.get(FRAME_BYTES..).unwrap_or_default() } else { &[] };
        for (name, inner) in Chunks(inside).chain([(name, content)]) {
            if let Some((width, height)) = claimed(&name, inner) {
                allowed(width, height, max_pixels)?;
                size = size.or(Some((width, height)));
                // with alpha, the decoder writes such an image beyond its frame
                if framed && frame_size(content) != Some((width, height)) {
                    return Err(Format::WebP.damaged("a frame of another size than its image"));
                }
            }
        }
        match &name {
            b"EXIF" => exif = exif.or(Some(content)),
            b"XMP " => xmp = xmp.or(Some(content)),
            _ => {}
        }
    }
    // The decoder would read on in these, and what they claim was not looked at.
    if let Some(name) = [b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANMF"].iter().find(|name| chunks.0.starts_with(**name)) {
        return Err(Format::WebP.damaged(format!("a chunk {} that is cut short", name.escape_ascii())));
    }
    let (width, height) = size.ok_or_else(|| Format::WebP.damaged("no image in it"))?;
    Ok(Info { format: Format::WebP, width, height, channels: 3, orientation: orientation(exif, xmp) })
}

pub(super) fn decode(data: &[u8], channels: usize, max_pixels: usize) -> Result<Image> {
    let damaged = |error: image_webp::DecodingError| Format::WebP.damaged(error);
    let mut decoder = WebPDecoder::new(Cursor::new(whole(data)?)).map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    allowed(width, height, max_pixels)?; // should the decoder ever see another size than `inspect` did
    let alpha = decoder.has_alpha();
    let mut stored = zeros(width * height * if alpha { 4 } else { 3 })?;
    decoder.read_image(&mut stored).map_err(damaged)?;
    if channels == 3 && !alpha {
        return Ok(Image { width, height, channels, pixels: stored });
    }
    let mut pixels = zeros(width * height * channels)?;
    if alpha {
        let colours = stored.as_chunks::<4>().0.iter();
        write(colours.map(|[red, green, blue, alpha]| on_black([*red, *green, *blue], *alpha)), &mut pixels, channels);
    } else {
        write(stored.as_chunks().0.iter().copied(), &mut pixels, channels);
    }
    Ok(Image { width, height, channels, pixels })
}

pub(super) fn encode(image: &Image) -> Result<Vec<u8>> {
    const MAX_SIDE: usize = 1 << 14;
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

/// Width and height that the header of a frame claims.
fn frame_size(content: &[u8]) -> Option<(usize, usize)> {
    Some((little(content, 6, 3)? + 1, little(content, 9, 3)? + 1))
}

/// The file without what may follow it.
fn whole(data: &[u8]) -> Result<&[u8]> {
    let file = little(data, 4, 4).and_then(|size| bytes(data, 0, size.checked_add(8)?));
    file.ok_or_else(|| Format::WebP.damaged("truncated"))
}

/// The (name, content) of each chunk that is there whole.
struct Chunks<'a>(&'a [u8]);

impl<'a> Iterator for Chunks<'a> {
    type Item = ([u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let name = self.0.first_chunk().copied()?;
        let content = bytes(self.0, 8, little(self.0, 4, 4)?)?;
        self.0 = self.0.get(8 + content.len().next_multiple_of(2)..).unwrap_or_default();
        Some((name, content))
    }
}

/// The size that a chunk claims, if it is one that does.
fn claimed(name: &[u8; 4], content: &[u8]) -> Option<(usize, usize)> {
    match name {
        b"VP8X" => Some((little(content, 4, 3)? + 1, little(content, 7, 3)? + 1)),
        b"VP8 " => Some((little(content, 6, 2)? & 0x3FFF, little(content, 8, 2)? & 0x3FFF)),
        b"VP8L" => {
            let bits = little(content, 1, 4)?;
            Some(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
        }
        _ => None,
    }
}
