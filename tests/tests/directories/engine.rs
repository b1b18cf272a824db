//! What mistral.rs 0.8.1 would panic on, or read with another meaning.

use super::{Copy, honest_mini, questions};
use anyhow::Result;
use reptune::model::{ModelDir, check};
use reptune::runtime::Engine;
use serde_json::{Value, json};
use std::path::Path;

fn said(model: &Path) -> Result<String> {
    Ok(Engine::load(model, None)?.interview(&questions())?)
}

#[test]
fn tokenizer_configurations_that_the_engine_panics_on_are_given_to_it_plainly() -> Result<()> {
    let expected = said(&honest_mini())?;
    let token = |text: &str| json!({"content": text, "lstrip": false, "special": true});
    let tokens = json!([token("[INST]"), "[/INST]"]);
    let decoder = json!({"0": token("<s>"), "1": token("</s>")});
    for (key, value) in [
        ("additional_special_tokens", tokens),
        (
            "sp_model_kwargs",
            json!({"enable_sampling": true, "alpha": 0.1}),
        ),
        ("eos_token", token("</s>")),
        ("bos_token", token("<s>")),
        ("pad_token", json!(null)),
        ("unk_token", json!([])),
        ("eos_token", json!("")),
        ("eos_token", json!(null)),
        ("eos_token", json!("<|not-there|>")),
        ("added_tokens_decoder", decoder),
        ("model_max_length", json!("256")),
        ("add_bos_token", json!("true")),
    ] {
        let copy = Copy::of(&honest_mini())?.change("tokenizer_config.json", |config| {
            config.insert(key.into(), value.clone());
        })?;
        assert_eq!(said(copy.path())?, expected, "{key}: {value}");
    }
    let copy = Copy::of(&honest_mini())?.change("tokenizer_config.json", |config| {
        config.insert("eos_token".into(), json!(["</s>", "[INST]"]));
    })?;
    let message = copy.refusal(check(&ModelDir::at(copy.path())?));
    assert!(
        message.contains("DIR/tokenizer_config.json: key `eos_token`: expected one token"),
        "{message}"
    );
    assert!(message.contains("generation_config.json"), "{message}");
    Ok(())
}

#[test]
fn the_engine_ends_a_turn_where_we_do() -> Result<()> {
    let expected = said(&honest_mini())?;
    type Change = fn(&mut serde_json::Map<String, Value>);
    let changes: [Change; 4] = [
        |c| drop(c.remove("eos_token_id")),
        |c| drop(c.insert("eos_token_id".into(), json!([1, 9_999_999]))),
        |c| drop(c.insert("top_k".into(), json!(-1))),
        |c| drop(c.insert("temperature".into(), json!("0.6"))),
    ];
    for change in changes {
        let copy = Copy::of(&honest_mini())?.change("generation_config.json", change)?;
        let copy = copy.change("tokenizer_config.json", |config| {
            config.remove("eos_token");
        })?;
        assert_eq!(said(copy.path())?, expected);
    }
    let copy = Copy::of(&honest_mini())?;
    std::fs::remove_file(copy.path().join("generation_config.json"))?;
    let copy = copy.change("tokenizer_config.json", |config| {
        config.remove("eos_token");
    })?;
    assert_eq!(said(copy.path())?, expected, "from config.json alone");
    Ok(())
}

#[test]
fn files_of_other_loaders_are_not_taken_for_this_model() -> Result<()> {
    let copy = Copy::of(&honest_mini())?;
    for name in [
        "params.json",
        "tekken.json",
        "processor_config.json",
        "chat_template.json",
    ] {
        std::fs::write(copy.path().join(name), r#"{"chat_template": "X"}"#)?;
    }
    std::fs::copy(
        copy.path().join("model.safetensors"),
        copy.path().join("consolidated.safetensors"),
    )?;
    assert_eq!(said(copy.path())?, said(&honest_mini())?);
    Ok(())
}

#[test]
fn stored_truncation_and_padding_cut_no_prompt_in_the_engine() -> Result<()> {
    let copy = Copy::of(&honest_mini())?.change("tokenizer.json", |tokenizer| {
        let truncation = json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
        tokenizer.insert("truncation".into(), truncation);
        let padding = json!({"strategy": {"Fixed": 200}, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"});
        tokenizer.insert("padding".into(), padding);
    })?;
    assert_eq!(said(copy.path())?, said(&honest_mini())?);
    Ok(())
}

#[test]
fn a_vocabulary_that_the_engine_panics_on_is_refused_by_name() -> Result<()> {
    let copy = Copy::of(&honest_mini())?.change("tokenizer.json", |tokenizer| {
        let vocab = tokenizer["model"]["vocab"]
            .as_object()
            .expect("a vocabulary");
        let vocab: Vec<Value> = vocab.keys().map(|token| json!([token, 0.])).collect();
        tokenizer["model"] = json!({"type": "Unigram", "unk_id": 0, "vocab": vocab});
    })?;
    let message = copy.refusal(Engine::load(copy.path(), None));
    assert!(
        message.contains("DIR/tokenizer.json: key `model`") && message.contains("Unigram"),
        "{message}"
    );
    Ok(())
}
