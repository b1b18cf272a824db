//! `config.json`: values of a wrong type, and sizes that the weights do not have.

use super::change::{changed, changes, odd, replaced};
use super::{config, copy, reads};
use anyhow::Result;
use proptest::prelude::*;
use proptest::sample::Index;
use reptune::{Llama, LoadOptions};
use reptune_tests::fixture;
use serde_json::{Value, json};
use std::path::Path;

fn load(path: &Path) -> reptune::Result<()> {
    Llama::load(path, LoadOptions::default()).map(|_| ())
}

/// What is said of a model whose configuration has `value` at `key`.
fn with(name: &str, key: &str, value: &Value) -> Result<std::result::Result<(), String>> {
    let room = copy(&fixture(name))?;
    let path = room.path().join("config.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    json[key] = value.clone();
    std::fs::write(&path, json.to_string())?;
    Ok(reads(room.path(), || load(room.path())))
}

#[test]
fn a_value_of_a_wrong_type_is_refused_by_its_key() -> Result<()> {
    let sizes = [
        "hidden_size",
        "intermediate_size",
        "vocab_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "head_dim",
    ];
    let no_size = [
        json!("8"),
        json!(true),
        json!(-8),
        json!(0),
        json!(8.5),
        json!([8]),
        json!({}),
    ];
    let no_number = [json!("1"), json!(true), json!([1]), json!({})];
    let no_truth = [json!("true"), json!(1), json!([])];
    let mut cases: Vec<(&str, &Value)> = Vec::new();
    for key in sizes {
        cases.extend(no_size.iter().map(|v| (key, v)));
    }
    for key in ["rms_norm_eps", "rope_theta"] {
        cases.extend(no_number.iter().map(|v| (key, v)));
    }
    for key in ["tie_word_embeddings", "attention_bias", "mlp_bias"] {
        cases.extend(no_truth.iter().map(|v| (key, v)));
    }
    let negative = json!(-1e-5);
    cases.push(("rms_norm_eps", &negative));
    for (key, value) in cases {
        let message = with("tiny-llama2", key, value)?.expect_err(key);
        assert!(
            message.starts_with("[DIR]/config.json: key") && message.contains(&format!("`{key}`")),
            "{key} = {value}: {message}"
        );
    }
    Ok(())
}

#[test]
fn sizes_that_the_weights_do_not_have_are_refused_before_they_are_used() -> Result<()> {
    for key in [
        "hidden_size",
        "intermediate_size",
        "vocab_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "head_dim",
    ] {
        for size in [1u64 << 24, 1 << 40, 1 << 62, 1 << 63, u64::MAX] {
            let message = with("tiny-llama2", key, &json!(size))?.expect_err(key);
            let at_key = message.starts_with("[DIR]/config.json: key `");
            assert!(
                at_key || message.contains("tensor `"),
                "{key} = {size}: {message}"
            );
        }
    }
    Ok(())
}

#[test]
fn rope_settings_that_give_no_angles_are_refused() -> Result<()> {
    let scaling = |key: &str, value: Value| {
        let mut good = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 256,
        });
        good[key] = value;
        good
    };
    for (key, value) in [
        ("rope_theta", json!(0)),
        ("rope_theta", json!(-2.)),
        ("rope_scaling", json!("llama3")),
        ("rope_scaling", scaling("rope_type", json!("yarn"))),
        ("rope_scaling", scaling("factor", json!(0))),
        ("rope_scaling", scaling("factor", json!("8"))),
        ("rope_scaling", scaling("low_freq_factor", json!(null))),
        ("rope_scaling", scaling("high_freq_factor", json!([]))),
        (
            "rope_scaling",
            scaling("original_max_position_embeddings", json!(-1)),
        ),
    ] {
        let message = with("tiny-llama32", key, &value)?.expect_err(key);
        let place = format!("[DIR]/config.json: key `{key}");
        assert!(message.starts_with(&place), "{key} = {value}: {message}");
    }
    assert_eq!(
        with(
            "tiny-llama32",
            "rope_scaling",
            &scaling("factor", json!(8.))
        )?,
        Ok(())
    );
    Ok(())
}

proptest! {
    #![proptest_config(config(128))]

    #[test]
    fn a_changed_configuration_is_no_panic(at in any::<Index>(), odd in odd()) {
        let room = copy(&fixture("tiny-llama32")).expect("a copy");
        let path = room.path().join("config.json");
        let good = serde_json::from_slice(&std::fs::read(&path).expect("bytes")).expect("JSON");
        let (bad, place) = replaced(&good, at, odd);
        std::fs::write(&path, bad.to_string()).expect("write");
        if let Err(message) = reads(room.path(), || load(room.path())) {
            prop_assert!(message.contains("key") || message.contains("tensor `"), "{place}: {message}");
        }
    }

    #[test]
    fn changed_bytes_of_a_configuration_are_no_panic(changes in changes()) {
        let room = copy(&fixture("tiny-llama2")).expect("a copy");
        let path = room.path().join("config.json");
        let good = std::fs::read(&path).expect("bytes");
        std::fs::write(&path, changed(&good, usize::MAX, &changes)).expect("write");
        let _ = reads(room.path(), || load(room.path()));
    }
}
