//! For all files that are written or read here: errors that name the file, and durable names.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::error::Error;

/// Returns a function that turns an I/O error into one that names the file at `path`.
pub(crate) fn io_error(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    |error| Error::Io { path: path.into(), code: error.raw_os_error(), message: error.to_string() }
}

/// Makes the name of a new file durable by syncing its folder; does nothing on systems that cannot open folders.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        File::open(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })?.sync_all()?;
    }
    Ok(())
}
