//! Prompt files: one JSON object on each line.

use reptune_adapters::files;
use reptune_recipes::{Chat, Error, Message, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

/// One prompt.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum PromptLine {
    /// `{"messages": [{"role": "user", "content": ".."}]}`, for the chat template.
    Chat {
        /// The conversation so far.
        messages: Vec<Message>,
    },
    /// `{"prompt": ".."}`, raw.
    Raw {
        /// The text.
        prompt: String,
    },
    /// A bare text, raw.
    Text(String),
}

impl PromptLine {
    /// Its token ids.
    ///
    /// # Errors
    /// When the template or the tokenizer fails.
    pub fn ids(&self, chat: &Chat) -> Result<Vec<u32>> {
        match self {
            Self::Chat { messages } => chat.prompt(messages),
            Self::Raw { prompt: text } | Self::Text(text) => chat.encode(text),
        }
    }

    /// What the user gave: a text or messages.
    pub fn json(&self) -> Value {
        match self {
            Self::Chat { messages } => json!(messages),
            Self::Raw { prompt: text } | Self::Text(text) => json!(text),
        }
    }
}

/// Reads a `.jsonl` file of prompts; empty lines are skipped.
///
/// # Errors
/// Names the line that is not a prompt.
pub fn read(path: &Path) -> Result<Vec<PromptLine>> {
    let hint = "write one JSON object a line";
    let bytes = files::read(path)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut prompts = Vec::new();
    let lines = text.lines().enumerate();
    for (i, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        prompts.push(serde_json::from_str(line).map_err(|_| {
            let (place, found) = (format!("line {}", i + 1), format!("`{line}`"));
            let expected = "{\"prompt\": \"..\"} or {\"messages\": [..]}";
            Error::input(path, place, expected, found, hint)
        })?);
    }
    if prompts.is_empty() {
        let expected = "at least one prompt";
        return Err(Error::input(path, "file", expected, "none", hint));
    }
    Ok(prompts)
}
