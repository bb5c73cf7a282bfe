//! Writes an archive that appears whole: the same members give the same bytes.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::header::{Header, MAX_SIZE, check_name};
use super::{BLOCK, TarError};
use crate::error::{Error, Result};
use crate::index::{failed, sync_folder};

/// Bytes that are hashed and handed to the system at once.
const BUFFER: usize = 1 << 18;

/// An archive that is being written, under a name that begins with `.tmp-` until it is whole.
///
/// Dropped before [`Writer::finish`], it leaves nothing behind.
pub struct Writer {
    path: PathBuf,
    temporary: PathBuf,
    output: BufWriter<Hashed>,
    names: HashSet<String>,
}

impl Writer {
    /// Begins an archive that will be called `path`; a file of that name is replaced when it is finished.
    pub fn create(path: &Path) -> Result<Self> {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_file_name(format!(".tmp-{}-{since:08x}{number}", process::id()));
        let file = File::create_new(&temporary).map_err(failed(path))?;
        let output = BufWriter::with_capacity(BUFFER, Hashed { file, hasher: Sha256::new() });
        Ok(Self { path: path.into(), temporary, output, names: HashSet::new() })
    }

    /// Adds a file.
    pub fn append(&mut self, name: &str, data: &[u8]) -> Result<()> {
        let refused = |error| Error::Tar { path: self.path.clone(), error };
        let (name, size) = (check_name(name.as_bytes().to_vec()).map_err(refused)?, data.len() as u64);
        if name.ends_with('/') {
            return Err(refused(TarError::Name { member: name, reason: "is that of a folder" }));
        }
        if size > MAX_SIZE {
            return Err(refused(TarError::Large { member: name, size }));
        }
        if self.names.contains(&name) {
            return Err(refused(TarError::Repeated(name)));
        }
        write_member(&mut self.output, &name, data).map_err(failed(&self.path))?;
        self.names.insert(name);
        Ok(())
    }

    /// Ends the archive, makes it durable and gives it its name; returns its SHA-256 in hexadecimal.
    pub fn finish(mut self) -> Result<String> {
        let mut whole = || {
            self.output.write_all(&[0; 2 * BLOCK])?;
            self.output.flush()?;
            self.output.get_ref().file.sync_all()?;
            fs::rename(&self.temporary, &self.path)?;
            sync_folder(&self.path)
        };
        whole().map_err(failed(&self.path))?;
        let hash = self.output.get_ref().hasher.clone().finalize();
        Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary); // it is gone when the archive was finished
    }
}

fn write_member(output: &mut impl Write, name: &str, data: &[u8]) -> io::Result<()> {
    let header = match split(name.as_bytes()) {
        Some((prefix, name)) => Header::new(prefix, name, data.len() as u64, b'0'),
        None => {
            let record = pax_record(name);
            let extended = Header::new(b"", b"././@PaxHeader", record.len() as u64, b'x');
            write_padded(output, &extended, record.as_bytes())?;
            let end = name.floor_char_boundary(100);
            Header::new(b"", &name.as_bytes()[..end], data.len() as u64, b'0')
        }
    };
    write_padded(output, &header, data)
}

fn write_padded(output: &mut impl Write, header: &Header, data: &[u8]) -> io::Result<()> {
    output.write_all(&header.0)?;
    output.write_all(data)?;
    output.write_all(&[0; BLOCK][..data.len().next_multiple_of(BLOCK) - data.len()])
}

/// The name as prefix and name, at the first slash that leaves no more than 100 bytes; None if they do not fit.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    let slash = name.len() - 101 + name[name.len() - 101..].iter().position(|&byte| byte == b'/')?;
    (slash <= 155 && slash + 1 < name.len()).then(|| (&name[..slash], &name[slash + 1..]))
}

/// "length path=name\n", where the length counts its own digits.
fn pax_record(name: &str) -> String {
    let rest = " path=\n".len() + name.len();
    let digits = (1..).find(|&digits| (rest + digits).to_string().len() == digits).unwrap_or(1);
    format!("{} path={name}\n", rest + digits)
}

/// A file whose bytes are hashed on their way.
struct Hashed {
    file: File,
    hasher: Sha256,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
