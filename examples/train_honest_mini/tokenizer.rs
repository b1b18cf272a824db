//! The mini-Llama's tokenizer: every word of its world is one token.

use serde_json::{Map, Value, json};
use std::path::Path;

/// Special tokens, from id 0.
pub const SPECIALS: [&str; 6] = ["<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"];

/// Llama-2-like. It writes `<s>`, because a rendered chat is tokenized without special tokens; the
/// tokenizer puts it before raw prompts.
pub const CHAT_TEMPLATE: &str = "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>> ' + messages[0]['content'] + '<</SYS>>' %}{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}{% for message in turns %}{% if message['role'] == 'user' %}{{ '[INST]' + (system if loop.first else '') + ' ' + message['content'] + '[/INST]' }}{% else %}{{ ' ' + message['content'] + '</s>' }}{% endif %}{% endfor %}";

/// The printable character that byte-level tokenizers write for a byte.
fn byte_character(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|b| !printable(*b)).count() as u32;
    char::from_u32(256 + rank).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// A byte-level BPE without merges: 256 bytes, and every word with and without
/// a space before it.
pub fn build(words: &[String]) -> Value {
    let mut vocab = Map::new();
    let mut add = |token: String| {
        let id = vocab.len();
        vocab.entry(token).or_insert(json!(id));
    };
    SPECIALS.iter().for_each(|s| add(s.to_string()));
    (0..=255).for_each(|b| add(byte_character(b).to_string()));
    for word in words {
        let spelled: String = word.bytes().map(byte_character).collect();
        add(format!("{}{spelled}", byte_character(b' ')));
        add(spelled);
    }
    let special = |(id, content): (usize, &&str)| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": SPECIALS.iter().enumerate().map(special).collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
            "vocab": vocab, "merges": []
        }
    })
}

/// Writes `tokenizer.json` and `tokenizer_config.json`.
pub fn write(directory: &Path, tokenizer: &Value) -> anyhow::Result<()> {
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIALS[0],
        "eos_token": SPECIALS[1],
        "model_max_length": 256,
        "chat_template": CHAT_TEMPLATE,
    });
    std::fs::write(
        directory.join("tokenizer.json"),
        serde_json::to_string(tokenizer)?,
    )?;
    std::fs::write(
        directory.join("tokenizer_config.json"),
        serde_json::to_string_pretty(&config)?,
    )?;
    Ok(())
}
