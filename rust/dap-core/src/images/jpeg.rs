//! JPEG, inspected only: its size, colours, metadata and number of scans. libjpeg-turbo decodes it, from Python.
//!
//! Format: ITU-T T.81, annex B.

use super::bytes::{be16, bytes};
use super::{Format, Info, allowed};
use crate::error::Result;

/// A block of 64 pixels takes at least one bit of a file with Huffman codes.
const PIXELS_PER_BYTE: usize = 8 * 64;
/// With arithmetic coding a block may take less than a bit; no encoder comes near this limit.
const PIXELS_PER_BYTE_ARITHMETIC: usize = 100 * PIXELS_PER_BYTE;
/// The most pixels of all scans together: a normal progressive file has ten scans, a hostile one has thousands.
const MAX_WORK: usize = 1 << 30;

#[derive(Default)]
struct Frame {
    width: usize,
    height: usize,
    components: usize,
    progressive: bool,
    arithmetic: bool,
}

pub(super) fn inspect(data: &[u8], max_pixels: usize) -> Result<Info> {
    let damaged = |reason: &str| Format::Jpeg.damaged(reason);
    let (mut frame, mut scans, mut place) = (None, 0, 2);
    let (mut exif, mut xmp) = (Vec::new(), None);
    while let Some(marker) = next_marker(data, &mut place) {
        match marker {
            0xD9 => break,
            0x01 | 0xD0..=0xD8 => continue, // no content
            _ => {}
        }
        let length = be16(data, place).filter(|length| *length >= 2);
        let content = length.and_then(|length| bytes(data, place, length)).ok_or_else(|| damaged("truncated"))?;
        place += content.len();
        let content = &content[2..];
        match marker {
            0xE1 if content.starts_with(b"Exif\0\0") => exif.extend(&content[if exif.is_empty() { 0 } else { 6 }..]),
            0xE1 => xmp = content.strip_prefix(b"http://ns.adobe.com/xap/1.0/\0").or(xmp),
            0xC4 | 0xC8 | 0xCC => {}
            0xC0..=0xCF if frame.is_none() => {
                frame = Some(read_frame(marker, content).ok_or_else(|| damaged("damaged frame header"))?);
            }
            0xDA => {
                scans += 1;
                let frame = frame.as_ref().ok_or_else(|| damaged("no frame header"))?;
                if !frame.progressive && content.first() == Some(&(frame.components as u8)) {
                    break; // a decoder reads no further
                }
            }
            _ => {}
        }
    }
    let frame = frame.filter(|_| scans > 0).ok_or_else(|| damaged("no image in it"))?;
    let pixels = allowed(frame.width, frame.height, max_pixels)?;
    let most = if frame.arithmetic { PIXELS_PER_BYTE_ARITHMETIC } else { PIXELS_PER_BYTE };
    if pixels == 0 || pixels / most > data.len() {
        return Err(damaged("its header claims more pixels than its bytes can hold"));
    }
    if pixels.saturating_mul(scans) > MAX_WORK.max(16 * pixels) {
        return Err(damaged("it has too many scans"));
    }
    Ok(Info {
        format: Format::Jpeg,
        width: frame.width,
        height: frame.height,
        channels: frame.components,
        exif: (!exif.is_empty()).then_some(exif),
        xmp: xmp.map(Vec::from),
    })
}

/// Moves past the next marker and returns it; anything between markers, such as the data of a scan, is skipped.
fn next_marker(data: &[u8], place: &mut usize) -> Option<u8> {
    loop {
        *place += data.get(*place..)?.iter().position(|byte| *byte == 0xFF)? + 1;
        match *data.get(*place)? {
            0x00 => *place += 1,
            0xFF => {}
            marker => {
                *place += 1;
                return Some(marker);
            }
        }
    }
}

fn read_frame(marker: u8, content: &[u8]) -> Option<Frame> {
    Some(Frame {
        height: be16(content, 1)?,
        width: be16(content, 3)?,
        components: usize::from(*content.get(5)?),
        progressive: matches!(marker, 0xC2 | 0xC6 | 0xCA | 0xCE),
        arithmetic: marker >= 0xC9,
    })
}
