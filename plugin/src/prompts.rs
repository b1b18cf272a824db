//! Prompt files: one JSON object on each line.

use reptune_recipes::{Chat, Error, Message, Result, data::read_text};
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
    /// What the user gave: a text or messages.
    pub fn json(&self) -> Value {
        match self {
            Self::Chat { messages } => json!(messages),
            Self::Raw { prompt: text } | Self::Text(text) => json!(text),
        }
    }
}

/// Token ids of `prompts`.
pub(crate) fn ids(prompts: &[PromptLine], chat: &Chat) -> Result<Vec<Vec<u32>>> {
    let ids = |prompt: &PromptLine| match prompt {
        PromptLine::Chat { messages } => chat.prompt(messages),
        PromptLine::Raw { prompt: text } | PromptLine::Text(text) => chat.encode(text),
    };
    prompts.iter().map(ids).collect()
}

/// Reads a `.jsonl` file of prompts; empty lines are skipped.
///
/// # Errors
/// Names the line that is not a prompt.
pub fn read(path: &Path) -> Result<Vec<PromptLine>> {
    let text = read_text(path)?;
    let wrong = |place: String, expected, found: String| {
        Error::input(
            path,
            place,
            expected,
            found,
            "write one JSON object per line",
        )
    };
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    let prompt = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|_| {
            let expected = "{\"prompt\": \"..\"} or {\"messages\": [..]}";
            wrong(format!("line {}", i + 1), expected, format!("`{line}`"))
        })
    };
    let prompts: Vec<PromptLine> = lines.map(prompt).collect::<Result<_>>()?;
    match prompts.is_empty() {
        true => Err(wrong("file".into(), "at least one prompt", "none".into())),
        false => Ok(prompts),
    }
}
