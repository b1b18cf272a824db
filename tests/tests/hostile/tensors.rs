//! safetensors headers, as a checkpoint's reader sees them.

use super::change::{changed, changes, odd, replaced};
use super::{config, copy, reads};
use anyhow::Result;
use proptest::prelude::*;
use proptest::sample::Index;
use reptune::{Llama, LoadOptions};
use reptune_adapters::formats::safetensors::{TensorFile, shards};
use reptune_adapters::formats::tables;
use reptune_tests::fixture;
use serde_json::{Value, json};
use std::path::Path;

/// A safetensors file.
pub fn file(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string().into_bytes();
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], &header, data].concat()
}

/// Header and data of a safetensors file.
fn parts(path: &Path) -> Result<(Value, Vec<u8>)> {
    let bytes = std::fs::read(path)?;
    let (length, rest) = bytes.split_first_chunk().expect("a length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    Ok((serde_json::from_slice(header)?, data.to_vec()))
}

fn load(path: &Path) -> reptune::Result<()> {
    Llama::load(path, LoadOptions::default()).map(|_| ())
}

#[test]
fn a_header_that_contradicts_itself_or_the_file_is_refused() -> Result<()> {
    let room = tempfile::tempdir()?;
    let path = room.path().join("x.safetensors");
    let line = |dtype: &str, shape: Value, from: u64, to: u64| json!({"dtype": dtype, "shape": shape, "data_offsets": [from, to]});
    // eight tensors of 2^61 bytes each are more than a u64 counts
    let step = (1u64 << 61) - 1;
    let vast: serde_json::Map<String, Value> = (0..9)
        .map(|i: u64| {
            let (from, to) = (i.saturating_mul(step), (i + 1).saturating_mul(step));
            (format!("t{i}"), line("U8", json!([step]), from, to))
        })
        .take(8)
        .collect();
    let edge = Value::Object(vast);
    let good = line("F32", json!([2]), 0, 8);
    for (case, header) in [
        (
            "overlap",
            json!({"a": good, "b": line("F32", json!([2]), 4, 12)}),
        ),
        (
            "gap",
            json!({"a": good, "b": line("F32", json!([1]), 12, 16)}),
        ),
        ("same place", json!({"a": good, "b": good})),
        ("backwards", json!({"a": line("F32", json!([2]), 8, 0)})),
        (
            "more than there is",
            json!({"a": line("F32", json!([1u64 << 40]), 0, 1 << 42)}),
        ),
        (
            "beyond counting",
            json!({"a": line("F32", json!([u64::MAX, 2]), 0, 8)}),
        ),
        ("a sum beyond counting", edge),
        ("another size", json!({"a": line("F32", json!([3]), 0, 8)})),
        ("no such dtype", json!({"a": line("F31", json!([2]), 0, 8)})),
        (
            "a negative dim",
            json!({"a": line("F32", json!([-2]), 0, 8)}),
        ),
        (
            "a text for a shape",
            json!({"a": line("F32", json!("2"), 0, 8)}),
        ),
        ("no tensors", json!([])),
        (
            "metadata that is no text",
            json!({"a": good, "__metadata__": {"k": 1}}),
        ),
        (
            "less than there is",
            json!({"a": line("F32", json!([1]), 0, 4)}),
        ),
    ] {
        std::fs::write(&path, file(&header, &[0; 8]))?;
        let told = reads(room.path(), || TensorFile::open(&path)).map(|_| ());
        let Err(message) = told else {
            panic!("{case}: was read")
        };
        let expected = "[DIR]/x.safetensors: file: expected a complete safetensors file";
        assert!(message.starts_with(expected), "{case}: {message}");
        let tables = reads(room.path(), || tables::read_tables(&path)).map(|_| ());
        let message = tables.expect_err(case);
        assert!(message.starts_with(expected), "{case}: {message}");
    }
    for length in [u64::MAX, 1 << 40, 9, 0] {
        let mut bytes = file(&json!({"a": good}), &[0; 8]);
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        std::fs::write(&path, bytes)?;
        let read = reads(room.path(), || TensorFile::open(&path)).map(|_| ());
        let message = read.expect_err("another length");
        assert!(message.contains("a complete safetensors file"), "{message}");
    }
    std::fs::write(&path, file(&json!({"a": good}), &[0; 8]))?;
    assert_eq!(TensorFile::open(&path)?.names(), ["a"]);
    Ok(())
}

#[test]
fn an_index_leads_to_files_beside_it_only() -> Result<()> {
    let room = copy(&fixture("tiny-llama32"))?;
    let path = room.path().join("model.safetensors.index.json");
    let good: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let name = "model.norm.weight";
    for value in [
        json!("../model.safetensors"),
        json!("/etc/passwd"),
        json!("sub/../model-00001-of-00003.safetensors"),
        json!("./model-00001-of-00003.safetensors"),
        json!(".."),
        json!("."),
        json!(""),
        json!("gone.safetensors"),
        json!("nul\0.safetensors"),
        json!(7),
        json!(null),
        json!(["model-00001-of-00003.safetensors"]),
    ] {
        let mut index = good.clone();
        index["weight_map"][name] = value.clone();
        std::fs::write(&path, index.to_string())?;
        let message = reads(room.path(), || load(room.path())).expect_err("refused");
        let place = "[DIR]/model.safetensors.index.json: key `weight_map`";
        assert!(message.starts_with(place), "{value}: {message}");
    }
    for index in [
        json!({}),
        json!([]),
        json!({"weight_map": {}}),
        json!({"weight_map": "all"}),
    ] {
        std::fs::write(&path, index.to_string())?;
        let message = reads(room.path(), || shards(room.path())).expect_err("refused");
        assert!(message.contains("key `weight_map`"), "{index}: {message}");
    }
    let mut index = good.clone();
    let all = index["weight_map"].as_object_mut().expect("a map");
    for file in all.values_mut() {
        *file = json!("model-00001-of-00003.safetensors");
    }
    std::fs::write(&path, index.to_string())?;
    let message = reads(room.path(), || load(room.path())).expect_err("tensors are missing");
    assert!(message.contains("tensor `model."), "{message}");
    Ok(())
}

proptest! {
    #![proptest_config(config(96))]

    #[test]
    fn a_changed_header_of_a_checkpoint_is_refused_or_changes_nothing(at in any::<Index>(), odd in odd()) {
        let room = copy(&fixture("tiny-llama2")).expect("a copy");
        let path = room.path().join("model.safetensors");
        let (header, data) = parts(&path).expect("a checkpoint");
        let (bad, place) = replaced(&header, at, odd);
        std::fs::write(&path, file(&bad, &data)).expect("write");
        let read = reads(room.path(), || load(room.path()));
        // what is said beside the tensors is not read
        prop_assert!(read.is_err() || bad == header || place.starts_with("/__metadata__"), "{place}");
    }

    #[test]
    fn changed_bytes_of_a_checkpoint_are_no_panic(changes in changes(), reach in 8usize..6000) {
        let room = copy(&fixture("tiny-llama2")).expect("a copy");
        let path = room.path().join("model.safetensors");
        let bytes = std::fs::read(&path).expect("a checkpoint");
        std::fs::write(&path, changed(&bytes, reach, &changes)).expect("write");
        let _ = reads(room.path(), || load(room.path()));
    }
}
