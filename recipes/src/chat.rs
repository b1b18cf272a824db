//! From text to token ids: the tokenizer and chat template of a model directory.

use crate::error::{Error, Result};
use minijinja::{Environment, context};
use reptune_adapters::files;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tokenizers::Tokenizer;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Its text.
    pub content: String,
}

impl Message {
    /// A user message, after a system message unless `system` is empty.
    pub fn conversation(system: &str, user: &str) -> Vec<Self> {
        let message = |role: &str, content: &str| Self {
            role: role.into(),
            content: content.into(),
        };
        let mut messages = Vec::new();
        if !system.is_empty() {
            messages.push(message("system", system));
        }
        messages.push(message("user", user));
        messages
    }
}

/// Reads a `tokenizer.json`.
///
/// tokenizers 0.21 panics where a decoder or a normalizer is malformed. Text that is not JSON is
/// reported before, with its line; the rest is caught.
fn read_tokenizer(path: &Path) -> Result<Tokenizer> {
    let broken = |place: String, found: String| {
        let expected = "a tokenizer of Hugging Face tokenizers";
        Error::input(path, place, expected, found, "download it again")
    };
    let bytes = files::read(path)?;
    serde_json::from_slice::<IgnoredAny>(&bytes)
        .map_err(|e| broken(format!("line {}", e.line()), e.to_string()))?;
    match std::panic::catch_unwind(|| Tokenizer::from_bytes(&bytes)) {
        Ok(read) => read.map_err(|e| broken("file".into(), e.to_string())),
        Err(_) => {
            let found = "a decoder or a normalizer that is malformed";
            Err(broken("file".into(), found.into()))
        }
    }
}

/// Name of the chat template in error messages.
const TEMPLATE: &str = "<string>";

/// Compiles a chat template, with the functions and methods that templates of Hugging Face
/// transformers use.
fn compiled(template: String) -> std::result::Result<Environment<'static>, String> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function(
        "raise_exception",
        |message: String| -> std::result::Result<String, minijinja::Error> {
            Err(minijinja::Error::new(
                minijinja::ErrorKind::InvalidOperation,
                message,
            ))
        },
    );
    // Templates that print today's date would make prompts differ from day to day.
    environment.add_function("strftime_now", |_format: String| {
        String::from("26 Jul 2024")
    });
    let added = environment.add_template_owned(TEMPLATE, template);
    added.map_err(|e| format!("{e:#}"))?;
    Ok(environment)
}

/// A tokenizer with a chat template.
pub struct Chat {
    directory: PathBuf,
    tokenizer: Tokenizer,
    /// The compiled template, or what is wrong with it.
    template: std::result::Result<Environment<'static>, String>,
    bos: String,
    eos: String,
    /// Tokens that end a generation.
    pub stop: Vec<u32>,
}

impl Chat {
    /// Reads `tokenizer.json`, the chat template (`chat_template.jinja`, or that of
    /// `tokenizer_config.json`) and the end-of-text tokens of a model directory.
    pub fn load(directory: &Path) -> Result<Self> {
        let directory = match directory.parent() {
            Some(parent) if directory.is_file() => parent,
            _ => directory,
        };
        let tokenizer = read_tokenizer(&directory.join("tokenizer.json"))?;
        let json = |name: &str| -> Result<Value> {
            let path = directory.join(name);
            if !path.is_file() {
                return Ok(Value::Null);
            }
            serde_json::from_slice(&files::read(&path)?).map_err(|e| {
                let (place, found) = (format!("line {}", e.line()), e.to_string());
                Error::input(&path, place, "JSON", found, "download it again")
            })
        };
        let config = json("tokenizer_config.json")?;
        let token = |key: &str| match &config[key] {
            Value::String(s) => s.clone(),
            other => other["content"].as_str().unwrap_or_default().to_owned(),
        };
        let jinja = directory.join("chat_template.jinja");
        let template = match &config["chat_template"] {
            _ if jinja.is_file() => {
                Some(String::from_utf8_lossy(&files::read(&jinja)?).into_owned())
            }
            Value::Array(named) => {
                let default = named.iter().find(|t| t["name"] == "default");
                let default = default.and_then(|t| t["template"].as_str());
                default.map(str::to_owned)
            }
            other => other.as_str().map(str::to_owned),
        };
        let eos = token("eos_token");
        let mut stop: Vec<u32> = Vec::new();
        for file in ["generation_config.json", "config.json"] {
            let tokens = &json(file)?["eos_token_id"];
            let ids = match tokens {
                Value::Null => &[],
                Value::Array(ids) => ids.as_slice(),
                one => std::slice::from_ref(one),
            };
            for id in ids {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                stop.push(id.ok_or_else(|| {
                    let (path, key) = (directory.join(file), "key `eos_token_id`");
                    let (expected, found) = ("a token id, or several", tokens.to_string());
                    Error::input(path, key, expected, found, "download it again")
                })?);
            }
        }
        stop.extend(tokenizer.token_to_id(&eos));
        stop.sort_unstable();
        stop.dedup();
        Ok(Self {
            directory: directory.to_owned(),
            tokenizer,
            template: template.map_or_else(|| Err("none".into()), compiled),
            bos: token("bos_token"),
            eos,
            stop,
        })
    }

    /// Renders a conversation up to where the assistant would answer.
    ///
    /// # Errors
    /// When there is no template, it fails, or it drops the last message.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let text = self.fill(messages, "generation")?;
        if let Some(last) = messages.last().filter(|m| !text.contains(m.content.trim())) {
            let expected = format!("the message `{}` in the rendered text", last.content);
            let hint = "the template drops the prompt; check the roles or the template";
            return Err(self.wrong("chat template", expected, format!("`{text}`"), hint));
        }
        Ok(text)
    }

    fn fill(&self, messages: &[Message], purpose: &str) -> Result<String> {
        let failed = |found: String| {
            let hint = "use raw prompts, or correct the template";
            self.wrong("chat template", "a template that renders", found, hint)
        };
        let environment = self.template.as_ref().map_err(|e| failed(e.clone()))?;
        let context = context! {
            messages => messages,
            add_generation_prompt => purpose == "generation",
            bos_token => self.bos,
            eos_token => self.eos,
        };
        let template = environment.get_template(TEMPLATE);
        template
            .and_then(|template| template.render(context))
            .map_err(|e| failed(format!("{e:#}")))
    }

    /// Token ids of raw text, with the special tokens its tokenizer adds.
    ///
    /// # Errors
    /// When the tokenizer fails, or the text is empty.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode_fast(text, self.adds_special(text));
        let encoding = encoding.map_err(|e| self.not_encoded(text, &*e))?;
        if encoding.get_ids().is_empty() {
            let (expected, found) = ("at least one token", "an empty prompt");
            return Err(self.wrong("prompt", expected, found, "give a prompt"));
        }
        Ok(encoding.get_ids().to_vec())
    }

    fn adds_special(&self, text: &str) -> bool {
        self.bos.is_empty() || !text.starts_with(&self.bos)
    }

    fn not_encoded(&self, text: &str, cause: &dyn std::error::Error) -> Error {
        let hint = format!("the text was `{text}`");
        self.wrong("tokenizer", "a text it can encode", cause.to_string(), hint)
    }

    /// `place` in the model's directory holds `found` instead of `expected`.
    fn wrong(
        &self,
        place: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
        hint: impl Into<String>,
    ) -> Error {
        Error::input(&self.directory, place, expected, found, hint)
    }

    /// Where in [`Chat::prompt`] the token stands that holds the text before byte
    /// `at` of the last message: the last one that starts before it.
    ///
    /// # Errors
    /// As [`Chat::prompt`], or when no token starts before that byte.
    pub fn token_before(&self, messages: &[Message], at: usize) -> Result<usize> {
        let text = self.render(messages)?;
        let content = messages.last().map_or("", |m| m.content.as_str());
        // Templates may trim a message; `render` has made sure that the rest is there.
        let trimmed = content.trim();
        let cut = content.len() - content.trim_start().len();
        let start = text.rfind(trimmed).unwrap_or_default();
        let at = start + at.saturating_sub(cut).min(trimmed.len());
        let encoding = self
            .tokenizer
            .encode(text.as_str(), self.adds_special(&text));
        let encoding = encoding.map_err(|e| self.not_encoded(&text, &*e))?;
        // Tokens that the tokenizer adds by itself span nothing.
        let before = |&(from, to): &(usize, usize)| from < at && from < to;
        let found = encoding.get_offsets().iter().rposition(before);
        found.ok_or_else(|| {
            let found = format!("none before byte {at} of `{text}`");
            let hint = "put the marker after some text";
            self.wrong("marker", "a token before it", found, hint)
        })
    }

    /// Token ids of a conversation up to where the assistant would answer. A
    /// begin-of-text token is there once, whether the template or the tokenizer gives it.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.encode(&self.render(messages)?)
    }

    /// Text of token ids, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, true).map_err(|e| {
            let hint = "the model's vocabulary may be larger than its tokenizer's";
            self.wrong("tokenizer", "tokens it can decode", e.to_string(), hint)
        })
    }

    /// The one token with which the assistant's answer `label` starts after `messages`.
    ///
    /// # Errors
    /// When the label is more than one token there.
    pub fn label_token(&self, messages: &[Message], label: &str) -> Result<u32> {
        let prompt = self.prompt(messages)?;
        let mut answered = messages.to_vec();
        answered.push(Message {
            role: "assistant".into(),
            content: label.into(),
        });
        let full = self.encode(&self.fill(&answered, "training")?)?;
        let rest = full.strip_prefix(prompt.as_slice()).unwrap_or_default();
        let first = self.decode(rest.get(..1).unwrap_or_default())?;
        if first.trim() != label {
            let found = format!("`{first}` as the first of {} tokens", rest.len());
            let hint = "choose labels that the tokenizer knows as one token, such as A and B";
            return Err(self.wrong(&format!("label `{label}`"), "a single token", found, hint));
        }
        Ok(rest[0])
    }
}
