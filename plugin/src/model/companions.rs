//! The files next to the weights (configuration, tokenizer, chat template), corrected so that
//! engines read them. What is written for others holds these, and mistral.rs itself is given
//! these in place of the user's.
//!
//! mistral.rs 0.8.1 parses `tokenizer_config.json` into a fixed type and panics where a value has
//! another; it panics too where `eos_token` is not in the vocabulary. A `generation_config.json`
//! that it cannot parse it leaves out, and then a turn does not end.

use super::config::ModelConfig;
use crate::error::{Error, Result};
use candle_core::{DType, Device};
use mistralrs_core::ChatTemplate;
use mistralrs_core::layers::Llama3RotaryEmbedding;
use reptune_adapters::Error as Fault;
use reptune_adapters::files::{self, Staging};
use reptune_recipes::{Chat, TokenizerFile};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.json";
pub(crate) const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const GENERATION_CONFIG: &str = "generation_config.json";

/// The companions of a model directory.
pub struct Companions {
    directory: PathBuf,
    /// Those whose text is not that of the directory, by name.
    pub texts: BTreeMap<&'static str, String>,
    /// What was corrected, one sentence each.
    pub notes: Vec<String>,
}

impl Companions {
    /// Reads those of `directory`, whose `config.json` is `config`.
    ///
    /// # Errors
    /// When one is missing or broken, or cannot be corrected without another meaning.
    pub fn of(directory: &Path, config: &ModelConfig) -> Result<Self> {
        let mut all = Self {
            directory: directory.to_owned(),
            texts: BTreeMap::new(),
            notes: Vec::new(),
        };
        let text = pretty(&config.json);
        all.texts.insert(CONFIG, text);
        let tokenizer = TokenizerFile::read(directory)?;
        if let Some(text) = tokenizer.without_limits() {
            all.texts.insert(TOKENIZER, text);
            all.note(TOKENIZER, "the stored truncation or padding is left out");
        }
        let chat = Chat::load(directory)?;
        all.tokenizer_config(&chat)?;
        all.generation_config(&chat, &config.json)?;
        Ok(all)
    }

    fn note(&mut self, file: &str, what: &str) {
        self.notes.push(format!("{file}: {what}"));
    }

    /// The object in the file `name`; an empty one if there is no such file.
    fn object(&self, name: &str) -> Result<Map<String, Value>> {
        let path = self.directory.join(name);
        if !path.is_file() {
            return Ok(Map::new());
        }
        serde_json::from_slice(&files::read(&path)?).map_err(|e| {
            let line = format!("line {}", e.line());
            let hint = "fetch the file again";
            Error::model(path, line, "a JSON object", e.to_string(), hint)
        })
    }

    fn tokenizer_config(&mut self, chat: &Chat) -> Result<()> {
        let given = self.object(TOKENIZER_CONFIG)?;
        let mut kept = Map::new();
        for (key, value) in &given {
            let fits = |value: &Value| {
                let alone = json!({key: value});
                serde_json::from_value::<ChatTemplate>(alone).is_ok()
            };
            if fits(value) {
                kept.insert(key.clone(), value.clone());
                continue;
            }
            let wrong = |expected, hint| {
                let path = self.directory.join(TOKENIZER_CONFIG);
                let found = value.to_string().chars().take(80).collect::<String>();
                Error::model(path, format!("key `{key}`"), expected, found, hint)
            };
            match repaired(key, value).filter(fits) {
                Some(value) => {
                    kept.insert(key.clone(), value);
                    self.note(TOKENIZER_CONFIG, &format!("`{key}` is spelt plainly"));
                }
                None if key == "chat_template" => {
                    let hint = "put the template into chat_template.jinja";
                    return Err(wrong("a text, or named texts", hint));
                }
                None if key == "eos_token" && value.is_array() => {
                    let hint = "name all ids as `eos_token_id` in generation_config.json";
                    return Err(wrong("one token", hint));
                }
                None => self.note(TOKENIZER_CONFIG, &format!("`{key}` is left out: {value}")),
            }
        }
        let eos = &kept.get("eos_token").cloned().unwrap_or_default();
        let text = eos.as_str().or(eos["content"].as_str());
        if let Some(text) = text.filter(|text| chat.tokenizer().token_to_id(text).is_none()) {
            let what = format!("`eos_token` is left out: `{text}` is not in the vocabulary");
            kept.shift_remove("eos_token");
            self.note(TOKENIZER_CONFIG, &what);
        }
        if kept != given {
            self.texts.insert(TOKENIZER_CONFIG, pretty(&kept));
        }
        Ok(())
    }

    /// With the tokens that end a turn of `chat`, so that an engine ends at the same ones.
    fn generation_config(&mut self, chat: &Chat, config: &Value) -> Result<()> {
        let given = self.object(GENERATION_CONFIG)?;
        let mut kept = given.clone();
        kept.retain(|key, value| is_known_type(key, value));
        for key in given.keys().filter(|key| !kept.contains_key(*key)) {
            self.note(GENERATION_CONFIG, &format!("`{key}` is left out"));
        }
        if kept.is_empty() {
            kept.insert("bos_token_id".into(), config["bos_token_id"].clone());
        }
        // mistral.rs looks the text of an id up again.
        let is_found = |id: &u32| {
            let text = chat.tokenizer().decode(&[*id], false).unwrap_or_default();
            chat.tokenizer().token_to_id(&text) == Some(*id)
        };
        let (ends, lost): (Vec<u32>, Vec<u32>) = chat.stop.iter().copied().partition(is_found);
        if !lost.is_empty() {
            let what = format!("tokens {lost:?} end a turn here, but not in mistral.rs 0.8.1");
            self.note(GENERATION_CONFIG, &what);
        }
        let mut named = match &kept.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.clone(),
            Some(Value::Null) | None => Vec::new(),
            Some(id) => vec![(*id).clone()],
        };
        named.sort_by_key(|id| id.as_u64());
        if !ends.iter().map(|id| json!(id)).eq(named) {
            let ids = match ends.as_slice() {
                [one] => json!(one),
                all => json!(all),
            };
            kept.insert("eos_token_id".into(), ids);
            self.note(GENERATION_CONFIG, &format!("tokens {ends:?} end a turn"));
        }
        if kept != given {
            self.texts.insert(GENERATION_CONFIG, pretty(&kept));
        }
        Ok(())
    }

    /// Writes them to a directory that is being written, with the licence of the model.
    ///
    /// # Errors
    /// When a file cannot be read, or the disk is full.
    pub fn write(&self, to: &Staging) -> Result<()> {
        let io = |e| Fault::read(&self.directory, e);
        for entry in std::fs::read_dir(&self.directory).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let starts = ["tokenizer", "chat_template", "LICENSE", "NOTICE"];
            let is_named = matches!(&*name, GENERATION_CONFIG | "special_tokens_map.json")
                || starts.iter().any(|start| name.starts_with(start));
            if path.is_file() && is_named {
                to.copy(&path)?;
            }
        }
        Ok(self.overwrite(to)?)
    }

    /// Writes the corrected texts to a directory that is being written.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn overwrite(&self, to: &Staging) -> reptune_adapters::Result<()> {
        for (name, text) in &self.texts {
            let path = to.path().join(name);
            let written = std::fs::write(&path, text);
            written.map_err(|e| Fault::write(to.shown(&path), e))?;
        }
        Ok(())
    }
}

/// A value of `tokenizer_config.json` in the spelling that mistral.rs 0.8.1 parses.
fn repaired(key: &str, value: &Value) -> Option<Value> {
    let text = |value: &Value| match value {
        Value::String(_) => Some(value.clone()),
        other => other.get("content").cloned(),
    };
    match (key, value) {
        ("additional_special_tokens", Value::Array(tokens)) => tokens.iter().map(text).collect(),
        ("added_tokens_decoder", Value::Object(tokens)) => {
            let mut tokens = tokens.clone();
            for token in tokens.values_mut() {
                let plain = json!(token["special"] != json!(true));
                for flag in ["lstrip", "rstrip", "single_word", "special", "normalized"] {
                    let default = if flag == "normalized" {
                        &plain
                    } else {
                        &json!(false)
                    };
                    if !token[flag].is_boolean() {
                        token[flag] = default.clone();
                    }
                }
            }
            Some(Value::Object(tokens))
        }
        ("chat_template", Value::Object(named)) => {
            let named = named.iter();
            Some(
                named
                    .map(|(name, template)| json!({"name": name, "template": template}))
                    .collect(),
            )
        }
        (_, Value::Object(token)) if key.ends_with("_token") => token.get("content").cloned(),
        _ => None,
    }
}

/// Whether a value of `generation_config.json` has the type that mistral.rs 0.8.1 parses.
fn is_known_type(key: &str, value: &Value) -> bool {
    let id = |value: &Value| value.as_u64().is_some_and(|id| u32::try_from(id).is_ok());
    value.is_null()
        || match key {
            "bos_token_id" | "eos_token_id" => {
                id(value) || value.as_array().is_some_and(|ids| ids.iter().all(id))
            }
            "do_sample" => value.is_boolean(),
            "temperature" | "top_p" | "min_p" | "repetition_penalty" => value.is_number(),
            "top_k" | "max_new_tokens" | "max_length" => value.is_u64(),
            _ => true,
        }
}

fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// Checks that mistral.rs 0.8.1 itself parses the configuration of a Llama.
///
/// # Errors
/// With what it says.
pub(crate) fn engine_reads(config: &ModelConfig) -> Result<()> {
    if config.json["model_type"] != "llama" {
        return Ok(());
    }
    parsed_by_engine(&config.json).map_err(|found| {
        let (place, expected) = ("content", "what mistral.rs 0.8.1 parses");
        Error::model(&config.path, place, expected, found, "fetch the file again")
    })
}

/// The same for the text of any `config.json` of a Llama.
pub(super) fn parsed_by_engine(json: &Value) -> std::result::Result<(), String> {
    // `models::llama::Config` is private by name; inference names it.
    fn parse<C: DeserializeOwned>(
        _: impl Fn(DType, &C, &Device, bool) -> candle_core::Result<Llama3RotaryEmbedding>,
        json: &Value,
    ) -> serde_json::Result<C> {
        serde_json::from_value(json.clone())
    }
    let parsed = parse(Llama3RotaryEmbedding::new_llama3, json);
    parsed.map(|_| ()).map_err(|e| e.to_string())
}
