//! The chunks of a PNG file: its size and its metadata, and whether the file is complete.

use std::borrow::Cow;

use crate::error::Result;
use crate::images::bytes::{be32, bytes};
use crate::images::{Format, Info, allowed};

/// The most bytes that Deflate makes of one byte.
const MOST_INFLATED: usize = 1032;
const MAX_TEXT_BYTES: usize = 1 << 20;
const XMP: &[u8] = b"XML:com.adobe.xmp";
const RAW_EXIF: &[u8] = b"Raw profile type exif";

pub(crate) fn inspect(data: &[u8], max_pixels: usize) -> Result<Info> {
    let damaged = |reason: &str| Format::Png.damaged(reason);
    let header = bytes(data, 16, 13).filter(|_| data.get(12..16) == Some(b"IHDR"));
    let header = header.ok_or_else(|| damaged("no header"))?;
    let (width, height) = (be32(header, 0).unwrap_or(0), be32(header, 4).unwrap_or(0));
    let pixels = allowed(width, height, max_pixels)?;
    let samples = match header[9] {
        0 | 3 => 1,
        4 => 2,
        2 => 3,
        _ => 4,
    };
    let (mut place, mut compressed) = (super::SIGNATURE.len(), 0);
    let (mut exif, mut raw_exif, mut xmp) = (None, None, None);
    loop {
        let length = be32(data, place).ok_or_else(|| damaged("truncated"))?;
        let chunk = bytes(data, place + 4, length + 8).ok_or_else(|| damaged("truncated"))?;
        place += 12 + length;
        let (name, content) = chunk[..length + 4].split_at(4); // a checksum follows
        match name {
            b"IEND" => break,
            b"IDAT" => compressed += length,
            b"eXIf" => exif = Some(content),
            b"tEXt" | b"zTXt" | b"iTXt" => match text(name, content) {
                Some((RAW_EXIF, text)) => raw_exif = raw_profile(&text),
                Some((XMP, text)) => xmp = Some(text),
                _ => {}
            },
            _ => {}
        }
    }
    if pixels == 0 || pixels.saturating_mul(samples * usize::from(header[8])) / 8 > compressed * MOST_INFLATED {
        return Err(damaged("its header claims more pixels than its bytes can hold"));
    }
    Ok(Info {
        format: Format::Png,
        width,
        height,
        channels: if matches!(header[9], 0 | 4) { 1 } else { 3 },
        exif: exif.map(Vec::from).or(raw_exif),
        xmp: xmp.map(Cow::into_owned),
    })
}

/// Returns keyword and text of a text chunk; the text is decompressed if it is metadata.
fn text<'a>(name: &[u8], content: &'a [u8]) -> Option<(&'a [u8], Cow<'a, [u8]>)> {
    let cut = |content: &'a [u8]| {
        let end = content.iter().position(|byte| *byte == 0)?;
        Some((&content[..end], &content[end + 1..]))
    };
    let (keyword, rest) = cut(content)?;
    let (compressed, text) = match name {
        b"tEXt" => (false, rest),
        b"zTXt" => (true, rest.get(1..)?),
        _ => (*rest.first()? != 0, cut(cut(rest.get(2..)?)?.1)?.1), // two flags, a language, a translated keyword
    };
    if !compressed || !matches!(keyword, XMP | RAW_EXIF) {
        return Some((keyword, Cow::Borrowed(text)));
    }
    fdeflate::decompress_to_vec_bounded(text, MAX_TEXT_BYTES).ok().map(|text| (keyword, Cow::Owned(text)))
}

/// Reads a raw profile, which ImageMagick writes: three lines, then the bytes in hexadecimal.
fn raw_profile(text: &[u8]) -> Option<Vec<u8>> {
    let digits = text.split(|byte| *byte == b'\n').skip(3).flatten().filter(|byte| !byte.is_ascii_whitespace());
    let digits: Option<Vec<u8>> = digits.map(|byte| char::from(*byte).to_digit(16).map(|digit| digit as u8)).collect();
    Some(digits?.as_chunks().0.iter().map(|[high, low]| high << 4 | low).collect())
}
