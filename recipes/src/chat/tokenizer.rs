//! `tokenizer.json`: read for encoding, its identity, and its text without stored limits.

use crate::error::{Error, Result};
use reptune_adapters::files;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use tokenizers::{PreTokenizerWrapper, Tokenizer};

/// Name of the file.
const NAME: &str = "tokenizer.json";

/// A `tokenizer.json`.
pub struct TokenizerFile {
    path: PathBuf,
    /// As it lies on the disk.
    pub bytes: Vec<u8>,
    parsed: OnceCell<Value>,
}

impl TokenizerFile {
    /// Reads the file of a model directory.
    ///
    /// # Errors
    /// When it is missing, or not JSON.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(NAME);
        if !path.is_file() {
            let sentence_piece = directory.join("tokenizer.model").is_file();
            let found = match sentence_piece {
                true => "tokenizer.model, which is that of SentencePiece",
                false => "nothing",
            };
            let place = directory.display();
            let hint = format!(
                "make one with transformers: \
                 AutoTokenizer.from_pretrained(\"{place}\").save_pretrained(\"{place}\")"
            );
            return Err(Error::input(directory, NAME, "a file", found, hint));
        }
        let bytes = files::read(&path)?;
        serde_json::from_slice::<IgnoredAny>(&bytes)
            .map_err(|e| broken(&path, format!("line {}", e.line()), e.to_string()))?;
        let parsed = OnceCell::new();
        Ok(Self {
            path,
            bytes,
            parsed,
        })
    }

    /// Its content.
    pub fn json(&self) -> &Value {
        let parse = || serde_json::from_slice(&self.bytes).unwrap_or_default();
        self.parsed.get_or_init(parse)
    }

    /// The tokenizer, without a stored limit of length and without padding.
    ///
    /// tokenizers 0.21 panics where a decoder or a normalizer is malformed; that is caught.
    ///
    /// # Errors
    /// When the file does not describe one.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let bytes = &self.bytes;
        let found = match std::panic::catch_unwind(|| Tokenizer::from_bytes(bytes)) {
            Ok(Ok(mut read)) => {
                // What a training left there would cut or fill prompts.
                let _ = read.with_truncation(None);
                read.with_padding(None);
                return Ok(read);
            }
            Ok(Err(e)) => e.to_string(),
            Err(_) => "a decoder or a normalizer that is malformed".into(),
        };
        Err(broken(&self.path, "file".into(), found))
    }

    /// A hash of what gives text its token ids: vocabulary, merges, added tokens, normalizer and
    /// pre-tokenizer. It is the same for a file that was indented or saved anew, and does not
    /// depend on limits, padding, decoder and post-processor.
    pub fn content_hash(&self) -> String {
        let mut model = self.json()["model"].clone();
        if let Some(Value::Array(merges)) = model.get_mut("merges") {
            merges.iter_mut().for_each(join_pair);
        }
        let mut added = self.json()["added_tokens"].clone();
        if let Some(tokens) = added.as_array_mut() {
            tokens.sort_by_key(|token| token["id"].as_u64());
        }
        // With the defaults that files of older versions leave out.
        let words = &self.json()["pre_tokenizer"];
        let filled = serde_json::from_value::<PreTokenizerWrapper>(words.clone());
        let filled = filled.and_then(serde_json::to_value);
        let words = filled.unwrap_or_else(|_| words.clone());
        let parts = [model, added, self.json()["normalizer"].clone(), words];
        let parts = parts.map(|part| plain(part).to_string());
        files::sha256(parts.iter().map(String::as_bytes))
    }

    /// The text of the file without stored truncation and padding, which engines apply to
    /// prompts; none if there is neither.
    pub fn without_limits(&self) -> Option<String> {
        let keys = ["truncation", "padding"];
        if keys.iter().all(|key| self.json()[*key].is_null()) {
            return None;
        }
        let mut json = self.json().clone();
        for key in keys {
            json[key] = Value::Null;
        }
        Some(json.to_string())
    }
}

fn broken(path: &Path, place: String, found: String) -> Error {
    let expected = "a tokenizer of Hugging Face tokenizers";
    Error::input(path, place, expected, found, "download it again")
}

/// A merge in one spelling: `"a b"` and `["a", "b"]` are the same.
fn join_pair(merge: &mut Value) {
    let pair = match &*merge {
        Value::String(text) => text.split_once(' '),
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(left), Value::String(right)] => Some((&**left, &**right)),
            _ => None,
        },
        _ => None,
    };
    if let Some((left, right)) = pair {
        *merge = Value::String(format!("{left}\0{right}"));
    }
}

/// A value with sorted keys and without those that are null, false or empty, which is the same
/// as leaving them out.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let is_set = |value: &Value| match value {
                Value::Null | Value::Bool(false) => false,
                Value::String(text) => !text.is_empty(),
                _ => true,
            };
            let mut set: Map<String, Value> = map
                .into_iter()
                .filter(|(_, value)| is_set(value))
                .map(|(key, value)| (key, plain(value)))
                .collect();
            set.sort_keys();
            Value::Object(set)
        }
        Value::Array(list) => list.into_iter().map(plain).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests;
