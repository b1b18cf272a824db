//! GGUF files: damaged, cut off, and with headers that claim more than is there.

use super::allocated::largest;
use super::change::{changed, changes};
use super::{config, reads};
use proptest::collection::vec;
use proptest::prelude::*;
use reptune_adapters::formats::gguf::{GgmlDType, Gguf, GgufWriter, Value};
use std::path::Path;

/// A small file with a value of every type, and tensors of three.
fn good(path: &Path) -> Vec<u8> {
    let mut writer = GgufWriter::new("toy");
    let texts = ["a", "", "\u{e4}\u{20ac}"].map(|t| Value::String(t.into()));
    let inner = |n: u8| Value::Array((0..n).map(Value::U8).collect());
    for (key, value) in [
        ("u8", Value::U8(1)),
        ("i8", Value::I8(-1)),
        ("u16", Value::U16(2)),
        ("i16", Value::I16(-2)),
        ("u32", Value::U32(3)),
        ("i32", Value::I32(-3)),
        ("u64", Value::U64(4)),
        ("i64", Value::I64(-4)),
        ("f32", Value::F32(0.5)),
        ("f64", Value::F64(0.25)),
        ("bool", Value::Bool(true)),
        ("texts", Value::Array(texts.to_vec())),
        ("nested", Value::Array(vec![inner(3), inner(0)])),
        ("general.alignment", Value::U32(64)),
    ] {
        writer.set(key, value);
    }
    let floats: Vec<f32> = (0..24).map(|x| x as f32).collect();
    let write = writer
        .floats("floats", &[2, 3, 4], &floats)
        .and_then(|w| w.tensor("halves", GgmlDType::F16, &[5], vec![1; 10]))
        .and_then(|w| w.tensor("blocks", GgmlDType::Q8_0, &[3, 32], vec![2; 102]))
        .map(|_| ())
        .and_then(|()| writer.write(path));
    write.expect("a good file");
    std::fs::read(path).expect("bytes")
}

/// Reads all of a file, if it is taken; nothing is allocated that is not in it.
fn all(path: &Path) -> Result<usize, String> {
    let length = std::fs::metadata(path).expect("a file").len() as usize;
    let directory = path.parent().expect("a directory");
    let (read, bytes) = largest(|| {
        reads(directory, || {
            let file = Gguf::open(path)?;
            let each = file.tensors().keys().map(|name| file.bytes(name));
            each.collect::<reptune_adapters::Result<Vec<_>>>()
        })
    });
    // An element of a list is 32 bytes in memory and at least one on disk, and a list that
    // grows is copied into one of twice its size.
    let most = 64 * length + (64 << 10);
    assert!(
        bytes <= most,
        "{bytes} bytes at once for a file of {length}"
    );
    let held = read?.iter().map(Vec::len).sum();
    assert!(
        held <= length,
        "{held} bytes of tensors in a file of {length}"
    );
    Ok(held)
}

#[test]
fn every_cut_of_a_good_file_is_refused() {
    let room = tempfile::tempdir().expect("room");
    let path = room.path().join("x.gguf");
    let bytes = good(&path);
    assert_eq!(all(&path), Ok(96 + 10 + 102));
    let data = 64 * 4; // what the tensors take, padded
    let tail = 64 - 102 % 64; // padding behind the last, which nothing needs
    for kept in 0..bytes.len() - tail {
        std::fs::write(&path, &bytes[..kept]).expect("write");
        let message = all(&path).expect_err("cut off");
        let place = match kept {
            0..4 => "magic",
            4..8 => "version",
            _ if kept >= bytes.len() - data => "tensor `",
            _ => "[DIR]/x.gguf: ",
        };
        assert!(message.contains(place), "{kept} bytes: {message}");
    }
}

#[test]
fn a_claim_beyond_the_file_allocates_nothing() {
    let room = tempfile::tempdir().expect("room");
    let path = room.path().join("x.gguf");
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let number = |n: u32| n.to_le_bytes().to_vec();
    let head = |tensors: u64, pairs: u64| {
        [
            b"GGUF".to_vec(),
            number(3),
            tensors.to_le_bytes().to_vec(),
            pairs.to_le_bytes().to_vec(),
        ]
        .concat()
    };
    for claim in [1u64 << 60, 1 << 40, u64::MAX, i64::MAX as u64] {
        let claimed = claim.to_le_bytes().to_vec();
        let tensor = |dims: &[u64], dtype: u32, offset: u64| {
            let dims: Vec<u8> = [number(dims.len() as u32)]
                .into_iter()
                .chain(dims.iter().map(|d| d.to_le_bytes().to_vec()))
                .flatten()
                .collect();
            [
                text("w"),
                dims,
                number(dtype),
                offset.to_le_bytes().to_vec(),
            ]
            .concat()
        };
        for (case, bytes, place) in [
            ("tensors", head(claim, 0), "number of tensors"),
            ("pairs", head(0, claim), "number of metadata pairs"),
            (
                "a key",
                [head(0, 1), claimed.clone(), number(0)].concat(),
                "key of metadata pair 0",
            ),
            (
                "a text",
                [head(0, 1), text("k"), number(8), claimed.clone()].concat(),
                "metadata `k`",
            ),
            (
                "a list",
                [head(0, 1), text("k"), number(9), number(0), claimed.clone()].concat(),
                "metadata `k`",
            ),
            (
                "a list of lists",
                [head(0, 1), text("k"), number(9), number(9), claimed.clone()].concat(),
                "metadata `k`",
            ),
            (
                "a name",
                [head(1, 0), claimed.clone(), vec![0; 24]].concat(),
                "name of tensor 0",
            ),
            (
                "a row",
                [head(1, 0), tensor(&[claim], 0, 0)].concat(),
                "tensor `w`",
            ),
            (
                "two dims",
                [head(1, 0), tensor(&[claim, claim], 0, 0)].concat(),
                "tensor `w`",
            ),
            (
                "a product of 0 mod 2^64",
                [head(1, 0), tensor(&[1 << 32, 1 << 32], 0, 0)].concat(),
                "tensor `w`",
            ),
            (
                "an offset",
                [head(1, 0), tensor(&[1], 0, claim & !31)].concat(),
                "tensor `w`",
            ),
        ] {
            let padded = [bytes, vec![0; 64]].concat();
            std::fs::write(&path, padded).expect("write");
            let message = all(&path).expect_err(case);
            assert!(message.contains(place), "{case} of {claim}: {message}");
        }
    }
}

#[test]
fn lists_within_lists_end() {
    let room = tempfile::tempdir().expect("room");
    let path = room.path().join("x.gguf");
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.push(b'k');
    bytes.extend(9u32.to_le_bytes());
    for _ in 0..100_000 {
        bytes.extend(9u32.to_le_bytes()); // a list of one list
        bytes.extend(1u64.to_le_bytes());
    }
    std::fs::write(&path, bytes).expect("write");
    let message = all(&path).expect_err("too deep");
    assert!(
        message.contains("metadata `k`: expected lists nested at most 3"),
        "{message}"
    );
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn a_damaged_file_is_refused_or_read_within_its_length(changes in changes()) {
        let room = tempfile::tempdir().expect("room");
        let path = room.path().join("x.gguf");
        let bytes = good(&path);
        std::fs::write(&path, changed(&bytes, usize::MAX, &changes)).expect("write");
        let _ = all(&path);
    }

    #[test]
    fn arbitrary_bytes_behind_the_magic_are_no_panic(
        counts in (0u64..4, 0u64..4),
        rest in vec(any::<u8>(), 0..200),
    ) {
        let room = tempfile::tempdir().expect("room");
        let path = room.path().join("x.gguf");
        let (tensors, pairs) = counts;
        let head = [b"GGUF\x03\0\0\0", &tensors.to_le_bytes()[..], &pairs.to_le_bytes()].concat();
        std::fs::write(&path, [&head[..], &rest].concat()).expect("write");
        let _ = all(&path);
        std::fs::write(&path, &rest).expect("write");
        prop_assert!(all(&path).expect_err("no magic").contains("magic"));
    }
}
