//! Tokenizers made from the metadata of a GGUF cut text as those they were written from, and
//! as llama.cpp does with that metadata (`tests/interop/llama_cpp_tokenizers.py` asked it).

use super::import;
use super::written::Written;
use anyhow::{Context, Result, anyhow};
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use candle_core::{DType, Device, Tensor};
use reptune_recipes::{Chat, Message};
use reptune_tests::fixture;
use serde_json::{Value as Json, json};
use std::path::Path;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{DecoderWrapper, Model, NormalizerWrapper, PostProcessorWrapper, TokenizerImpl};

const TEXTS: [&str; 5] = [
    "[INST] Is it true that 1234567 is the year's number? [/INST]",
    "  two  spaces,\n\n\ttabs and DON'T they'll\r\n ",
    "ö ß é \u{1f600} \u{4f60}\u{597d} e\u{301}",
    "a<s>b</s> <</SYS>>",
    "The residual stream is a table. It's $5+$6=~11|12 <^>.",
];

/// Byte-level BPE with merges, as the fixture's `tokenizer.json` is without them.
fn trained(directory: &Path, pre_tokenizer: &Json, ignore_merges: bool) -> Result<usize> {
    let mut trainer = BpeTrainer::builder()
        .vocab_size(700)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    type Trained =
        TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, DecoderWrapper>;
    let mut bpe = Trained::new(BPE::default());
    bpe.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    let corpus = concat!(
        include_str!("../../../README.md"),
        include_str!("../../../DESIGN.md")
    );
    bpe.train(&mut trainer, corpus.lines().map(str::to_owned))
        .map_err(|e| anyhow!("{e}"))?;
    let model = serde_json::to_value(bpe.get_model())?;
    let path = directory.join("tokenizer.json");
    let mut json: Json = serde_json::from_slice(&std::fs::read(
        fixture("tiny-llama2").join("tokenizer.json"),
    )?)?;
    let count = bpe.get_model().get_vocab_size();
    json["model"]["merges"] = model["merges"].clone();
    json["model"]["vocab"] = model["vocab"].clone();
    json["model"]["ignore_merges"] = json!(ignore_merges);
    json["pre_tokenizer"] = pre_tokenizer.clone();
    let specials = ["<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"];
    for (i, token) in specials.into_iter().enumerate() {
        json["model"]["vocab"][token] = json!(count + i);
    }
    let added = json["added_tokens"]
        .as_array_mut()
        .map(std::mem::take)
        .unwrap_or_default();
    let added: Vec<Json> = added
        .into_iter()
        .take(specials.len())
        .enumerate()
        .map(|(i, mut token)| {
            token["id"] = json!(count + i);
            token
        })
        .collect();
    json["added_tokens"] = json!(added);
    json["post_processor"]["special_tokens"]["<s>"]["ids"] = json!([count]);
    std::fs::write(path, json.to_string())?;
    Ok(count + specials.len())
}

#[test]
fn byte_level_bpe_is_read_off_the_metadata() -> Result<()> {
    let words = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let cut = |patterns: &[&str]| {
        let split = |p: &&str| json!({"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": false});
        let mut all: Vec<Json> = patterns.iter().map(split).collect();
        all.push(words(false));
        json!({"type": "Sequence", "pretokenizers": all})
    };
    let llama_3 = cut(&[
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]);
    let digits = json!({"type": "Digits", "individual_digits": true});
    let smollm = json!({"type": "Sequence", "pretokenizers": [digits, words(true)]});
    for (pre, pre_tokenizer, ignore_merges) in [
        ("gpt-2", words(true), false),
        ("llama-bpe", llama_3.clone(), true),
        ("smaug-bpe", llama_3, false),
        ("smollm", smollm, false),
    ] {
        let room = tempfile::tempdir()?;
        for file in std::fs::read_dir(fixture("tiny-llama2"))? {
            let file = file?.path();
            std::fs::copy(
                &file,
                room.path().join(file.file_name().unwrap_or_default()),
            )?;
        }
        let count = trained(room.path(), &pre_tokenizer, ignore_merges)?;
        let mut written = Written::of(room.path())?;
        written
            .fields
            .insert("tokenizer.ggml.pre".into(), Value::String(pre.into()));
        for (which, id) in [("bos", count - 6), ("eos", count - 5)] {
            let key = format!("tokenizer.ggml.{which}_token_id");
            written.fields.insert(key, Value::U32(id as u32));
        }
        let rows = Tensor::ones((count, 32), DType::F32, &Device::Cpu)?;
        for name in ["token_embd.weight", "output.weight"] {
            written.tensors.insert(name.into(), rows.clone());
        }
        let place = tempfile::tempdir()?;
        let imported = import(&written.write(place.path(), |_| GgmlDType::F32)?)?;
        let (theirs, ours) = (Chat::load(room.path())?, Chat::load(&imported)?);
        for text in TEXTS {
            let ids = ours.encode(text)?;
            assert_eq!(ids, theirs.encode(text)?, "{pre}: {text:?}");
            assert_eq!(ours.decode(&ids)?, theirs.decode(&ids)?, "{pre}: {text:?}");
            assert!(ids.len() < text.len() + 1, "{pre}: merges act on {text:?}");
        }
        let messages = Message::conversation("Be honest.", "Is it true?");
        assert_eq!(
            ours.prompt(&messages)?,
            theirs.prompt(&messages)?,
            "{pre}: the template"
        );
        assert!(
            ours.stop.contains(&(count as u32 - 5)),
            "{pre}: {:?}",
            ours.stop
        );
    }
    Ok(())
}

/// A field as llama.cpp's converter writes it.
fn field(key: &str, json: &Json) -> Value {
    match json {
        Json::String(text) => Value::String(text.clone()),
        Json::Bool(set) => Value::Bool(*set),
        Json::Array(list) => Value::Array(list.iter().map(|v| field(key, v)).collect()),
        number if key == "scores" => Value::F32(number.as_f64().unwrap_or(f64::NAN) as f32),
        number if key == "token_type" => Value::I32(number.as_i64().unwrap_or(-1) as i32),
        number => Value::U32(number.as_u64().unwrap_or(u64::MAX) as u32),
    }
}

/// The chat of a GGUF with these fields of `tokenizer.ggml`, and with a chat template.
fn chat_of(fields: &Json, template: Option<&str>) -> Result<Chat> {
    let mut written = Written::of(&fixture("tiny-llama2"))?;
    let own = |key: &String| !key.starts_with("tokenizer.ggml.");
    written.fields.retain(|key, _| own(key));
    for (key, value) in fields.as_object().context("fields")? {
        let field = field(key, value);
        written
            .fields
            .insert(format!("tokenizer.ggml.{key}"), field);
    }
    if let Some(template) = template {
        let template = Value::String(template.to_owned());
        let key = "tokenizer.chat_template".to_owned();
        written.fields.insert(key, template);
    }
    let count = fields["tokens"].as_array().context("tokens")?.len();
    let rows = Tensor::ones((count, 32), DType::F32, &Device::Cpu)?;
    for name in ["token_embd.weight", "output.weight"] {
        written.tensors.insert(name.into(), rows.clone());
    }
    let room = tempfile::tempdir()?;
    Ok(Chat::load(&import(
        &written.write(room.path(), |_| GgmlDType::F32)?,
    )?)?)
}

/// What a script of `tests/interop` wrote.
fn said(file: &str) -> Result<Json> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/fixtures");
    Ok(serde_json::from_slice(&std::fs::read(path.join(file))?)?)
}

fn check_texts(kind: &str, chat: &Chat, texts: &Json) -> Result<()> {
    for said in texts.as_array().context("texts")? {
        let text = said["text"].as_str().context("text")?;
        let ids: Vec<u32> = serde_json::from_value(said["ids"].clone())?;
        assert_eq!(chat.encode(text)?, ids, "{kind}: {text:?}");
    }
    Ok(())
}

#[test]
fn llama_cpp_cuts_texts_as_we_do() -> Result<()> {
    let kinds = said("llama_cpp/tokenizers.json")?;
    let kinds = kinds.as_object().context("kinds")?;
    assert_eq!(kinds.len(), 4);
    for (kind, case) in kinds {
        check_texts(kind, &chat_of(&case["fields"], None)?, &case["texts"])?;
    }
    Ok(())
}

/// Unlike llama.cpp, which does not compose characters (`tests/interop/qwen_tokenizer.py`).
#[test]
fn transformers_cuts_texts_as_we_do_with_the_vocabulary_of_a_qwen() -> Result<()> {
    let said = said("qwen_tokenizer.json")?;
    let chat = chat_of(&said["fields"], said["template"].as_str())?;
    check_texts("qwen2", &chat, &said["texts"])?;
    let ids: Vec<u32> = serde_json::from_value(said["chat"].clone())?;
    let messages = Message::conversation("Be honest.", "Is it 12?");
    assert_eq!(chat.prompt(&messages)?, ids);
    Ok(())
}
