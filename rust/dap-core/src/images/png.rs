//! PNG, read and written: every colour type and depth, interlaced or not; of an animation, the default image.
//!
//! Format: W3C PNG (third edition). Gamma and colour profiles are ignored, as by Pillow.

mod chunks;

use std::io::Cursor;

use png::{
    BitDepth, ColorType, DecodeOptions, Decoder, DecodingError, DeflateCompression, Encoder, Filter, InterlaceInfo,
    expand_interlaced_row,
};

use super::colour::{Rgb, on_black, write};
use super::{Format, Image};
use crate::error::Result;
use crate::memory::zeros;

pub(super) use chunks::inspect;

pub(super) const SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

pub(super) fn decode(data: &[u8], channels: usize) -> Result<Image> {
    let damaged = |error: DecodingError| Format::Png.damaged(error);
    let mut options = DecodeOptions::default();
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    let mut reader = Decoder::new_with_options(Cursor::new(data), options).read_info().map_err(damaged)?;
    let info = reader.info();
    let (width, height) = (info.width as usize, info.height as usize);
    if info.frame_control.is_some_and(|frame| (frame.width, frame.height) != (info.width, info.height)) {
        return Err(Format::Png.damaged("its first frame is not of its size"));
    }
    let colours = Colours::new(info, channels)?;
    let stride = width * channels;
    let mut pixels = zeros(height * stride)?;
    if info.interlaced {
        let mut stored = zeros(reader.output_line_size(info.width).unwrap_or(0))?;
        let mut row = zeros(stride)?;
        while let Some(place) = reader.read_row(&mut stored).map_err(damaged)? {
            let InterlaceInfo::Adam7(place) = place else { break };
            colours.convert(&stored, &mut row); // the first passes fill a part of the row
            expand_interlaced_row(&mut pixels, stride, &row, &place, 8 * channels as u8);
        }
    } else if colours.as_stored {
        for row in pixels.chunks_exact_mut(stride) {
            reader.read_row(row).map_err(damaged)?;
        }
    } else {
        let mut stored = zeros(reader.output_line_size(info.width).unwrap_or(0))?;
        for row in pixels.chunks_exact_mut(stride) {
            reader.read_row(&mut stored).map_err(damaged)?;
            colours.convert(&stored, row);
        }
    }
    reader.finish().map_err(damaged)?; // reads to the end and checks the checksum of the last pixels
    Ok(Image { width, height, channels, pixels })
}

pub(super) fn encode(image: &Image) -> Result<Vec<u8>> {
    let failed = |error: png::EncodingError| Format::Png.damaged(error);
    let mut data = Vec::with_capacity(image.pixels.len() / 2);
    let mut encoder = Encoder::new(&mut data, image.width as u32, image.height as u32);
    encoder.set_color(if image.channels == 1 { ColorType::Grayscale } else { ColorType::Rgb });
    encoder.set_deflate_compression(DeflateCompression::FdeflateUltraFast);
    encoder.set_filter(Filter::Avg); // the fastest filter whose photographs are at most 15 % larger than Pillow's
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&image.pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(data)
}

/// How stored samples become pixels of 1 or 3 channels.
struct Colours {
    kind: ColorType,
    depth: BitDepth,
    channels: usize,
    palette: [Rgb; 256],
    /// The transparent colour, reduced to the 8 bits that Pillow compares.
    key: Option<Rgb>,
    /// Whether stored rows need no conversion.
    as_stored: bool,
}

impl Colours {
    fn new(info: &png::Info<'_>, channels: usize) -> Result<Self> {
        let (kind, depth) = (info.color_type, info.bit_depth);
        let stored = matches!((kind, channels), (ColorType::Grayscale, 1) | (ColorType::Rgb, 3));
        let transparent = info.trns.as_deref(); // below 16 bits one byte a sample
        let key = transparent.and_then(|bytes| match (kind, depth) {
            (ColorType::Grayscale, BitDepth::One) => Some([if *bytes.first()? == 0 { 0 } else { 255 }; 3]),
            (ColorType::Grayscale, _) => Some([*bytes.first()?; 3]),
            (ColorType::Rgb, BitDepth::Sixteen) => Some([*bytes.get(1)?, *bytes.get(3)?, *bytes.get(5)?]),
            (ColorType::Rgb, _) => bytes.first_chunk().copied(),
            _ => None,
        });
        let mut palette = [[0; 3]; 256];
        if kind == ColorType::Indexed {
            let colours = info.palette.as_deref().ok_or_else(|| Format::Png.damaged("no palette"))?;
            for (index, (entry, colour)) in palette.iter_mut().zip(colours.as_chunks().0).enumerate() {
                *entry = match transparent {
                    Some(alpha) => on_black(*colour, alpha.get(index).copied().unwrap_or(255)),
                    None => *colour,
                };
            }
        }
        Ok(Self { kind, depth, channels, palette, key, as_stored: stored && depth == BitDepth::Eight && key.is_none() })
    }

    /// Converts samples of a row until `out` is full.
    fn convert(&self, row: &[u8], out: &mut [u8]) {
        let channels = self.channels;
        let opaque = |colour: Rgb| if self.key == Some(colour) { [0; 3] } else { colour };
        let bits = self.depth as usize;
        let sample = |index: usize| {
            let bit = index * bits;
            row[bit / 8] >> (8 - bits - bit % 8) & (0xFF >> (8 - bits))
        };
        let samples = (0..out.len() / channels).map(sample);
        match (self.kind, self.depth) {
            (ColorType::Indexed, _) => write(samples.map(|index| self.palette[usize::from(index)]), out, channels),
            (ColorType::Grayscale, BitDepth::Sixteen) => {
                // v · 255 / 65535, rounded
                let scaled = |[high, low]: &[u8; 2]| ((u32::from(*high) << 8 | u32::from(*low)) + 128) / 257;
                write(row.as_chunks().0.iter().map(|pair| [scaled(pair) as u8; 3]), out, channels);
            }
            (ColorType::Grayscale, _) => {
                let scale = 255 / (0xFF >> (8 - bits)) as u8;
                write(samples.map(|value| opaque([value * scale; 3])), out, channels);
            }
            (ColorType::Rgb, BitDepth::Sixteen) => {
                write(row.as_chunks().0.iter().map(|[r, _, g, _, b, _]| opaque([*r, *g, *b])), out, channels);
            }
            (ColorType::Rgb, _) => write(row.as_chunks().0.iter().map(|colour| opaque(*colour)), out, channels),
            (ColorType::GrayscaleAlpha, BitDepth::Sixteen) => {
                write(row.as_chunks().0.iter().map(|[v, _, a, _]| on_black([*v; 3], *a)), out, channels);
            }
            (ColorType::GrayscaleAlpha, _) => {
                write(row.as_chunks().0.iter().map(|[v, a]| on_black([*v; 3], *a)), out, channels);
            }
            (ColorType::Rgba, BitDepth::Sixteen) => {
                let colours = row.as_chunks().0.iter();
                write(colours.map(|[r, _, g, _, b, _, a, _]| on_black([*r, *g, *b], *a)), out, channels);
            }
            (ColorType::Rgba, _) => {
                write(row.as_chunks().0.iter().map(|[r, g, b, a]| on_black([*r, *g, *b], *a)), out, channels);
            }
        }
    }
}
