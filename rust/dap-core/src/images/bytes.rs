//! Big-endian numbers and ranges of bytes in a file; `None` where the file ends before them.

/// The `len` bytes from `start` on.
pub(super) fn bytes(data: &[u8], start: usize, len: usize) -> Option<&[u8]> {
    data.get(start..start.checked_add(len)?)
}

/// A big-endian number of 16 bits.
pub(super) fn be16(data: &[u8], start: usize) -> Option<usize> {
    bytes(data, start, 2).map(|two| usize::from(two[0]) << 8 | usize::from(two[1]))
}

/// A big-endian number of 32 bits.
pub(super) fn be32(data: &[u8], start: usize) -> Option<usize> {
    Some(be16(data, start)? << 16 | be16(data, start.checked_add(2)?)?)
}
