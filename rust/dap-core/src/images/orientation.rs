//! Which way is up: tag 274 of EXIF, or what XMP says where EXIF says nothing. What cannot be read says nothing.

use super::container::{be16, be32, bytes, little};

const ORIENTATION: usize = 274;
const ENTRY_BYTES: usize = 12;

/// The orientation, 1 to 8; 1, which is upright, if neither says it.
pub(super) fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> u8 {
    let found = exif.and_then(from_exif).or_else(|| xmp.and_then(from_xmp));
    found.and_then(|value| u8::try_from(value).ok()).filter(|value| (1..=8).contains(value)).unwrap_or(1)
}

/// The tag's value in the first directory of a TIFF file, which may have EXIF's prefix.
fn from_exif(exif: &[u8]) -> Option<usize> {
    const PREFIX: &[u8] = b"Exif\0\0";
    let tiff = exif.strip_prefix(PREFIX).unwrap_or(exif);
    let tiff = tiff.strip_prefix(PREFIX).unwrap_or(tiff);
    let big = match bytes(tiff, 0, 4)? {
        b"MM\0*" => true,
        b"II*\0" => false,
        _ => return None,
    };
    let two = |start| if big { be16(tiff, start) } else { little(tiff, start, 2) };
    let four = |start| if big { be32(tiff, start) } else { little(tiff, start, 4) };
    let first = four(4)?;
    let entries = (0..two(first)?).map_while(|index| {
        let entry = first.checked_add(2 + ENTRY_BYTES * index)?;
        let value = match two(entry + 2)? {
            1 => tiff.get(entry + 8).map(|value| usize::from(*value)),
            3 => two(entry + 8),
            4 => four(entry + 8),
            _ => None,
        };
        Some((two(entry)?, value))
    });
    entries.filter(|(tag, _)| *tag == ORIENTATION).last()?.1
}

/// The digit after `tiff:Orientation="` or `tiff:Orientation>`.
fn from_xmp(xmp: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"tiff:Orientation";
    let mut places = xmp.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
    places.find_map(|(start, _)| {
        let rest = &xmp[start + NAME.len()..];
        let rest = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"))?;
        rest.first().filter(|digit| digit.is_ascii_digit()).map(|digit| usize::from(digit - b'0'))
    })
}
