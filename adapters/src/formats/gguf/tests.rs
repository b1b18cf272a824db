use super::*;
use crate::error::Result;
use crate::files;
use candle_core::Device;
use std::path::PathBuf;

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// One pair and one tensor, byte by byte.
fn by_hand() -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend(1u64.to_le_bytes()); // tensors
    file.extend(1u64.to_le_bytes()); // pairs
    put(&mut file, "general.architecture");
    file.extend(8u32.to_le_bytes()); // a text
    put(&mut file, "toy");
    put(&mut file, "w");
    file.extend(2u32.to_le_bytes()); // dims
    file.extend(3u64.to_le_bytes()); // the row first
    file.extend(2u64.to_le_bytes());
    file.extend(0u32.to_le_bytes()); // F32
    file.extend(0u64.to_le_bytes()); // offset
    file.resize(file.len().next_multiple_of(32), 0);
    for x in [1f32, -2., 3., 4., 5.5, 6.] {
        file.extend(x.to_le_bytes());
    }
    file.resize(file.len().next_multiple_of(32), 0);
    file
}

/// Where something stands in [`by_hand`].
const VERSION: usize = 4;
const TENSORS: usize = 8;
const PAIRS: usize = 16;
const KEY: usize = 24;
const KIND: usize = KEY + 8 + 20;
const TEXT: usize = KIND + 4;
const NAME: usize = TEXT + 8 + 3;
const DIMS: usize = NAME + 8 + 1;
const ROW: usize = DIMS + 4;
const DTYPE: usize = ROW + 16;
const OFFSET: usize = DTYPE + 4;

fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("x.gguf");
    std::fs::write(&path, bytes).expect("write");
    (directory, path)
}

fn refusal(bytes: &[u8]) -> String {
    let (_directory, path) = file(bytes);
    Gguf::open(&path).expect_err("refused").to_string()
}

#[test]
fn the_bytes_are_those_of_the_format() -> Result<()> {
    let (_directory, path) = file(&[]);
    let mut writer = GgufWriter::new("toy");
    writer.floats("w", &[2, 3], &[1., -2., 3., 4., 5.5, 6.])?;
    let length = writer.write(&path)?;
    let bytes = files::read(&path)?;
    assert_eq!(bytes, by_hand());
    assert_eq!(length, bytes.len() as u64);
    let read = Gguf::open(&path)?;
    assert_eq!(read.text("general.architecture")?, Some("toy"));
    let info = read.tensor("w").expect("w");
    assert_eq!(
        (info.dtype, info.shape.as_slice()),
        (GgmlDType::F32, [2, 3].as_slice())
    );
    assert_eq!(read.floats("w")?, [1., -2., 3., 4., 5.5, 6.]);
    let rows = read
        .quantized("w", &Device::Cpu)?
        .dequantize(&Device::Cpu)?;
    assert_eq!(rows.to_vec2::<f32>()?, [[1., -2., 3.], [4., 5.5, 6.]]);
    Ok(())
}

#[test]
fn every_type_of_value_and_block_is_read_back_and_by_candle_too() -> Result<()> {
    let (_directory, path) = file(&[]);
    let nested = Value::Array(vec![
        Value::Array(vec![Value::U8(1), Value::U8(2)]),
        Value::Array(vec![]),
    ]);
    let values = [
        ("a", Value::U8(200)),
        ("b", Value::I8(-3)),
        ("c", Value::U16(60_000)),
        ("d", Value::I16(-300)),
        ("e", Value::U32(7)),
        ("f", Value::I32(-7)),
        ("g", Value::U64(1 << 40)),
        ("h", Value::I64(-1)),
        ("i", Value::F32(0.5)),
        ("j", Value::F64(0.1)),
        ("k", Value::Bool(true)),
        ("l", Value::String("\u{e4}".into())),
        (
            "m",
            Value::Array(vec![
                Value::String("x".into()),
                Value::String(String::new()),
            ]),
        ),
        ("n", nested),
    ];
    let mut writer = GgufWriter::new("toy");
    for (key, value) in &values {
        writer.set(key, value.clone());
    }
    writer.tensor("q", GgmlDType::Q8_0, &[2, 32], (0..68).collect())?;
    writer.floats("f", &[1], &[2.])?;
    writer.write(&path)?;
    let read = Gguf::open(&path)?;
    for (key, value) in &values {
        assert_eq!(
            format!("{:?}", read.value(key)),
            format!("{:?}", Some(value))
        );
    }
    assert_eq!(read.bytes("q")?, (0..68).collect::<Vec<u8>>());
    assert_eq!(read.floats("f")?, [2.]);
    assert_eq!((read.whole("e")?, read.whole("none")?), (Some(7), None));
    let mut bytes = std::io::Cursor::new(files::read(&path)?);
    let candle = candle_core::quantized::gguf_file::Content::read(&mut bytes)?;
    assert_eq!(candle.tensor_infos.len(), 2);
    let q = candle.tensor(&mut bytes, "q", &Device::Cpu)?;
    assert_eq!(q.data()?.to_vec(), (0..68).collect::<Vec<u8>>());
    let said = |e: crate::Error| e.to_string();
    assert!(
        said(read.whole("f").expect_err("negative")).contains("metadata `f`: expected a whole")
    );
    assert!(said(read.text("a").expect_err("number")).contains("metadata `a`: expected a text"));
    assert!(said(read.floats("q").expect_err("blocks")).contains("tensor `q`: expected type F32"));
    assert!(said(read.bytes("z").expect_err("none")).contains("tensor `z`"));
    Ok(())
}

#[test]
fn a_header_that_cannot_be_is_refused_by_the_name_of_its_field() {
    let with = |at: usize, bytes: &[u8]| {
        let mut file = by_hand();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        refusal(&file)
    };
    let huge = (1u64 << 60).to_le_bytes();
    let cases: Vec<(String, &[&str])> = vec![
        (with(0, b"GGML"), &["magic: expected `GGUF`", "`GGML`"]),
        (with(VERSION, &[1]), &["version: expected 2 or 3, found 1"]),
        (with(VERSION, &[0, 0, 0, 3]), &["version", "big-endian"]),
        (
            with(TENSORS, &huge),
            &["number of tensors", "1152921504606846976"],
        ),
        (
            with(PAIRS, &huge),
            &["number of metadata pairs", "1152921504606846976"],
        ),
        (
            with(KEY, &huge),
            &["key of metadata pair 0", "at most 65535"],
        ),
        (with(KEY + 8, &[0xff]), &["key of metadata pair 0", "UTF-8"]),
        (
            with(KIND, &[13]),
            &["metadata `general.architecture`", "0 to 12"],
        ),
        (with(KIND, &[9]), &["metadata `general.architecture`"]),
        (
            with(TEXT, &huge),
            &["metadata `general.architecture`", "at most 16777216"],
        ),
        (
            with(TEXT, &[255]),
            &["metadata `general.architecture`: expected 255 bytes"],
        ),
        (with(NAME, &huge), &["name of tensor 0"]),
        (
            with(DIMS, &[5]),
            &["tensor `w`: expected at most 4 dims, found 5"],
        ),
        (
            with(ROW, &[0; 8]),
            &["tensor `w`: expected dims above 0, found 0"],
        ),
        (with(ROW, &huge), &["tensor `w`"]),
        (
            with(ROW, &(1u64 << 33).to_le_bytes()),
            &["tensor `w`", "within"],
        ),
        (with(DTYPE, &[20]), &["tensor `w`", "IQ4_NL"]),
        (with(DTYPE, &[99]), &["tensor `w`", "type 99"]),
        (with(DTYPE, &[8]), &["tensor `w`", "blocks of 32"]),
        (
            with(OFFSET, &[7]),
            &["tensor `w`", "a multiple of 32, found 7"],
        ),
        (with(OFFSET, &[32]), &["tensor `w`", "within 32 bytes"]),
        (
            with(OFFSET, &(u64::MAX - 31).to_le_bytes()),
            &["tensor `w`", "within 32 bytes"],
        ),
    ];
    for (message, parts) in cases {
        for part in parts {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(message.contains("x.gguf"), "{message}");
    }
}

#[test]
fn what_is_claimed_twice_is_refused() -> Result<()> {
    let (_directory, path) = file(&[]);
    let mut writer = GgufWriter::new("toy");
    writer.floats("one", &[8], &[1.; 8])?;
    writer.floats("two", &[8], &[2.; 8])?;
    writer
        .set("general.name1", Value::U8(0))
        .set("general.name2", Value::U8(0));
    writer.write(&path)?;
    let whole = files::read(&path)?;
    let find = |text: &str| {
        let at = whole.windows(text.len()).position(|w| w == text.as_bytes());
        at.expect("it is there")
    };
    let mut bytes = whole.clone();
    bytes[find("general.name2") + 12] = b'1';
    assert!(refusal(&bytes).contains("metadata `general.name1`: expected each key once"));
    let mut bytes = whole.clone();
    bytes[find("two")..][..3].copy_from_slice(b"one");
    assert!(refusal(&bytes).contains("tensor `one`: expected each name once"));
    let mut bytes = whole.clone();
    bytes[find("two") + 3 + 4 + 8 + 4..][..8].copy_from_slice(&[0; 8]);
    assert!(refusal(&bytes).contains("tensor `two`: expected data after that of `one`"));
    Ok(())
}

#[test]
fn the_writer_refuses_what_no_reader_would_take() {
    let mut writer = GgufWriter::new("toy");
    let mut said = |name: &str, shape: &[usize], n: usize| {
        let result = writer.floats(name, shape, &vec![0.; n]);
        result.err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert_eq!(said("w", &[2], 2), "");
    assert!(said("w", &[2], 2).contains("tensor `w`") && said("w", &[2], 2).contains("in use"));
    assert!(said(&"n".repeat(64), &[2], 2).contains("at most 63 bytes"));
    assert!(said("v", &[3], 2).contains("found 8 bytes"));
    assert!(said("v", &[0], 0).contains("no dim 0"));
    let (_directory, path) = file(&[]);
    writer.set("mixed", Value::Array(vec![Value::U8(1), Value::Bool(true)]));
    let message = writer.write(&path).expect_err("mixed").to_string();
    assert!(message.contains("metadata `mixed`"), "{message}");
}
