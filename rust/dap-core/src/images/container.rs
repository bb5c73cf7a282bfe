//! Reading the numbers of a file's structure; an end that comes too early is `None`.

/// The bytes from `start`, as many as `len`.
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

/// A little-endian number of `len` bytes.
pub(super) fn little(data: &[u8], start: usize, len: usize) -> Option<usize> {
    bytes(data, start, len).map(|bytes| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
}
