//! Headers of safetensors files: whatever the bytes are, the reader neither panics nor believes a lie.
//!
//! An input is the length that the file is said to have (u64, little-endian), then the file.

#![no_main]

use std::collections::HashSet;
use std::path::Path;

use dap_core::index::{Dtype, Layout};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((claimed, mut file)) = input.split_first_chunk::<8>() else { return };
    let claimed = u64::from_le_bytes(*claimed);
    let header = file.first_chunk::<8>().map(|length| u64::from_le_bytes(*length));
    let Ok(layout) = Layout::read(&mut file, claimed, Path::new("fuzzed")) else { return };

    // Everything that a view relies on, worked out anew in 128 bits.
    let data = u128::from(header.expect("a layout needs a header")) + 8;
    let mut names = HashSet::new();
    let mut ranges = Vec::new();
    for tensor in &layout.tensors {
        let item = match tensor.dtype {
            Dtype::Float16 => 2,
            Dtype::Float32 => 4,
        };
        let bytes = tensor.shape.iter().fold(item, |bytes: u128, &size| bytes.saturating_mul(u128::from(size)));
        let begin = u128::from(tensor.offset);
        assert_eq!(bytes, u128::from(tensor.bytes), "{tensor:?}");
        assert!(begin >= data && begin + bytes <= u128::from(claimed), "{tensor:?} is outside the data");
        assert!(names.insert(&tensor.name), "{tensor:?} is there twice");
        ranges.push((begin, begin + bytes));
    }
    let total: u128 = ranges.iter().map(|(begin, end)| end - begin).sum();
    assert_eq!(data + total, u128::from(claimed), "a gap or an overlap");
    for (number, one) in ranges.iter().enumerate() {
        for other in &ranges[..number] {
            let empty = one.0 == one.1 || other.0 == other.1;
            assert!(empty || one.1 <= other.0 || other.1 <= one.0, "{one:?} and {other:?} overlap");
        }
    }
});
