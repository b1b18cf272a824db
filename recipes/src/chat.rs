//! From text to token ids: the tokenizer and chat template of a model directory.

mod template;
mod tokenizer;

pub use tokenizer::TokenizerFile;

use crate::error::{Error, Result};
use reptune_adapters::files;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use template::Template;
use tokenizers::{Encoding, Tokenizer};

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

/// The special tokens of a `tokenizer_config.json`: texts, or objects with their content.
fn special_tokens(config: &Value) -> BTreeMap<String, String> {
    let known =
        ["bos", "eos", "unk", "pad", "sep", "cls", "mask"].map(|name| format!("{name}_token"));
    let token = |key: String| {
        let value = &config[&key];
        let text = value.as_str().or(value["content"].as_str())?.to_owned();
        Some((key, text))
    };
    known.into_iter().filter_map(token).collect()
}

/// Tokens that end a turn in published models. A template that writes one of them ends its turns
/// with it, whatever `eos_token` says. mistral.rs stops at the same ones.
const TURN_ENDS: [&str; 5] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|end_of_text|>",
    "<|end|>",
];

/// A tokenizer with a chat template.
pub struct Chat {
    directory: PathBuf,
    tokenizer: Tokenizer,
    /// The compiled template, or what is wrong with it.
    template: std::result::Result<Template, String>,
    /// Special tokens by the names that templates use, such as `bos_token`.
    special: BTreeMap<String, String>,
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
        let tokenizer = TokenizerFile::read(directory)?.tokenizer()?;
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
        let special = special_tokens(&config);
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
        let written = |end: &&str| template.as_ref().is_some_and(|t| t.contains(*end));
        let ends = special.get("eos_token").map(String::as_str);
        let ends = ends
            .into_iter()
            .chain(TURN_ENDS.into_iter().filter(written));
        stop.extend(ends.filter_map(|end| tokenizer.token_to_id(end)));
        stop.sort_unstable();
        stop.dedup();
        Ok(Self {
            directory: directory.to_owned(),
            tokenizer,
            template: template.map_or_else(|| Err("none".into()), |t| Template::compile(&t)),
            special,
            stop,
        })
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Renders a conversation up to where the assistant would answer, as transformers'
    /// `apply_chat_template` does. Where a template refuses a system message, its text goes to
    /// the beginning of the first user message.
    ///
    /// # Errors
    /// When there is no template, it fails, or it drops the system or the last message.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let refused = match self.fill(messages, true) {
            Ok(text) => return self.whole(messages, text),
            Err(refused) => refused,
        };
        let [system, user, rest @ ..] = messages else {
            return Err(refused);
        };
        if system.role != "system" || user.role != "user" {
            return Err(refused);
        }
        let mut user = user.clone();
        user.content = format!("{}\n\n{}", system.content, user.content);
        let messages = [&[user], rest].concat();
        let text = self.fill(&messages, true).map_err(|_| refused)?;
        self.whole(&messages, text)
    }

    /// `text`, if a template that rendered `messages` dropped neither the first nor the last.
    fn whole(&self, messages: &[Message], text: String) -> Result<String> {
        let first = messages.first().filter(|m| m.role == "system");
        let mut needed = first.into_iter().chain(messages.last());
        match needed.find(|m| !text.contains(m.content.trim())) {
            None => Ok(text),
            Some(dropped) => {
                let (role, content) = (&dropped.role, &dropped.content);
                let expected = format!("the {role} message `{content}` in the rendered text");
                let hint = "the template drops it; check the roles, or correct the template";
                Err(self.wrong("chat template", expected, format!("`{text}`"), hint))
            }
        }
    }

    fn fill(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let template = self.template.as_ref().map_err(Clone::clone);
        let text = template.and_then(|t| t.render(messages, add_generation_prompt, &self.special));
        text.map_err(|found| {
            let hint = "use raw prompts, or correct the template";
            self.wrong("chat template", "a template that renders", found, hint)
        })
    }

    /// Token ids of raw text that a model is to continue: with the special tokens that the
    /// tokenizer puts before it, such as a begin-of-text token, but none behind it.
    ///
    /// # Errors
    /// When the tokenizer fails, or the text is empty.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let bos = self.special.get("bos_token").filter(|bos| !bos.is_empty());
        let adds = bos.is_none_or(|bos| !text.starts_with(bos));
        let encoding = self.tokens(text, adds)?;
        let added = encoding.get_special_tokens_mask().iter().rev();
        let behind = added.take_while(|added| **added == 1).count();
        let ids = &encoding.get_ids()[..encoding.len() - behind];
        match ids {
            [] => {
                let (expected, found) = ("at least one token", "an empty prompt");
                Err(self.wrong("prompt", expected, found, "give a prompt"))
            }
            ids => Ok(ids.to_vec()),
        }
    }

    fn tokens(&self, text: &str, adds_special: bool) -> Result<Encoding> {
        let encoding = self.tokenizer.encode(text, adds_special);
        encoding.map_err(|e| {
            let hint = format!("the text was `{text}`");
            self.wrong("tokenizer", "a text it can encode", e.to_string(), hint)
        })
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
        let encoding = self.tokens(&text, false)?;
        // Tokens that the tokenizer adds by itself span nothing.
        let before = |&(from, to): &(usize, usize)| from < at && from < to;
        let found = encoding.get_offsets().iter().rposition(before);
        found.ok_or_else(|| {
            let found = format!("none before byte {at} of `{text}`");
            let hint = "put the marker after some text";
            self.wrong("marker", "a token before it", found, hint)
        })
    }

    /// Token ids of a conversation up to where the assistant would answer: those of transformers'
    /// `apply_chat_template(tokenize=True)`. The template alone says whether a begin-of-text
    /// token stands there.
    pub fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let ids = self.tokens(&self.render(messages)?, false)?;
        Ok(ids.get_ids().to_vec())
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
        let after = |text: &str| -> Result<Vec<u32>> {
            let ids = self.tokens(text, false)?;
            let after = ids.get_ids().strip_prefix(prompt.as_slice());
            Ok(after.unwrap_or_default().to_vec())
        };
        let answer = Message {
            role: "assistant".into(),
            content: label.into(),
        };
        // What the template writes for the answer; templates whose prompts end in `<think>` or
        // a blank do not write that there, and the answer follows the prompt itself.
        let full = self.fill(&[messages, &[answer]].concat(), false)?;
        let mut rest = after(&full)?;
        if rest.is_empty() {
            rest = after(&(self.render(messages)? + label))?;
        }
        if rest.is_empty() {
            rest = self.tokens(label, false)?.get_ids().to_vec();
        }
        let first = self.decode(rest.get(..1).unwrap_or_default())?;
        if first.trim() != label {
            let found = format!("`{first}` as the first of {} tokens", rest.len());
            let hint = "choose labels that the tokenizer knows as one token, such as A and B";
            return Err(self.wrong(&format!("label `{label}`"), "a single token", found, hint));
        }
        Ok(rest[0])
    }
}
