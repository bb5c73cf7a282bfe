//! Writes an archive that appears whole: the same members give the same bytes.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::mem;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::header::{Header, MAX_SIZE, check_name};
use super::{BLOCK, TarError};
use crate::error::{Error, Result};
use crate::files::{io_error, sync_folder};

/// Bytes that are hashed and written at once.
const BUFFER: usize = 1 << 18;

/// The most buffers that wait to be hashed: 64 MB, enough for hashing never to delay the writing of a usual shard.
const BEHIND: usize = 256;

/// An archive that is being written, under a name that begins with `.tmp-` until it is complete.
///
/// If it is dropped before [`Writer::finish`], the file is removed.
pub struct Writer {
    path: PathBuf,
    temporary: PathBuf,
    output: Hashed,
    names: HashSet<String>,
}

impl Writer {
    /// Begins an archive that gets the name `path` when it is finished; a file of that name is replaced then.
    pub fn create(path: &Path) -> Result<Self> {
        static CREATED: AtomicU32 = AtomicU32::new(0);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_file_name(format!(".tmp-{}-{since:08x}{number}", process::id()));
        let file = File::create_new(&temporary).map_err(io_error(path))?;
        let output = Hashed::new(file).map_err(io_error(path))?;
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
        write_member(&mut self.output, &name, data).map_err(io_error(&self.path))?;
        self.names.insert(name);
        Ok(())
    }

    /// Ends the archive, syncs it and gives it its name; returns its SHA-256 in hexadecimal.
    pub fn finish(mut self) -> Result<String> {
        let mut finish = || {
            self.output.write_all(&[0; 2 * BLOCK])?;
            self.output.flush()?;
            self.output.file.sync_all()?;
            let hash = self.output.hash()?;
            fs::rename(&self.temporary, &self.path)?;
            sync_folder(&self.path)?;
            Ok(hash)
        };
        let hash = finish().map_err(io_error(&self.path))?;
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.temporary); // does not exist after `finish`
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

/// Splits the name into prefix and name at the first slash that leaves at most 100 bytes; None if they do not fit.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    let slash = name.len() - 101 + name[name.len() - 101..].iter().position(|&byte| byte == b'/')?;
    (slash <= 155 && slash + 1 < name.len()).then(|| (&name[..slash], &name[slash + 1..]))
}

/// Returns "length path=name\n", where the length counts its own digits too.
fn pax_record(name: &str) -> String {
    let rest = " path=\n".len() + name.len();
    let digits = (1..).find(|&digits| (rest + digits).to_string().len() == digits).unwrap_or(1);
    format!("{} path={name}\n", rest + digits)
}

/// A file whose bytes are hashed on another thread, because hashing takes as long as writing.
struct Hashed {
    file: File,
    buffer: Vec<u8>,
    filled: Option<SyncSender<Vec<u8>>>,
    emptied: Receiver<Vec<u8>>,
    hasher: Option<JoinHandle<Sha256>>,
}

impl Hashed {
    fn new(file: File) -> io::Result<Self> {
        let (filled, incoming) = sync_channel::<Vec<u8>>(BEHIND);
        let (outgoing, emptied) = channel();
        let hasher = Builder::new().name("dap-hash".into()).spawn(move || {
            let mut hasher = Sha256::new();
            for mut buffer in incoming {
                hasher.update(&buffer);
                buffer.clear();
                let _ = outgoing.send(buffer); // fails only if the writer is gone
            }
            hasher
        })?;
        let buffer = Vec::with_capacity(BUFFER);
        Ok(Self { file, buffer, filled: Some(filled), emptied, hasher: Some(hasher) })
    }

    /// Returns the hash of all flushed bytes; nothing can be written afterwards.
    fn hash(&mut self) -> io::Result<Sha256> {
        self.filled = None; // ends the thread
        let hash = self.hasher.take().and_then(|hasher| hasher.join().ok());
        hash.ok_or_else(|| io::Error::other("the thread that hashes has ended"))
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(BUFFER - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == BUFFER {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        let next = self.emptied.try_recv().unwrap_or_else(|_| Vec::with_capacity(BUFFER));
        let full = mem::replace(&mut self.buffer, next);
        let sent = self.filled.as_ref().and_then(|filled| filled.send(full).ok());
        sent.ok_or_else(|| io::Error::other("the thread that hashes has ended"))
    }
}
