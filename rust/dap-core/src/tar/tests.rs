//! Archives that are written and read again, and archives that lie.

use std::fs;
use std::io::{BufReader, Cursor};
use std::path::{Path, PathBuf};

use super::header::Header;
use super::*;
use crate::error::{Error, Result};

fn read_bytes(bytes: &[u8]) -> Result<Vec<Member>> {
    read(BufReader::new(Cursor::new(bytes)), bytes.len() as u64, Path::new("x.tar"), &mut || Ok(()))
}

fn refusal(bytes: &[u8]) -> TarError {
    match read_bytes(bytes) {
        Err(Error::Tar { error, .. }) => error,
        other => panic!("{other:?}"),
    }
}

/// A member by its header and data, both padded.
fn member(name: &[u8], kind: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = Header::new(b"", name, data.len() as u64, kind).0.to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 2 * BLOCK]].concat()
}

/// A record of pax, for less than 90 bytes of key and value.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let length = key.len() + value.len() + 5;
    [format!("{:02} ", length).as_bytes(), key, b"=", value, b"\n"].concat()
}

/// A header with one field changed and its checksum put right.
fn with(header: &mut [u8], at: usize, bytes: &[u8]) {
    header[at..at + bytes.len()].copy_from_slice(bytes);
    header[148..156].fill(b' ');
    let sum: u64 = header[..BLOCK].iter().map(|&byte| u64::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn temporary(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("dap-tar-{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn what_is_written_is_read_and_is_the_same_twice() {
    let folder = temporary("twice");
    let long = format!("{}/{}.png", "d".repeat(150), "n".repeat(90)); // fits as prefix and name
    let longer = format!("{}.png", "é".repeat(200)); // does not
    let members =
        [("a.cls", &b"3"[..]), ("a.png", &[7; 1000]), (&long, &[8; 512]), (&longer, b""), ("ü/b.c", &[1; 513])];
    let write = |path: &Path| {
        let mut writer = Writer::create(path).unwrap();
        members.iter().for_each(|(name, data)| writer.append(name, data).unwrap());
        assert!(!path.exists(), "it appeared before it was whole");
        writer.finish().unwrap()
    };
    let (first, second) = (folder.join("1.tar"), folder.join("2.tar"));
    let hash = write(&first);
    assert_eq!(hash, write(&second));
    let bytes = fs::read(&first).unwrap();
    assert_eq!(bytes, fs::read(&second).unwrap());
    assert_eq!(hash, crate::index::hash_blocks(&first, 1 << 40, Some(1), &mut || Ok(())).unwrap()[0]);
    let scanned = scan(&first, &mut || Ok(())).unwrap();
    assert_eq!(scanned.len(), members.len());
    for (member, (name, data)) in scanned.iter().zip(members) {
        assert_eq!(member.name, name);
        assert_eq!(&bytes[member.offset as usize..][..member.size as usize], data);
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "something was left behind");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_archive_that_is_not_finished_leaves_nothing() {
    let folder = temporary("dropped");
    let mut writer = Writer::create(&folder.join("x.tar")).unwrap();
    writer.append("a.png", &[1; 1 << 20]).unwrap();
    for name in ["a.png", "../a", "/a", "a/", "", "a/../../b", "C:\\a"] {
        assert!(matches!(writer.append(name, b""), Err(Error::Tar { .. })), "{name:?} was taken");
    }
    drop(writer);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    fs::remove_dir(folder).unwrap();
}

#[test]
fn every_truncation_is_refused() {
    let complete = archive(&[member(b"a.png", b'0', &[1; 700]), member(b"a.cls", b'0', b"1")]);
    assert_eq!(read_bytes(&complete).unwrap().len(), 2);
    let end = complete.len() - 2 * BLOCK;
    for length in 0..end + BLOCK {
        read_bytes(&complete[..length]).expect_err("a truncated archive was taken");
    }
    // one block of the mark is enough, as it is for GNU tar
    assert_eq!(read_bytes(&complete[..end + BLOCK]).unwrap().len(), 2);
    let mut trailing = complete.clone();
    trailing.extend(member(b"lost.png", b'0', b""));
    assert_eq!(refusal(&trailing), TarError::Trailing((end + BLOCK) as u64));
}

#[test]
fn links_devices_and_names_that_lead_out_are_refused() {
    for kind in [b'1', b'2', b'3', b'4', b'6', b'S', b'V', b'K'] {
        assert!(matches!(refusal(&archive(&[member(b"a", kind, b"")])), TarError::Kind { .. }), "{kind}");
    }
    for name in [&b"../a"[..], b"/a", b"a/../../b", b"\\a", b"..\\a", b"C:\\a", b"", b"\xff.png"] {
        assert!(matches!(refusal(&archive(&[member(name, b'0', b"")])), TarError::Name { .. }), "{name:?}");
        let pax = archive(&[member(b"h", b'x', &record(b"path", name)), member(b"a", b'0', b"")]);
        assert!(matches!(refusal(&pax), TarError::Name { .. }), "{name:?} in pax");
    }
    let twice = archive(&[member(b"a", b'0', b""), member(b"b", b'0', b""), member(b"a", b'0', b"")]);
    assert_eq!(refusal(&twice), TarError::Repeated("a".into()));
    let folders = archive(&[member(b"a/", b'5', b""), member(b"a/", b'0', b""), member(b"a/b", 0, b"1")]);
    assert_eq!(read_bytes(&folders).unwrap().len(), 1);
}

#[test]
fn sizes_that_lie_are_refused() {
    let complete = archive(&[member(b"a.png", b'0', &[1; 700])]);
    let sizes: [(&[u8], bool); 5] = [
        (b"77777777777\0", true),
        (b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", true),
        (b"\x80\xff\0\0\0\0\0\0\0\0\0\0", false),
        (b"+0000000001\0", false),
        (b"00000x00000\0", false),
    ];
    for (size, is_number) in sizes {
        let mut bytes = complete.clone();
        with(&mut bytes[..BLOCK], 124, size);
        match refusal(&bytes) {
            TarError::Truncated { .. } => assert!(is_number, "{size:?}"),
            TarError::Number { .. } => assert!(!is_number, "{size:?}"),
            other => panic!("{size:?}: {other:?}"),
        }
    }
    let large = archive(&[member(b"h", b'x', &record(b"size", b"9999999999999999999")), member(b"a", b'0', b"")]);
    assert!(matches!(refusal(&large), TarError::Truncated { .. }));
    let mut checksum = complete;
    checksum[0] ^= 1;
    assert_eq!(refusal(&checksum), TarError::Checksum(0));
}

#[test]
fn extended_headers_name_the_next_member_alone() {
    let gnu = archive(&[
        member(b"././@LongLink", b'L', b"long.png\0"),
        member(b"short", b'0', b"1"),
        member(b"b", b'0', b""),
    ]);
    let names = |bytes: &[u8]| read_bytes(bytes).unwrap().into_iter().map(|member| member.name).collect::<Vec<_>>();
    assert_eq!(names(&gnu), ["long.png", "b"]);
    let mut pax = vec![
        member(b"g", b'g', &record(b"comment", b"x")),
        member(b"h", b'x', &[record(b"path", b"long.png"), record(b"mtime", b"1.25")].concat()),
    ];
    pax.push(member(b"short", b'0', b"1"));
    assert_eq!(names(&archive(&pax)), ["long.png"]);
    for record in
        [&b"x path=a\n"[..], b"9 path=a", b"99 path=a\n", b"3 a\n", b"0 path=a\n", b" \n", b"22 GNU.sparse.major=1\n"]
    {
        let bytes = archive(&[member(b"h", b'x', record), member(b"a", b'0', b"")]);
        assert!(matches!(refusal(&bytes), TarError::Extended { .. }), "{:?}", String::from_utf8_lossy(record));
    }
    let global = archive(&[member(b"h", b'g', &record(b"path", b"a")), member(b"a", b'0', b"")]);
    assert!(matches!(refusal(&global), TarError::Extended { .. }));
}
