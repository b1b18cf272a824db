//! From text to token ids: the tokenizer and chat template of a model directory.

mod conversation;
mod template;
mod tokenizer;

pub use tokenizer::TokenizerFile;

use crate::error::{Error, Result};
use conversation::{role, text};
use reptune_adapters::files;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use template::Template;
use tokenizers::{Encoding, Tokenizer};

pub use conversation::{ChatEnding, Conversation, Message};

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

/// A compiled template, or what is wrong with it.
type CompiledTemplate = std::result::Result<Template, String>;

/// A tokenizer with a chat template.
pub struct Chat {
    directory: PathBuf,
    tokenizer: Tokenizer,
    /// The file that holds the template.
    template_file: PathBuf,
    /// The source of the template, empty if there is none.
    source: String,
    /// The compiled template, or what is wrong with it.
    template: CompiledTemplate,
    /// The template for chats with tools, where a model has a template of its own for them.
    tool_template: Option<CompiledTemplate>,
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
        let named = |name: &str| {
            let mut named = config["chat_template"].as_array().into_iter().flatten();
            let found = named.find(|t| t["name"] == name)?;
            found["template"].as_str().map(str::to_owned)
        };
        let in_file = jinja.is_file();
        let template = match &config["chat_template"] {
            _ if in_file => Some(String::from_utf8_lossy(&files::read(&jinja)?).into_owned()),
            Value::Array(_) => named("default"),
            other => other.as_str().map(str::to_owned),
        };
        let tool_template = named("tool_use").filter(|_| !in_file);
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
            template_file: match in_file {
                true => jinja,
                false => directory.join("tokenizer_config.json"),
            },
            template: match &template {
                Some(source) => Template::compile(source),
                None => Err("none".into()),
            },
            source: template.unwrap_or_default(),
            tool_template: tool_template.map(|t| Template::compile(&t)),
            special,
            stop,
        })
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Renders messages up to where the assistant would answer, see [`Chat::write`].
    ///
    /// # Errors
    /// Those of [`Chat::write`].
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        self.write(&Conversation::of(messages))
    }

    /// The text of a conversation: that of transformers' `apply_chat_template`. Where a template
    /// refuses a system message, its text goes to the beginning of the first user message.
    ///
    /// # Errors
    /// When there is no template, it fails, or it drops the system message or a user message
    /// at the end.
    pub fn write(&self, conversation: &Conversation) -> Result<String> {
        let refused = match self.fill(conversation) {
            Ok(text) => return self.whole(conversation, text),
            Err(refused) => refused,
        };
        let Some(merged) = conversation.system_in_question() else {
            return Err(refused);
        };
        let text = self.fill(&merged).map_err(|_| refused)?;
        self.whole(&merged, text)
    }

    /// `text`, if a template that rendered `conversation` dropped neither the system message nor a
    /// user message at the end.
    fn whole(&self, conversation: &Conversation, written: String) -> Result<String> {
        let messages = &conversation.messages;
        let first = messages.first().filter(|m| role(m) == "system");
        let last = messages.last().filter(|m| role(m) == "user");
        for message in first.into_iter().chain(last) {
            let content = text(message).unwrap_or_default();
            let json = Value::from(content.trim()).to_string();
            let json = &json[1..json.len() - 1];
            if !written.contains(content.trim()) && !written.contains(json) {
                let expected = format!(
                    "the {} message `{content}` in the rendered text",
                    role(message)
                );
                let hint = "the template drops it; check the roles, or correct the template";
                return Err(self.template_wrong(expected, format!("`{written}`"), hint));
            }
        }
        Ok(written)
    }

    fn fill(&self, conversation: &Conversation) -> Result<String> {
        let with_tools = self.tool_template.as_ref();
        let with_tools = with_tools.filter(|_| !conversation.tools.is_empty());
        let template = with_tools.unwrap_or(&self.template).as_ref();
        let text = template.map_err(Clone::clone).and_then(|template| {
            let several = conversation
                .messages
                .iter()
                .any(|m| m.get("content").is_some_and(Value::is_array));
            let parts = several && self.reads_parts(template);
            conversation.ended(template.render(conversation.context(&self.special, parts))?)
        });
        text.map_err(|found| {
            let hint = "use raw prompts, or correct the template";
            self.template_wrong("a template that renders", found, hint)
        })
    }

    /// Whether `template` reads the texts of a message in several parts, instead of printing the
    /// list or failing.
    fn reads_parts(&self, template: &Template) -> bool {
        const WORD: &str = "reads_parts";
        let part = Value::from_iter([("type", "text"), ("text", WORD)]);
        let message = [
            ("role", "user".into()),
            ("content", Value::from(vec![part])),
        ];
        let message = message.map(|(key, value)| (key.to_owned(), value));
        let probe = Conversation {
            messages: vec![message.into_iter().collect()],
            ..Conversation::default()
        };
        let text = template.render(probe.context(&self.special, true));
        text.is_ok_and(|text| {
            text.contains(WORD) && !text.contains("text'") && !text.contains("text\"")
        })
    }

    /// Whether the source of the chat template has `text`.
    pub fn template_has(&self, text: &str) -> bool {
        self.source.contains(text)
    }

    /// Whether there is a chat template at all.
    pub fn has_template(&self) -> bool {
        !self.source.is_empty()
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

    /// The chat template holds or makes `found` instead of `expected`.
    fn template_wrong(
        &self,
        expected: impl Into<String>,
        found: impl Into<String>,
        hint: &str,
    ) -> Error {
        Error::input(&self.template_file, "chat template", expected, found, hint)
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
        self.ids(&self.render(messages)?)
    }

    /// Token ids of a text that [`Chat::write`] has written.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn ids(&self, written: &str) -> Result<Vec<u32>> {
        Ok(self.tokens(written, false)?.get_ids().to_vec())
    }

    /// Text of token ids, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, true).map_err(|e| {
            let hint = "the model's vocabulary may be larger than its tokenizer's";
            self.wrong("tokenizer", "tokens it can decode", e.to_string(), hint)
        })
    }

    /// The text of one token as it stands within a text, special tokens included; none if it is
    /// only a part of a character.
    pub fn token_text(&self, id: u32) -> Option<String> {
        let decode = |ids: &[u32]| self.tokenizer.decode(ids, false).unwrap_or_default();
        // Decoders drop a blank at the beginning.
        let before = self.tokens("a", false).ok()?;
        let start = decode(before.get_ids());
        let all = decode(&[before.get_ids(), &[id]].concat());
        let text = all.strip_prefix(&start).map(str::to_owned);
        let text = text.unwrap_or_else(|| decode(&[id]));
        (!text.contains(char::REPLACEMENT_CHARACTER)).then_some(text)
    }

    /// The text of one token, or its name in the vocabulary if it is only a part of a character.
    pub fn token_name(&self, id: u32) -> String {
        let name = || self.tokenizer.id_to_token(id).unwrap_or_default();
        self.token_text(id).unwrap_or_else(name)
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
        let full = self.fill(&Conversation {
            ending: ChatEnding::Closed,
            ..Conversation::of(&[messages, &[answer]].concat())
        })?;
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
