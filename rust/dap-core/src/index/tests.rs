//! Files that are written and read again, and headers that lie.

use std::fs;
use std::path::{Path, PathBuf};

use half::f16;

use super::*;
use crate::error::{Error, Result};
use crate::matrix::{Matrix, Values};

/// A folder of its own, removed when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dap-index-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A file with this header, and data that ends at the last offset of a header that is true.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn read(bytes: &[u8]) -> Result<Layout> {
    Layout::read(&mut &bytes[..], bytes.len() as u64, Path::new("x"))
}

fn refusal(bytes: &[u8]) -> LayoutError {
    match read(bytes) {
        Err(Error::Layout { error, path }) if path == Path::new("x") => error,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn never() -> std::result::Result<(), crate::Interrupted> {
    Ok(())
}

#[test]
fn rows_are_written_in_any_order_and_read_where_the_layout_says() {
    let folder = Folder::new("rows");
    let path = folder.0.join("a.safetensors");
    let shapes = [("t0980".into(), Dtype::Float16, vec![5, 3]), ("\"é".into(), Dtype::Float32, vec![5, 1, 2])];
    create_tensors(&path, &shapes).unwrap();
    let half: Vec<f16> = (0..15).map(|value| f16::from_f32(value as f32 / 8.0)).collect();
    let single: Vec<f32> = (0..10).map(|value| value as f32 * 1e20).collect();
    for (first, last) in [(3, 5), (0, 3)] {
        let half = Matrix::new(Values::Float16(&half[3 * first..3 * last]), last - first, 3).unwrap();
        let single = Matrix::new(Values::Float32(&single[2 * first..2 * last]), last - first, 2).unwrap();
        write_rows(&path, first as u64, &[("\"é".into(), single), ("t0980".into(), half)]).unwrap();
    }
    assert!(!path.exists());
    finish_tensors(&path).unwrap();
    let (bytes, layout) = (fs::read(&path).unwrap(), Layout::open(&path).unwrap());
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
    let [first, second] = &layout.tensors[..] else { panic!("{layout:?}") };
    assert_eq!((first.name.as_str(), first.dtype, &first.shape[..]), ("t0980", Dtype::Float16, &[5, 3][..]));
    assert_eq!((second.name.as_str(), second.dtype, &second.shape[..]), ("\"é", Dtype::Float32, &[5, 1, 2][..]));
    assert_eq!((first.offset % 64, second.offset), (0, first.offset + 30));
    let (start, middle) = (first.offset as usize, second.offset as usize);
    assert_eq!(bytes[start..middle], half.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
    assert_eq!(bytes[middle..], single.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let folder = Folder::new("fit");
    let path = folder.0.join("a");
    create_tensors(&path, &[("t".into(), Dtype::Float32, vec![5, 3])]).unwrap();
    let values = [0.0_f32; 12];
    let matrix = |rows, columns| Matrix::new(Values::Float32(&values[..rows * columns]), rows, columns).unwrap();
    let write = |row, name: &str, matrix| write_rows(&path, row, &[(name.into(), matrix)]);
    write(3, "t", matrix(2, 3)).unwrap();
    write(5, "t", matrix(0, 3)).unwrap();
    let half = [f16::ZERO; 3];
    for refused in [
        write(4, "t", matrix(2, 3)),
        write(u64::MAX, "t", matrix(2, 3)),
        write(0, "t", matrix(3, 4)),
        write(0, "u", matrix(1, 3)),
        write(0, "t", Matrix::new(Values::Float16(&half), 1, 3).unwrap()),
    ] {
        assert!(matches!(refused, Err(Error::Rows { .. })), "{refused:?}");
    }
    let huge = create_tensors(&path, &[("t".into(), Dtype::Float32, vec![1 << 40, 1 << 40])]);
    assert!(matches!(huge, Err(Error::Layout { error: LayoutError::Shape { .. }, .. })));
    let twice = [("t".into(), Dtype::Float32, vec![1]), ("t".into(), Dtype::Float32, vec![1])];
    assert!(matches!(create_tensors(&path, &twice), Err(Error::Layout { error: LayoutError::Repeated(_), .. })));
}

#[test]
fn a_header_that_lies_is_refused() {
    let tensor = |shape: &str, offsets: &str| format!(r#"{{"dtype":"F16","shape":{shape},"data_offsets":{offsets}}}"#);
    let single = |shape, offsets| format!(r#"{{"t":{}}}"#, tensor(shape, offsets));
    let double = |first, second| format!(r#"{{"t":{},"u":{}}}"#, tensor("[2,2]", first), tensor("[2,2]", second));
    assert_eq!(read(&file(&single("[2,2]", "[0,8]"), 8)).unwrap().tensors[0].bytes, 8);
    assert_eq!(read(&file(&double("[8,16]", "[0,8]"), 16)).unwrap().tensors[0].name, "u");
    assert!(read(&file(r#"{"__metadata__":{"format":"pt"}}  "#, 0)).unwrap().tensors.is_empty());
    for (header, data, expected) in [
        (single("[1000000000000000000,1152]", "[0,8]"), 8, "Shape"),
        (single("[1000000000000000000]", "[0,2000000000000000000]"), 8, "End"),
        (single("[2,2]", "[0,8]"), 7, "End"),
        (single("[2,2]", "[0,8]"), 9, "End"),
        (single("[2,2]", "[0,9]"), 9, "Size"),
        (single("[2,2]", "[8,0]"), 8, "Size"),
        (single("[2,2]", "[18446744073709551608,18446744073709551615]"), 8, "Size"),
        (single("[2,2]", "[1,9]"), 9, "Offset"),
        (double("[0,8]", "[0,8]"), 8, "Offset"),
        (double("[0,8]", "[4,12]"), 12, "Offset"),
        (double("[0,8]", "[10,18]"), 18, "Offset"),
        (single("[-1]", "[0,8]"), 8, "Json"),
        (single("[4.0]", "[0,8]"), 8, "Json"),
        (single("[1e99]", "[0,8]"), 8, "Json"),
        (single("[99999999999999999999]", "[0,8]"), 8, "Json"),
        (single("[4]", "[0,8,9]"), 8, "Json"),
        ("[".repeat(100_000), 0, "Json"),
        (r#"{"t":"#.repeat(100_000), 0, "Json"),
        (format!(r#"{{"__metadata__":{}}}"#, "[".repeat(100_000)), 0, "Json"),
        ("{}{}".into(), 0, "Json"),
        (String::new(), 0, "Json"),
        (format!(r#"{{"t":{0},"t":{0}}}"#, tensor("[4]", "[0,8]")), 8, "Repeated"),
        (single("[4]", "[0,8]").replace("F16", "I16"), 8, "Dtype"),
        (single("[4]", "[0,8]").replace("dtype", "type"), 8, "Json"),
    ] {
        let refused = format!("{:?}", refusal(&file(&header, data)));
        assert!(refused.starts_with(expected), "{refused} of {}", &header[..header.len().min(90)]);
    }
    assert_eq!(refusal(b"1234567"), LayoutError::Truncated { end: 8, bytes: 7 });
    assert_eq!(refusal(&[9, 0, 0, 0, 0, 0, 0, 0, b'{', b'}']), LayoutError::Truncated { end: 17, bytes: 10 });
    assert_eq!(refusal(&[0xff; 16]), LayoutError::HeaderLength(u64::MAX));
}

#[test]
fn every_prefix_of_a_file_is_refused() {
    let complete = file(r#"{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8);
    assert!(read(&complete).is_ok());
    for length in 0..complete.len() {
        refusal(&complete[..length]);
    }
}

#[test]
fn blocks_are_hashed_and_the_first_bad_one_is_named() {
    let folder = Folder::new("blocks");
    let path = folder.0.join("a");
    fs::write(&path, b"abcabca").unwrap();
    let hashes = hash_blocks(&path, 3, Some(2), &mut never).unwrap();
    // FIPS 180-2, appendix B.1
    assert_eq!(hashes[0], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!((hashes.len(), &hashes[1]), (3, &hashes[0]));
    assert_eq!(hash_blocks(&path, 3, Some(1), &mut never).unwrap(), hashes);
    let verify = |hashes: &[String]| verify_blocks(&path, 3, hashes, Some(2), &mut never);
    let bad = |block| Err(Error::Block { path: path.clone(), block, block_bytes: 3 });
    assert_eq!(verify(&hashes), Ok(()));
    assert_eq!(verify(&hashes[..2]), bad(2));
    assert_eq!(verify(&[&hashes[..], &hashes[..1]].concat()), bad(3));
    fs::write(&path, b"abcabda").unwrap();
    assert_eq!(verify(&hashes), bad(1));
    assert_eq!(hash_blocks(&path, 0, None, &mut never), Err(Error::BlockBytes));
    fs::write(&path, b"").unwrap();
    assert_eq!(hash_blocks(&path, 3, None, &mut never), Ok(vec![]));
    assert!(matches!(hash_blocks(&folder.0.join("b"), 3, None, &mut never), Err(Error::Io { code: Some(2), .. })));
}
