//! Tokenizers and chat templates.

use super::change::{changed, changes, odd, replaced};
use super::{config, copy, reads};
use anyhow::Result;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use reptune_recipes::{Chat, Message};
use reptune_tests::fixture;
use serde_json::{Value, json};
use std::path::Path;

/// Loads the chat of a directory, and says something with it.
fn talk(directory: &Path) -> Result<(), String> {
    let chat = reads(directory, || Chat::load(directory))?;
    let messages = Message::conversation("Be short.", "Hello, <s> w\u{f6}rld!");
    let ids = reads(directory, || chat.prompt(&messages))?;
    let _ = reads(directory, || chat.decode(&ids))?;
    let _ = reads(directory, || chat.decode(&[0, u32::MAX]))?;
    Ok(())
}

#[test]
fn an_end_token_that_is_no_token_is_refused_by_its_key() -> Result<()> {
    for file in ["generation_config.json", "config.json"] {
        for value in [
            json!("</s>"),
            json!(-1),
            json!(1.5),
            json!([257, "a"]),
            json!(u64::MAX),
            json!({}),
        ] {
            let room = copy(&fixture("tiny-llama2"))?;
            let path = room.path().join(file);
            let mut json: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
            json["eos_token_id"] = value.clone();
            std::fs::write(&path, json.to_string())?;
            let message = talk(room.path()).expect_err("no token");
            let place = format!("[DIR]/{file}: key `eos_token_id`: expected");
            assert!(message.starts_with(&place), "{value}: {message}");
        }
    }
    Ok(())
}

#[test]
fn a_malformed_tokenizer_is_refused_also_where_its_library_panics() -> Result<()> {
    let room = copy(&fixture("tiny-llama2"))?;
    let path = room.path().join("tokenizer.json");
    let good: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    for (key, value) in [
        ("decoder", json!({"type": "Replace", "pattern": 7})),
        ("decoder", json!(7)),
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        ),
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": 7}),
        ),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}),
        ),
        (
            "model",
            json!({"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}),
        ),
        ("model", json!(null)),
    ] {
        let mut json = good.clone();
        json[key] = value.clone();
        std::fs::write(&path, json.to_string())?;
        let message = talk(room.path()).expect_err(key);
        let place = "[DIR]/tokenizer.json: file: expected a tokenizer of Hugging Face tokenizers";
        assert!(message.starts_with(place), "{key} = {value}: {message}");
    }
    let text = good.to_string();
    let decoder = text.find("\"decoder\":{").expect("a decoder") + 11;
    for (from, bytes) in [
        (decoder, "x"),
        (decoder, "\0"),
        (decoder, "\\ud800"),
        (0, ""),
    ] {
        let changed = format!("{}{bytes}{}", &text[..from], &text[from..text.len() - 1]);
        std::fs::write(&path, changed)?;
        let message = talk(room.path()).expect_err("no JSON");
        assert!(
            message.starts_with("[DIR]/tokenizer.json: line 1: expected a tokenizer"),
            "{message}"
        );
    }
    Ok(())
}

#[test]
fn templates_that_fail_say_so() -> Result<()> {
    for (template, said) in [
        ("{% for m in messages %}", "a template that renders"),
        (
            "{{ messages | nothing_of_the_kind }}",
            "nothing_of_the_kind",
        ),
        ("{{ messages[9].content.x }}", "a template that renders"),
        (
            "{% include '../../etc/passwd' %}",
            "a template that renders",
        ),
        ("hello", "the template drops it"),
        (
            "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
            "a template that renders",
        ),
    ] {
        let room = copy(&fixture("tiny-llama2"))?;
        std::fs::write(room.path().join("chat_template.jinja"), template)?;
        let message = talk(room.path()).expect_err(template);
        assert!(
            message.starts_with("[DIR]/chat_template.jinja: chat template: expected")
                && message.contains(said),
            "{template}: {message}"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn a_changed_tokenizer_is_no_panic(at in any::<Index>(), odd in odd(), which in 0usize..2) {
        let room = copy(&fixture("tiny-llama2")).expect("a copy");
        let path = room.path().join(["tokenizer.json", "tokenizer_config.json"][which]);
        let mut good: Value = serde_json::from_slice(&std::fs::read(&path).expect("bytes")).expect("JSON");
        if let Some(vocab) = good.pointer_mut("/model/vocab").and_then(Value::as_object_mut) {
            // else nearly every place is one of these
            vocab.retain(|token, _| token.len() < 2 || token.starts_with('<'));
        }
        std::fs::write(&path, replaced(&good, at, odd).0.to_string()).expect("write");
        let _ = talk(room.path());
    }

    #[test]
    fn changed_bytes_are_no_panic(changes in changes(), which in 0usize..3) {
        let room = copy(&fixture("tiny-llama2")).expect("a copy");
        let file = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"][which];
        let path = room.path().join(file);
        let good = std::fs::read(&path).expect("bytes");
        std::fs::write(&path, changed(&good, usize::MAX, &changes)).expect("write");
        let _ = talk(room.path());
    }

    #[test]
    fn templates_of_any_pieces_are_no_panic(pieces in vec(prop::sample::select(vec![
        "{{", "}}", "{%", "%}", " for m in messages ", " endfor ", " if ", " endif ", "m", "messages", "[0]",
        ".content", " | trim ", " | tojson ", "bos_token", "'", "\"", " set x = ", " ~ ", "-1", "loop.index",
        "raise_exception('no')", "strftime_now('%d')", "\u{1f600}", ".split(',')", "[::-1]", "{#", "#}", "range(9)",
    ]), 0..14)) {
        let room = copy(&fixture("tiny-llama2")).expect("a copy");
        std::fs::write(room.path().join("chat_template.jinja"), pieces.concat()).expect("write");
        let _ = talk(room.path());
    }
}
