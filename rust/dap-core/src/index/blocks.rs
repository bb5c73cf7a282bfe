//! SHA-256 of the blocks of a file, in parallel.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::Check;
use crate::error::{Error, Result};
use crate::files::io_error;
use crate::tasks;

/// Bytes that are read at once.
const PIECE: usize = 1 << 17;

type Hash = [u8; 32];

/// Returns the SHA-256 of each block of `block_bytes` bytes of a file, in hexadecimal; the last block may be shorter.
pub fn hash_blocks(path: &Path, block_bytes: u64, threads: Option<usize>, check: Check) -> Result<Vec<String>> {
    let mut hashes = Vec::new();
    let hex = |hash: Hash| hash.iter().map(|byte| format!("{byte:02x}")).collect();
    each_block(path, block_bytes, threads, check, |_, hash| hashes.push(hex(hash)))?;
    Ok(hashes)
}

/// Compares a file with the result of [`hash_blocks`]; the error has the number of the first block that differs.
pub fn verify_blocks(
    path: &Path,
    block_bytes: u64,
    hashes: &[String],
    threads: Option<usize>,
    check: Check,
) -> Result<()> {
    let (mut blocks, mut first_bad) = (0, None);
    each_block(path, block_bytes, threads, check, |block, hash| {
        blocks = block + 1;
        let same = hashes.get(block).is_some_and(|text| is_hex_of(text, &hash));
        if !same && first_bad.is_none() {
            first_bad = Some(block);
        }
    })?;
    match first_bad.or((blocks < hashes.len()).then_some(blocks)) {
        Some(block) => Err(Error::Block { path: path.into(), block, block_bytes }),
        None => Ok(()),
    }
}

fn is_hex_of(text: &str, hash: &Hash) -> bool {
    let digit = |value: u8| char::from_digit(u32::from(value), 16);
    text.chars().map(Some).eq(hash.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]))
}

fn each_block(
    path: &Path,
    block_bytes: u64,
    threads: Option<usize>,
    check: Check,
    fold: impl FnMut(usize, Hash),
) -> Result<()> {
    let bytes = File::open(path).and_then(|file| file.metadata()).map_err(io_error(path))?.len();
    let blocks = bytes.checked_div(block_bytes).map(|whole| whole + u64::from(!bytes.is_multiple_of(block_bytes)));
    let blocks = blocks.and_then(|blocks| usize::try_from(blocks).ok()).ok_or(Error::BlockBytes)?;
    let hash = |block| hash_block(path, block as u64 * block_bytes, block_bytes).map_err(io_error(path));
    tasks::try_run(blocks, threads, check, hash, fold)
}

/// Hashes one block. It opens the file itself, because threads must not share a position in it.
fn hash_block(path: &Path, begin: u64, block_bytes: u64) -> io::Result<Hash> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(begin))?;
    let (mut block, mut hasher, mut piece) = (file.take(block_bytes), Sha256::new(), vec![0; PIECE]);
    loop {
        match block.read(&mut piece)? {
            0 => return Ok(hasher.finalize().into()),
            read => hasher.update(&piece[..read]),
        }
    }
}
