//! One header: its fields, its checksum, and the check of a member's name.

use super::{BLOCK, TarError};

/// The largest size that eleven octal digits hold.
pub(super) const MAX_SIZE: u64 = (1 << 33) - 1;

/// A header block.
pub(super) struct Header(pub(super) [u8; BLOCK]);

impl Header {
    /// Returns the header of a member, with owner, time and the like zero, so that the same member gives the same bytes.
    pub(super) fn new(prefix: &[u8], name: &[u8], size: u64, kind: u8) -> Self {
        let mut header = Self([0; BLOCK]);
        header.put(0, name);
        header.put(100, b"0000644\0");
        header.put(108, b"0000000\0");
        header.put(116, b"0000000\0");
        header.put(124, format!("{size:011o}\0").as_bytes());
        header.put(136, b"00000000000\0");
        header.put(156, &[kind]);
        header.put(257, b"ustar\x0000");
        header.put(345, prefix);
        let sum = header.sums().0;
        header.put(148, format!("{sum:06o}\0 ").as_bytes());
        header
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Returns the sum of all bytes, those of the checksum counted as spaces: unsigned, and signed as some old writers did.
    fn sums(&self) -> (u64, i64) {
        let bytes = self.0.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { b' ' } else { byte });
        bytes.fold((0, 0), |(unsigned, signed), byte| {
            (unsigned + u64::from(byte), signed + i64::from(byte.cast_signed()))
        })
    }

    pub(super) fn is_valid(&self) -> bool {
        let (unsigned, signed) = self.sums();
        number(&self.0[148..156]).is_some_and(|sum| sum == unsigned || i64::try_from(sum) == Ok(signed))
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn size(&self) -> Option<u64> {
        number(&self.0[124..136])
    }

    /// Returns the name with its prefix, which only POSIX headers have; GNU tar stores times there.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = until_nul(&self.0[..100]);
        let prefix = if &self.0[257..263] == b"ustar\0" { until_nul(&self.0[345..500]) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }
}

/// Returns the bytes before the first NUL.
pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or(bytes)
}

/// Reads a number in octal digits or, if the first bit is set, in base 256, which GNU tar uses for large numbers.
fn number(field: &[u8]) -> Option<u64> {
    let (&first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let (high, low) = rest.split_at(rest.len().checked_sub(8)?);
        let positive = first == 0x80 && high.iter().all(|&byte| byte == 0);
        return positive.then(|| low.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)));
    }
    let digits = std::str::from_utf8(until_nul(field)).ok()?.trim_matches(' ');
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()); // `from_str_radix` would accept a sign
    if digits.is_empty() { Some(0) } else { plain.then(|| u64::from_str_radix(digits, 8).ok())? }
}

/// Returns the name as text; an error if it leads out of the folder that an archive is unpacked to.
pub(super) fn check_name(bytes: Vec<u8>) -> Result<String, TarError> {
    let refused = |member: &[u8], reason| TarError::Name { member: String::from_utf8_lossy(member).into(), reason };
    let name = String::from_utf8(bytes).map_err(|error| refused(error.as_bytes(), "is not UTF-8"))?;
    let reason = if name.is_empty() {
        "is empty"
    } else if name.contains('\0') {
        "has a NUL in it"
    } else if name.starts_with(['/', '\\']) || matches!(name.as_bytes(), [_, b':', b'/' | b'\\', ..]) {
        "is an absolute path"
    } else if name.split(['/', '\\']).any(|part| part == "..") {
        "leads out of the folder (..)"
    } else {
        return Ok(name);
    };
    Err(refused(name.as_bytes(), reason))
}
