//! Reads the names and places of the files of an archive.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use super::header::{Header, check_name, until_nul};
use super::{BLOCK, TarError};
use crate::Check;
use crate::error::{Error, Result};
use crate::files::io_error;

/// Bytes that are read at once: few, because the data between two headers is skipped.
const BUFFER: usize = 1 << 14;
/// The most bytes of an extended header, which holds a path.
const MAX_EXTENDED: u64 = 1 << 20;
/// The most bytes of padding after the end of an archive; GNU tar pads to multiples of 10,240.
const MAX_PADDING: u64 = 1 << 20;
/// Headers between two calls of the check.
const HEADERS: usize = 1024;

/// A regular file in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its path.
    pub name: String,
    /// Where its data begins, in bytes from the start of the archive.
    pub offset: u64,
    /// Bytes of its data.
    pub size: u64,
}

/// Returns the files of the archive at `path` in the archive's order; the archive may be hostile.
pub fn scan(path: &Path, check: Check) -> Result<Vec<Member>> {
    let file = File::open(path).map_err(io_error(path))?;
    let bytes = file.metadata().map_err(io_error(path))?.len();
    read(BufReader::with_capacity(BUFFER, file), bytes, path, check)
}

/// Returns the files of an archive of `bytes` bytes; `path` is for error messages.
///
/// It is an error if two have the same name, data lies outside of the archive, or a name leads out of the folder.
pub fn read<R: Read + Seek>(reader: BufReader<R>, bytes: u64, path: &Path, check: Check) -> Result<Vec<Member>> {
    let refused = |error| Error::Tar { path: path.into(), error };
    let mut archive = Archive { reader, position: 0, bytes };
    let (mut members, mut extended, mut headers) = (Vec::new(), Extended::default(), 0_usize);
    loop {
        headers += 1;
        if headers.is_multiple_of(HEADERS) {
            check()?;
        }
        if bytes - archive.position < BLOCK as u64 {
            return Err(refused(TarError::End(bytes)));
        }
        let begin = archive.position;
        let mut header = Header([0; BLOCK]);
        archive.fill(&mut header.0).map_err(io_error(path))?;
        if header.0 == [0; BLOCK] {
            archive.check_end().map_err(io_error(path))?.map_err(refused)?;
            break;
        }
        if !header.is_valid() {
            return Err(refused(TarError::Checksum(begin)));
        }
        let shown = || String::from_utf8_lossy(&header.name()).into_owned();
        let size = header.size().ok_or_else(|| refused(TarError::Number { member: shown() }))?;
        let kind = header.kind();
        if matches!(kind, b'x' | b'g' | b'L') {
            archive.check_inside(size, shown).map_err(refused)?;
            if size > MAX_EXTENDED {
                return Err(refused(TarError::Extended { begin, reason: "longer than any path" }));
            }
            let mut data = vec![0; size as usize];
            archive.fill(&mut data).and_then(|()| archive.skip(padding(size))).map_err(io_error(path))?;
            let parsed = if kind == b'L' { extended.name(&data) } else { extended.pax(&data, kind == b'g') };
            parsed.map_err(|reason| refused(TarError::Extended { begin, reason }))?;
            continue;
        }
        let Extended { name, size: pax_size } = std::mem::take(&mut extended);
        let name = check_name(name.unwrap_or_else(|| header.name())).map_err(refused)?;
        let size = pax_size.unwrap_or(size);
        archive.check_inside(size, || name.clone()).map_err(refused)?;
        match kind {
            // v7 marks folders by a slash at the end of the name only
            b'0' | 0 | b'7' if !name.ends_with('/') => members.push(Member { name, offset: archive.position, size }),
            b'0' | 0 | b'7' | b'5' if size == 0 => {}
            b'0' | 0 | b'7' | b'5' => return Err(refused(TarError::Kind { member: name, kind: "folder with data" })),
            _ => return Err(refused(TarError::Kind { member: name, kind: kind_name(kind) })),
        }
        archive.skip(size + padding(size)).map_err(io_error(path))?;
    }
    let mut names: Vec<_> = members.iter().map(|member| &member.name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(refused(TarError::Repeated(pair[0].clone()))),
        None => Ok(members),
    }
}

fn kind_name(kind: u8) -> &'static str {
    match kind {
        b'1' => "hard link",
        b'2' | b'K' => "symbolic link",
        b'3' | b'4' => "device",
        b'6' => "named pipe",
        b'S' => "sparse file",
        _ => "member of an unknown kind",
    }
}

/// Returns the number of bytes from the end of data to the next block.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

struct Archive<R> {
    reader: BufReader<R>,
    position: u64,
    bytes: u64,
}

impl<R: Read + Seek> Archive<R> {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.reader.read_exact(buffer)?;
        self.position += buffer.len() as u64;
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.reader.seek_relative(bytes.cast_signed())?;
        self.position += bytes;
        Ok(())
    }

    /// An error unless `size` bytes and their padding lie between the current position and the end of the file.
    fn check_inside(&self, size: u64, member: impl FnOnce() -> String) -> std::result::Result<(), TarError> {
        let (begin, bytes) = (self.position, self.bytes);
        let inside = size.checked_add(padding(size)).is_some_and(|size| size <= bytes - begin);
        if inside { Ok(()) } else { Err(TarError::Truncated { member: member(), size, begin, bytes }) }
    }

    /// An error unless only zeros follow: a member after the end mark would be lost silently.
    fn check_end(&mut self) -> io::Result<std::result::Result<(), TarError>> {
        let (end, mut rest) = (self.position, Vec::new());
        if self.bytes - end <= MAX_PADDING {
            self.reader.by_ref().take(MAX_PADDING).read_to_end(&mut rest)?;
            if rest.iter().all(|&byte| byte == 0) {
                return Ok(Ok(()));
            }
        }
        Ok(Err(TarError::Trailing(end)))
    }
}

/// The fields of extended headers, which apply to the next member.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extended {
    /// GNU tar's long name.
    fn name(&mut self, data: &[u8]) -> std::result::Result<(), &'static str> {
        self.name = Some(until_nul(data).to_vec());
        Ok(())
    }

    /// Pax records: "length key=value\n" each, where the length counts the whole record.
    fn pax(&mut self, mut data: &[u8], global: bool) -> std::result::Result<(), &'static str> {
        while !data.is_empty() {
            let space = data.iter().position(|&byte| byte == b' ').ok_or("a record without a length")?;
            let digits = std::str::from_utf8(&data[..space]).map_err(|_| "a length that is no number")?;
            let length: usize = digits.parse().map_err(|_| "a length that is no number")?;
            let record = data.get(space + 1..length).ok_or("a record that is longer than the header")?;
            let (key, value) = record
                .strip_suffix(b"\n")
                .and_then(|record| record.iter().position(|&byte| byte == b'=').map(|at| record.split_at(at)))
                .ok_or("a record that is not key=value")?;
            let value = &value[1..];
            match key {
                b"path" | b"size" if global => return Err("one name or size for all members"),
                b"path" => self.name = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or("a size that is no number")?);
                }
                _ if key.starts_with(b"GNU.sparse") => return Err("a sparse file, expected whole ones"),
                _ => {}
            }
            data = &data[length..];
        }
        Ok(())
    }
}
