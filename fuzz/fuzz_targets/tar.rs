//! Tar archives: whatever the bytes are, the reader neither panics nor believes a lie.

#![no_main]

use std::collections::HashSet;
use std::io::{BufReader, Cursor};
use std::path::Path;

use dap_core::tar;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // Nearly no change keeps a checksum: it is put right wherever a header may stand.
    let mut archive = input.to_vec();
    for header in archive.chunks_exact_mut(512).filter(|block| block.get(257..262) == Some(b"ustar")) {
        header[148..156].fill(b' ');
        let sum: u64 = header.iter().map(|&byte| u64::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let bytes = archive.len() as u64;
    let reader = BufReader::with_capacity(1 << 10, Cursor::new(&archive));
    let Ok(members) = tar::read(reader, bytes, Path::new("fuzzed"), &mut || Ok(())) else { return };
    let (mut names, mut end) = (HashSet::new(), 0);
    for member in &members {
        assert!(names.insert(&member.name), "{member:?} is there twice");
        assert!(member.offset >= end + 512 && member.offset % 512 == 0, "{member:?} overlaps its header");
        end = member.offset.checked_add(member.size).expect("an end that 64 bits do not count");
        assert!(end <= bytes, "{member:?} is outside the archive");
        let mut parts = member.name.split(['/', '\\']);
        assert!(parts.clone().next() != Some("") && parts.all(|part| part != ".."), "{member:?} leads elsewhere");
    }
});
