//! `tokenizer.json` and `tokenizer_config.json` from the metadata of a GGUF model.
//!
//! Two kinds of tokenizer are known: byte-level BPE with its merges (`gpt2`), and the
//! pieces of SentencePiece (`llama`), whose merges follow from their scores.

use super::file::GgufModel;
use crate::error::Result;
use reptune_adapters::formats::gguf::Value as Field;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// How Llama 3 cuts text into words.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How llama.cpp cuts text where the file does not say, one pattern after the other.
const DEFAULT: [&str; 4] = [
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
];

/// What a token is, by the numbers of `tokenizer.ggml.token_type`.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const DEFINED: i64 = 4;

impl GgufModel {
    /// `tokenizer_config.json`, ready to be written.
    pub(super) fn tokenizer_config(&self) -> Result<Value> {
        let tokens = self.texts("tokenizer.ggml.tokens")?;
        let special = |which: &str| tokens.get(self.token_id(which)? as usize);
        let template = self.value("tokenizer.chat_template");
        Ok(json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": special("bos"),
            "eos_token": special("eos"),
            "chat_template": template.and_then(|t| t.to_string().ok()),
        }))
    }

    /// `tokenizer.json`, ready to be written.
    pub(super) fn tokenizer(&self) -> Result<Value> {
        let tokens = self.texts("tokenizer.ggml.tokens")?;
        let kind = self.text("tokenizer.ggml.model")?;
        let mut vocab = Map::new();
        for (id, token) in tokens.iter().enumerate() {
            vocab.insert((*token).to_owned(), json!(id));
        }
        if vocab.len() != tokens.len() {
            let found = format!("{} of {}", vocab.len(), tokens.len());
            return Err(self.wrong("tokenizer.ggml.tokens", "different tokens", found));
        }
        let rows = self.vocabulary()?;
        if tokens.len() != rows {
            let expected = format!("{rows} tokens, as many as embeddings");
            let found = tokens.len().to_string();
            return Err(self.wrong("tokenizer.ggml.tokens", &expected, found));
        }
        let types = self.types(tokens.len())?;
        let typed = tokens.iter().zip(&types).enumerate();
        let added = typed
            .filter(|(_, (_, t))| added(**t))
            .map(|(id, (token, t))| {
                json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": *t != DEFINED,
                })
            });
        let added: Vec<Value> = added.collect();
        let parts = match kind {
            "gpt2" => self.byte_level(vocab, &types)?,
            "llama" => self.pieces(&tokens, vocab)?,
            other => {
                let found = format!("`{other}`");
                let known = "`gpt2` or `llama`; else put the model's tokenizer.json next to it";
                return Err(self.wrong("tokenizer.ggml.model", known, found));
            }
        };
        let bos = self.token_id("bos").map(|id| id as usize);
        let bos = bos.and_then(|id| Some((id, *tokens.get(id)?)));
        let key = "tokenizer.ggml.add_bos_token";
        let wrong = |_| self.wrong(key, "true or false", "another value".into());
        let adds = self.value(key).map(|v| v.to_bool().map_err(wrong));
        let adds = adds.unwrap_or(Ok(parts.starts))?;
        let start = bos.filter(|_| adds).map(|(id, token)| {
            json!({
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
            })
        });
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": parts.normalizer, "pre_tokenizer": parts.pre_tokenizer,
            "post_processor": start, "decoder": parts.decoder, "model": parts.model,
        }))
    }

    fn types(&self, count: usize) -> Result<Vec<i64>> {
        let key = "tokenizer.ggml.token_type";
        let Some(value) = self.value(key) else {
            return Ok(vec![1; count]);
        };
        let list = value.to_vec().ok().filter(|l| l.len() == count);
        let expected = format!("{count} numbers");
        let list = list.ok_or_else(|| self.wrong(key, &expected, "another list".into()))?;
        let number = |v: &Field| v.to_i32().map_or(1, i64::from);
        Ok(list.iter().map(number).collect())
    }

    /// Merges that text can ask for. Those of special tokens, which are cut out before, are
    /// left out: a converter writes one where the tokenizer has none, as no list may be empty.
    fn merges(&self, vocab: &Map<String, Value>, types: &[i64]) -> Result<Vec<&str>> {
        const MERGES: &str = "tokenizer.ggml.merges";
        let kind = |token: &str| {
            let id = vocab.get(token)?.as_u64()?;
            types.get(usize::try_from(id).ok()?).copied()
        };
        let mut taken = Vec::new();
        for merge in self.texts(MERGES)? {
            let pair = merge.split_once(' ');
            let kinds = pair.and_then(|(left, right)| Some([kind(left)?, kind(right)?]));
            match (pair, kinds) {
                (Some(_), Some(kinds)) if kinds.iter().any(|k| added(*k)) => {}
                (Some((left, right)), Some(_)) if vocab.contains_key(&[left, right].concat()) => {
                    taken.push(merge);
                }
                _ => {
                    let expected = "two tokens that are a token together";
                    return Err(self.wrong(MERGES, expected, format!("`{merge}`")));
                }
            }
        }
        Ok(taken)
    }

    /// Byte-level BPE.
    fn byte_level(&self, vocab: Map<String, Value>, types: &[i64]) -> Result<Parts> {
        let merges = self.merges(&vocab, types)?;
        let pre = self.optional("tokenizer.ggml.pre", Self::text)?;
        let pre = pre.unwrap_or("default");
        let llama_3 = matches!(pre, "llama-bpe" | "llama3" | "llama-v3");
        let qwen = matches!(pre, "qwen2" | "deepseek-r1-qwen");
        let words = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
        let cut = |patterns: &[&str]| {
            let mut all: Vec<Value> = patterns
                .iter()
                .map(|regex| {
                    json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
                })
                .collect();
            all.push(words(false));
            json!({"type": "Sequence", "pretokenizers": all})
        };
        let pre_tokenizer = match pre {
            _ if llama_3 => cut(&[LLAMA_3]),
            "smaug-bpe" | "dbrx" => cut(&[LLAMA_3]),
            // As Llama 3, but every digit alone.
            _ if qwen => cut(&[&LLAMA_3.replace("{1,3}", "")]),
            "default" => cut(&DEFAULT),
            "gpt-2" | "mpt" | "olmo" | "jais" => words(true),
            // Every digit alone, then words as in GPT-2.
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone"
            | "minerva-7b" => json!({"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": true}, words(true)
            ]}),
            other => {
                let known = "llama-bpe, qwen2, deepseek-r1-qwen, smaug-bpe, dbrx, smollm, starcoder, refact, command-r, \
                     codeshell, exaone, minerva-7b, gpt-2, mpt, olmo, jais or default; else put \
                     the model's tokenizer.json next to it";
                return Err(self.wrong("tokenizer.ggml.pre", known, format!("`{other}`")));
            }
        };
        Ok(Parts {
            starts: llama_3,
            // A GGUF does not say so, and llama.cpp leaves it out, but transformers composes
            // characters first.
            normalizer: if qwen {
                json!({"type": "NFC"})
            } else {
                Value::Null
            },
            pre_tokenizer,
            decoder: words(true),
            model: json!({
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": llama_3, "vocab": vocab, "merges": merges,
            }),
        })
    }

    /// SentencePiece's BPE: the pair whose union has the best score is merged first.
    fn pieces(&self, tokens: &[&str], vocab: Map<String, Value>) -> Result<Parts> {
        let key = "tokenizer.ggml.scores";
        let list = self.value(key).and_then(|v| v.to_vec().ok());
        let scores = list.map(|l| l.iter().filter_map(|s| s.to_f32().ok()).collect());
        let scores: Option<Vec<f32>> = scores.filter(|s: &Vec<f32>| s.len() == tokens.len());
        let scores = scores.ok_or_else(|| {
            let expected = format!("{} numbers", tokens.len());
            self.wrong(key, &expected, "another list".into())
        })?;
        let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(i, t)| (*t, i)).collect();
        let mut merges: Vec<(usize, usize, usize)> = Vec::new(); // left, right, both
        for (id, token) in tokens.iter().enumerate() {
            let cuts = token.char_indices().skip(1);
            let cuts = cuts.map(|(at, _)| token.split_at(at));
            let pairs = cuts.filter_map(|(l, r)| Some((*ids.get(l)?, *ids.get(r)?, id)));
            let mut all: Vec<_> = pairs.collect();
            all.sort_unstable();
            merges.extend(all);
        }
        // stable: of equal scores the earlier piece comes first
        merges.sort_by(|a, b| scores[b.2].total_cmp(&scores[a.2]));
        let merges = merges.iter();
        let merges = merges.map(|(l, r, _)| format!("{} {}", tokens[*l], tokens[*r]));
        let merges: Vec<String> = merges.collect();
        let prefix = self.value("tokenizer.ggml.add_space_prefix");
        let prefix = prefix.is_none_or(|value| value.to_bool().unwrap_or(true));
        let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let normalizer = match prefix {
            true => {
                json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]})
            }
            false => space,
        };
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let unknown = self.token_id("unknown").unwrap_or(0) as usize;
        Ok(Parts {
            starts: true,
            normalizer,
            pre_tokenizer: Value::Null,
            decoder: json!({"type": "Sequence", "decoders": decoders}),
            model: json!({
                "type": "BPE", "dropout": null, "unk_token": tokens.get(unknown),
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
                "byte_fallback": true, "ignore_merges": false, "vocab": vocab, "merges": merges,
            }),
        })
    }
}

/// Whether tokens of this type are cut out of a text before the rest is.
fn added(kind: i64) -> bool {
    matches!(kind, UNKNOWN | CONTROL | DEFINED)
}

/// What differs from kind to kind.
struct Parts {
    /// Whether llama.cpp puts a begin-of-text token where the file does not say.
    starts: bool,
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
}
