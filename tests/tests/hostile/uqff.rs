//! UQFF entries of every type, and the files that hold them.

use super::change::{changed, changes};
use super::tensors::file;
use super::{MOST, config, copy, largest, reads};
use anyhow::Result;
use candle_core::{Device, Tensor};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use reptune::inspect::inspect;
use reptune::model::uqff::{Entry, UQFF, UqffFile, WeightType};
use reptune::quantize::{ErrorCompensation, QuantizedMerge, WeightTypes};
use reptune::{Llama, LoadOptions, Source};
use reptune_adapters::Adapter;
use reptune_tests::fixture;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What stands before the data of an entry is not longer than this.
const HEAD: usize = 64;

/// An entry of every type, with a bias where the type takes one.
fn entries() -> &'static [(&'static str, Vec<u8>)] {
    static ENTRIES: OnceLock<Vec<(&str, Vec<u8>)>> = OnceLock::new();
    ENTRIES.get_or_init(|| {
        let make = |wanted: WeightType| -> Result<Vec<u8>> {
            let data: Vec<f32> = (0..512).map(|i| (i as f32 * 0.7).sin()).collect();
            let weight = Tensor::from_vec(data, (2, 256), &Device::Cpu)?;
            let bias = Tensor::new(&[0.5f32, -1.], &Device::Cpu)?;
            let bias = wanted.takes_bias().then_some(&bias);
            Ok(Entry::quantize(&weight, bias, wanted)?.bytes().to_vec())
        };
        let all = WeightType::ALL.into_iter();
        all.map(|(name, wanted)| (name, make(wanted).expect(name)))
            .collect()
    })
}

/// Reads `bytes`, and all that can be asked of an entry if they are one.
fn ask(bytes: Vec<u8>) -> std::result::Result<(), (String, String)> {
    let (read, most) = largest(|| {
        let entry = Entry::read(bytes)?;
        let shape = entry.layout().shape;
        if let Ok(weight) = entry.weight() {
            assert_eq!(weight.dims(), [shape.0, shape.1]);
        }
        if let Ok(Some(bias)) = entry.bias() {
            assert_eq!(bias.dims(), [shape.0]);
        }
        let _ = entry.method(None, &Device::Cpu);
        Ok(())
    });
    assert!(most <= MOST, "{most} bytes were allocated at once");
    read
}

#[test]
fn a_truncated_entry_is_refused_wherever_it_is_cut() {
    for (name, bytes) in entries() {
        ask(bytes.clone()).expect(name);
        for cut in 0..bytes.len() {
            let (expected, found) = ask(bytes[..cut].to_vec()).expect_err(name);
            assert!(
                !expected.is_empty() && found.contains("left"),
                "{name} cut at {cut}: expected {expected}, found {found}"
            );
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        let (expected, found) = ask(longer).expect_err(name);
        assert!(
            expected.ends_with("bytes") && found.ends_with("bytes"),
            "{name}: {found}"
        );
    }
}

#[test]
fn lengths_that_are_only_claimed_are_not_allocated() {
    let claims = [u32::MAX, i32::MAX as u32, 1 << 24, 0].map(u32::to_le_bytes);
    for (name, bytes) in entries() {
        let (mut refused, mut tried) = (0, 0);
        for at in 4..HEAD.min(bytes.len() - 4) {
            for claim in &claims {
                let mut bytes = bytes.clone();
                bytes[at..at + 4].copy_from_slice(claim);
                if let Err((expected, found)) = ask(bytes) {
                    assert!(!expected.is_empty() && !found.is_empty(), "{name} at {at}");
                    refused += 1;
                }
                tried += 1;
            }
        }
        assert!(4 * refused > tried, "{name}: {refused} of {tried} refused");
    }
}

proptest! {
    #![proptest_config(config(3000))]

    #[test]
    fn no_change_of_an_entry_makes_its_reader_panic(which in any::<Index>(), changes in changes(), near: bool) {
        let (_, bytes) = which.get(entries());
        let reach = if near { HEAD } else { usize::MAX };
        let _ = ask(changed(bytes, reach, &changes));
    }

    #[test]
    fn arbitrary_bytes_are_no_entry_and_no_panic(kind in 0u8..8, rest in vec(any::<u8>(), 0..200)) {
        let _ = ask(rest.clone());
        let _ = ask([&[0, 2, 0, 0, kind][..], &rest].concat());
    }
}

/// The tiny Llama as a UQFF.
fn quantized() -> &'static Path {
    static MODEL: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let make = || -> Result<_> {
        let room = tempfile::tempdir()?;
        let merge = QuantizedMerge {
            source: &Source::open(&fixture("tiny-llama2"))?,
            update: &Adapter::default(),
            types: WeightTypes::all(Some(WeightType::parse("q8_0")?)),
            compensation: ErrorCompensation::None,
            calibration: &[],
        };
        let out = room.path().join("model");
        merge.write(&out, &mut |_, _| ())?;
        Ok((room, out))
    };
    &MODEL.get_or_init(|| make().expect("a UQFF")).1
}

fn load(path: &Path) -> reptune::Result<()> {
    Llama::load(path, LoadOptions::default()).map(|_| ())
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn a_changed_uqff_is_no_panic_and_its_hashes_notice(changes in changes(), near: bool) {
        let room = copy(quantized()).expect("a copy");
        let path = room.path().join(UQFF);
        let good = std::fs::read(&path).expect("bytes");
        let bad = changed(&good, if near { 600 } else { usize::MAX }, &changes);
        std::fs::write(&path, &bad).expect("write");
        let _ = reads(room.path(), || load(room.path()));
        if let Ok(told) = reads(room.path(), || inspect(&path, &mut |_, _| ())) {
            // without its provenance it is no file of ours, and says so
            let same = told == inspect(&quantized().join(UQFF), &mut |_, _| ()).expect("good");
            prop_assert!(same || told.checked.starts_with("no hash"), "{told:?}");
        }
    }

    #[test]
    fn what_lies_beside_a_uqff_is_checked_too(changes in changes()) {
        let room = copy(quantized()).expect("a copy");
        let path = room.path().join("residual.safetensors");
        let good = std::fs::read(&path).expect("bytes");
        std::fs::write(&path, changed(&good, 1200, &changes)).expect("write");
        if let Err(message) = reads(room.path(), || load(room.path())) {
            prop_assert!(message.contains("residual.safetensors") || message.contains("tensor `"), "{message}");
        }
    }
}

#[test]
fn names_and_metadata_of_a_uqff_lead_nowhere_else() -> Result<()> {
    let room = tempfile::tempdir()?;
    let path = room.path().join("m.uqff");
    let (_, entry) = &entries()[0];
    let length = entry.len();
    let line = json!({"dtype": "U8", "shape": [length], "data_offsets": [0, length]});
    let told = |beside: &str| {
        let provenance = json!({
            "format": "reptune.uqff.1", "made_by": "x", "layer_convention": "block_output_0",
            "model": "m", "model_fingerprint": "f", "beside": beside,
        });
        json!({"reptune.provenance": provenance.to_string()})
    };
    for (header, said) in [
        (
            json!({"lm_head": line}),
            "tensor `lm_head`: expected an index",
        ),
        (json!({"-1": line}), "tensor `-1`: expected an index"),
        (
            json!({"99999999999999999999999": line}),
            "tensor `99999999999999999999999`: expected an index",
        ),
        (
            json!({"0": line, "__metadata__": told("../secret.uqff")}),
            "`shared`, the name of a file, found `../secret.uqff`",
        ),
        (
            json!({"0": line, "__metadata__": told("/etc/passwd")}),
            "`shared`, the name of a file, found `/etc/passwd`",
        ),
        (
            json!({"0": line, "__metadata__": told("gone.uqff")}),
            "gone.uqff",
        ),
        (
            json!({"0": line, "__metadata__": {"reptune.provenance": "[]"}}),
            "metadata `reptune.provenance`: expected a provenance",
        ),
    ] {
        std::fs::write(&path, file(&header, entry))?;
        let Err(message) = reads(room.path(), || UqffFile::find(&path)) else {
            panic!("{header} was read")
        };
        assert!(message.contains(said), "{message}");
    }
    std::fs::write(&path, file(&json!({"0": line}), entry))?;
    let good = UqffFile::find(&path)?.expect("a UQFF");
    assert_eq!(good.entry(0)?.layout().shape, (2, 256));
    let message = good.entry(7).expect_err("none").to_string();
    assert!(
        message.contains("m.uqff: tensor `7`: expected an entry"),
        "{message}"
    );
    Ok(())
}
