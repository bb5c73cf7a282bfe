//! Writes a safetensors file whose shapes are known in advance, some rows at a time, in any order.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::f16;

use super::layout::{Dtype, Layout};
use crate::Matrix;
use crate::error::{Error, LayoutError, Result};
use crate::files::{io_error, sync_folder};
use crate::matrix::Values;

/// The data begins at a multiple of this many bytes, so that a memory map of it is aligned for every SIMD level.
const ALIGNMENT: usize = 64;

/// Values that are converted to bytes at once.
const PIECE: usize = 1 << 16;

/// Returns the name of the file until it is complete: `<path>.partial`.
fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Creates `<path>.partial` at its final size, with these tensors (name, dtype, shape), all zero; replaces an old file.
pub fn create_tensors(path: &Path, tensors: &[(String, Dtype, Vec<u64>)]) -> Result<()> {
    let refused = |error| Error::Layout { path: path.into(), error };
    let (mut entries, mut end) = (Vec::with_capacity(tensors.len()), 0_u64);
    for (number, (name, dtype, shape)) in tensors.iter().enumerate() {
        if tensors[..number].iter().any(|(other, ..)| other == name) {
            return Err(refused(LayoutError::Repeated(name.clone())));
        }
        let begin = end;
        end = dtype
            .bytes(shape)
            .and_then(|bytes| begin.checked_add(bytes))
            .ok_or_else(|| refused(LayoutError::Shape { name: name.clone(), shape: shape.clone() }))?;
        entries.push((name, dtype.name(), shape, begin, end));
    }
    let entries = entries.iter().map(|(name, dtype, shape, begin, end)| {
        // `Value` escapes the name as JSON requires.
        let name = serde_json::Value::from(name.as_str());
        format!(r#"{name}:{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#)
    });
    let mut header = format!("{{{}}}", entries.collect::<Vec<_>>().join(",")).into_bytes();
    header.resize((8 + header.len()).next_multiple_of(ALIGNMENT) - 8, b' ');
    let length = header.len() as u64;
    let bytes = end.checked_add(8 + length).ok_or(refused(LayoutError::HeaderLength(length)))?;
    let path = partial(path);
    let write = || {
        let mut file = File::create(&path)?;
        file.write_all(&length.to_le_bytes())?;
        file.write_all(&header)?;
        file.set_len(bytes)?;
        file.sync_all()?;
        sync_folder(&path)
    };
    write().map_err(io_error(&path))
}

/// Writes rows from `row` on into tensors of `<path>.partial`, and syncs the file.
///
/// A matrix has one row for each row of its tensor, flattened, and the tensor's dtype.
pub fn write_rows(path: &Path, row: u64, tensors: &[(String, Matrix)]) -> Result<()> {
    let path = partial(path);
    let mut file = OpenOptions::new().read(true).write(true).open(&path).map_err(io_error(&path))?;
    let bytes = file.metadata().map_err(io_error(&path))?.len();
    let layout = Layout::read(&mut file, bytes, &path)?;
    for (name, matrix) in tensors {
        let refused = || Error::Rows { path: path.clone(), tensor: name.clone() };
        let tensor = layout.tensors.iter().find(|tensor| tensor.name == *name).ok_or_else(refused)?;
        let (rows, row_shape) = tensor.shape.split_first().ok_or_else(refused)?;
        let fits = row.checked_add(matrix.rows() as u64).is_some_and(|end| end <= *rows);
        let row_bytes = tensor.dtype.bytes(row_shape).ok_or_else(refused)?;
        if !fits || tensor.dtype.bytes(&[matrix.columns() as u64]) != Some(row_bytes) {
            return Err(refused());
        }
        let begin = tensor.offset + row_bytes * row; // no overflow: at most the end of the tensor
        file.seek(SeekFrom::Start(begin)).map_err(io_error(&path))?;
        match (matrix.values(), tensor.dtype) {
            (Values::Float16(values), Dtype::Float16) => write_values(&mut file, values, f16::to_le_bytes),
            (Values::Float32(values), Dtype::Float32) => write_values(&mut file, values, |value| value.to_le_bytes()),
            _ => return Err(refused()),
        }
        .map_err(io_error(&path))?;
    }
    file.sync_data().map_err(io_error(&path))
}

/// Syncs `<path>.partial` and renames it to `path`.
pub fn finish_tensors(path: &Path) -> Result<()> {
    let finish = || {
        OpenOptions::new().write(true).open(partial(path))?.sync_all()?;
        fs::rename(partial(path), path)?;
        sync_folder(path)
    };
    finish().map_err(io_error(path))
}

fn write_values<T: Copy, const N: usize>(
    file: &mut File,
    values: &[T],
    to_bytes: impl Fn(T) -> [u8; N],
) -> io::Result<()> {
    let mut buffer = vec![[0; N]; values.len().min(PIECE)];
    for piece in values.chunks(PIECE) {
        let bytes = &mut buffer[..piece.len()];
        bytes.iter_mut().zip(piece).for_each(|(bytes, &value)| *bytes = to_bytes(value));
        file.write_all(bytes.as_flattened())?;
    }
    Ok(())
}
