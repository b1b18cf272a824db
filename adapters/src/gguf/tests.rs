use super::*;
use crate::artefact;
use crate::error::Result;
use std::path::{Path, PathBuf};

/// A file of one entry and one tensor, byte by byte as the format says.
fn golden() -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend([3, 0, 0, 0]); // version
    bytes.extend([1, 0, 0, 0, 0, 0, 0, 0]); // tensors
    bytes.extend([2, 0, 0, 0, 0, 0, 0, 0]); // entries
    bytes.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(b"a");
    bytes.extend([4, 0, 0, 0]); // u32
    bytes.extend([7, 0, 0, 0]);
    bytes.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(b"b");
    bytes.extend([9, 0, 0, 0]); // array
    bytes.extend([8, 0, 0, 0]); // of texts
    bytes.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([2, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(b"hi");
    bytes.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(b"t");
    bytes.extend([2, 0, 0, 0]); // dims, columns first
    bytes.extend([3, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([2, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([0, 0, 0, 0]); // f32
    bytes.extend([0, 0, 0, 0, 0, 0, 0, 0]); // offset
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    for x in [1f32, 2., 3., 4., 5., 6.] {
        bytes.extend(x.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes
}

fn written(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let room = tempfile::tempdir().expect("room");
    let path = room.path().join("x.gguf");
    std::fs::write(&path, bytes).expect("written");
    (room, path)
}

fn refusal(bytes: &[u8]) -> String {
    let (_room, path) = written(bytes);
    let message = Gguf::open(&path).expect_err("refused").to_string();
    assert!(message.contains("x.gguf"), "{message}");
    message
}

fn small(path: &Path) -> Result<()> {
    let mut file = GgufWriter::default();
    file.value("a", Value::U32(7));
    file.value("b", Value::Array(vec![Value::String("hi".into())]));
    file.floats("t", &[2, 3], &[1., 2., 3., 4., 5., 6.]);
    file.write(path)
}

#[test]
fn the_bytes_are_those_of_the_format() -> Result<()> {
    let (_room, path) = written(b"");
    small(&path)?;
    assert_eq!(artefact::read(&path)?, golden());
    let file = Gguf::open(&path)?;
    assert_eq!(file.value("a").and_then(|v| v.to_u32().ok()), Some(7));
    assert_eq!(file.tensor("t").map(|t| t.shape.clone()), Some(vec![2, 3]));
    assert_eq!(file.floats("t")?, [1., 2., 3., 4., 5., 6.]);
    let message = file.bytes("u").expect_err("missing").to_string();
    assert!(message.contains("`u`"), "{message}");
    Ok(())
}

#[test]
fn lies_are_found_before_anything_is_allocated() {
    let golden = golden();
    let with = |at: usize, bytes: &[u8]| {
        let mut lie = golden.clone();
        lie[at..at + bytes.len()].copy_from_slice(bytes);
        refusal(&lie)
    };
    let huge = (1u64 << 60).to_le_bytes();
    let find = |what: &[u8]| {
        let found = golden.windows(what.len()).position(|w| w == what);
        found.expect("there")
    };
    let tensor = find(b"t\x02\0\0\0");
    for (lie, field) in [
        (with(0, b"GGML"), "magic"),
        (with(4, &[1, 0, 0, 0]), "version"),
        (with(4, &[0, 0, 0, 3]), "version"),
        (with(8, &huge), "number of tensors"),
        (with(16, &huge), "number of metadata entries"),
        (with(24, &huge), "key 0"),
        (with(find(b"b\x09") + 9, &huge), "`b`"),
        (with(find(b"b\x09") + 17, &huge), "`b`"),
        (with(find(b"b\x09") + 1, &[99]), "type 99"),
        (with(find(b"b\x09") + 5, &[77]), "type 77"),
        (with(tensor - 8, &huge), "name of tensor 0"),
        (with(tensor + 1, &[9]), "dims"),
        (with(tensor + 5, &huge), "tensor `t`"),
        (with(tensor + 13, &huge), "tensor `t`"),
        (with(tensor + 21, &[16]), "type 16"),
        (with(tensor + 21, &[8]), "whole blocks of 32"),
        (with(tensor + 25, &[1]), "multiple of 32"),
        (with(tensor + 25, &[64]), "within the file"),
        (with(tensor + 31, &[255]), "within the file"),
    ] {
        assert!(lie.contains(field), "{field}: {lie}");
    }
    for cut in 0..golden.len() - 8 {
        let message = refusal(&golden[..cut]);
        assert!(message.contains("truncated"), "{cut}: {message}");
    }
}

#[test]
fn names_and_places_are_each_for_one() -> Result<()> {
    let (_room, path) = written(b"");
    let mut file = GgufWriter::default();
    file.floats("t", &[8], &[0.; 8]);
    file.floats("u", &[8], &[0.; 8]);
    file.write(&path)?;
    let mut bytes = artefact::read(&path)?;
    let second = bytes
        .windows(5)
        .position(|w| w == b"u\x01\0\0\0")
        .expect("u");
    let mut overlapping = bytes.clone();
    overlapping[second + 17] = 0;
    let message = refusal(&overlapping);
    assert!(
        message.contains("`u`") && message.contains("bytes of `t`"),
        "{message}"
    );
    bytes[second] = b't';
    let message = refusal(&bytes);
    assert!(message.contains("each name once"), "{message}");
    Ok(())
}
