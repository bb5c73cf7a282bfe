//! Reads the headers of safetensors files and checks every field.
//!
//! A file consists of the header's length (u64, little-endian), the header (JSON) and the data. Here the tensors must be
//! float16 or float32, and fill the data without gap or overlap.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::error::{Error, LayoutError, MAX_HEADER, Result};
use crate::files::io_error;

/// The type of a tensor's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Dtype {
    Float16,
    Float32,
}

impl Dtype {
    /// Returns the dtype with this name in safetensors: "F16" or "F32".
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "F16" => Some(Self::Float16),
            "F32" => Some(Self::Float32),
            _ => None,
        }
    }

    /// Returns its name in safetensors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float16 => "F16",
            Self::Float32 => "F32",
        }
    }

    /// Returns the number of bytes of `shape` values; None if it exceeds 64 bits.
    pub(super) fn bytes(self, shape: &[u64]) -> Option<u64> {
        let item = match self {
            Self::Float16 => 2,
            Self::Float32 => 4,
        };
        shape.iter().try_fold(item, |bytes: u64, &size| bytes.checked_mul(size))
    }
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// The type of its values.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Where it begins, in bytes from the start of the file.
    pub offset: u64,
    /// Bytes of its values.
    pub bytes: u64,
}

/// The tensors of a file, by their place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The tensors: each begins where the one before it ends, and the last ends with the file.
    pub tensors: Vec<Tensor>,
}

impl Layout {
    /// Reads the header of the file at `path`, which may be wholly hostile.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(io_error(path))?;
        let bytes = file.metadata().map_err(io_error(path))?.len();
        Self::read(&mut file, bytes, path)
    }

    /// Reads the header of a file of `bytes` bytes from its start; `path` is for the message.
    pub fn read(reader: &mut impl Read, bytes: u64, path: &Path) -> Result<Self> {
        let refused = |error| Error::Layout { path: path.into(), error };
        if bytes < 8 {
            return Err(refused(LayoutError::Truncated { end: 8, bytes }));
        }
        let mut length = [0; 8];
        reader.read_exact(&mut length).map_err(io_error(path))?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER {
            return Err(refused(LayoutError::HeaderLength(length)));
        }
        let data = 8 + length;
        if data > bytes {
            return Err(refused(LayoutError::Truncated { end: data, bytes }));
        }
        let mut header = Vec::new(); // grows with the bytes that exist, not with those that are claimed
        reader.take(length).read_to_end(&mut header).map_err(io_error(path))?;
        if header.len() as u64 != length {
            return Err(refused(LayoutError::Truncated { end: data, bytes: 8 + header.len() as u64 }));
        }
        Self::parse(&header, data, bytes).map_err(refused)
    }

    /// Parses a header; the data goes from byte `data` to byte `bytes` of the file.
    fn parse(header: &[u8], data: u64, bytes: u64) -> std::result::Result<Self, LayoutError> {
        let Entries(mut entries) =
            serde_json::from_slice(header).map_err(|error| LayoutError::Json(error.to_string()))?;
        let mut names: Vec<_> = entries.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(LayoutError::Repeated(pair[0].clone()));
        }
        entries.sort_by_key(|(_, entry)| entry.data_offsets);
        let mut tensors = Vec::with_capacity(entries.len());
        let mut end = data;
        for (name, Entry { dtype, shape, data_offsets: (begin, stop) }) in entries {
            let Some(dtype) = Dtype::from_name(&dtype) else {
                return Err(LayoutError::Dtype { name, dtype });
            };
            let Some(size) = dtype.bytes(&shape) else {
                return Err(LayoutError::Shape { name, shape });
            };
            if stop.checked_sub(begin) != Some(size) {
                return Err(LayoutError::Size { name, expected: size, begin, end: stop });
            }
            if begin != end - data {
                return Err(LayoutError::Offset { name, begin, expected: end - data });
            }
            tensors.push(Tensor { name, dtype, shape, offset: end, bytes: size });
            end = end.checked_add(size).filter(|&end| end <= bytes).ok_or(LayoutError::End { end: stop, bytes })?;
        }
        if end != bytes {
            return Err(LayoutError::End { end, bytes });
        }
        Ok(Self { tensors })
    }
}

/// One tensor in the header.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header's entries in order, including repeated names but not `__metadata__`.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Header;

        impl<'de> Visitor<'de> for Header {
            type Value = Entries;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Header)
    }
}
