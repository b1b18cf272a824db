//! A conversation with everything that a chat template may read: tool calls, tools, variables.

use minijinja::Value as Variable;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

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

/// What a chat template is filled with. The defaults are those of transformers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    /// Objects with `role`, `content`, `tool_calls` and whatever else the template reads.
    pub messages: Vec<Map<String, Value>>,
    /// JSON schemas of the tools that the model may call.
    pub tools: Vec<Value>,
    /// Further variables of the template, such as `enable_thinking`.
    pub variables: Map<String, Value>,
    /// How the text ends.
    pub ending: ChatEnding,
}

/// Where the text of a conversation ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ChatEnding {
    /// Where the assistant would answer (`add_generation_prompt`).
    #[default]
    Prompt,
    /// Within the last message, which the model continues (`continue_final_message`).
    Continue,
    /// After the last message.
    Closed,
}

/// What transformers appends to a message that is to be continued, to find its end again.
const END: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// The names under which messages carry the reasoning of a model.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

impl Conversation {
    /// A conversation of plain messages.
    pub fn of(messages: &[Message]) -> Self {
        let object = |message: &Message| {
            let pairs = [("role", &message.role), ("content", &message.content)];
            let pairs = pairs.map(|(key, text)| (key.to_owned(), json!(text)));
            pairs.into_iter().collect()
        };
        Self {
            messages: messages.iter().map(object).collect(),
            ..Self::default()
        }
    }

    /// The same with the text of a first system message at the beginning of the user message
    /// after it, if these two begin the conversation.
    pub(super) fn system_in_question(&self) -> Option<Self> {
        let [system, user, rest @ ..] = self.messages.as_slice() else {
            return None;
        };
        if role(system) != "system" || role(user) != "user" {
            return None;
        }
        let text = format!("{}\n\n{}", text(system)?, text(user)?);
        let mut user = user.clone();
        user.insert("content".into(), json!(text));
        Some(Self {
            messages: [&[user], rest].concat(),
            ..self.clone()
        })
    }

    /// What a template is rendered with. Where it does not read `parts`, the texts of a message
    /// in several parts are joined by blanks.
    pub(super) fn context(&self, special: &BTreeMap<String, String>, parts: bool) -> Variable {
        let mut context: BTreeMap<&str, Variable> = BTreeMap::new();
        for (key, text) in special {
            context.insert(key, text.as_str().into());
        }
        context.insert("documents", Variable::from(()));
        for (key, value) in &self.variables {
            context.insert(key, Variable::from_serialize(value));
        }
        let messages = self.messages.iter();
        let mut messages: Vec<_> = messages.map(|m| plain(m, parts)).collect();
        if let (ChatEnding::Continue, Some(last)) = (self.ending, messages.last_mut()) {
            mark_end(last);
        }
        let tools = match self.tools.is_empty() {
            true => Variable::from(()),
            false => Variable::from_serialize(&self.tools),
        };
        context.insert("messages", Variable::from_serialize(messages));
        context.insert("tools", tools);
        let asks = self.ending == ChatEnding::Prompt;
        context.insert("add_generation_prompt", asks.into());
        Variable::from_serialize(context)
    }

    /// The rendered `text` up to where it is to end, or what is wrong with it.
    pub(super) fn ended(&self, mut text: String) -> Result<String, String> {
        if self.ending == ChatEnding::Continue {
            let at = text.rfind(END.trim_end());
            let at = at.ok_or("no message to continue: the template drops the last one")?;
            let kept = text[at..].starts_with(END);
            text.truncate(at);
            if !kept {
                text.truncate(text.trim_end().len());
            }
        }
        Ok(text)
    }
}

/// The role of a message.
pub(super) fn role(message: &Map<String, Value>) -> &str {
    let role = message.get("role").and_then(Value::as_str);
    role.unwrap_or_default()
}

/// The content of a message if it is one text.
pub(super) fn text(message: &Map<String, Value>) -> Option<&str> {
    message.get("content").and_then(Value::as_str)
}

/// A message as transformers hands it to a template: without fields that are null, and with
/// reasoning under the names that templates read. The arguments of tool calls, which clients of
/// OpenAI's interface send as JSON in a text, become the objects that templates expect.
fn plain(message: &Map<String, Value>, parts: bool) -> Map<String, Value> {
    let given = message.iter().filter(|(_, value)| !value.is_null());
    let mut plain: Map<String, Value> = given.map(|(k, v)| (k.clone(), v.clone())).collect();
    if let Some(reasoning) = REASONING.iter().find_map(|key| plain.get(*key)).cloned() {
        let mut named = Map::from_iter([("thinking".to_owned(), reasoning.clone())]);
        named.extend(plain);
        named.insert("reasoning_content".into(), reasoning);
        plain = named;
    }
    let calls = plain.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        let Some(arguments) = call.pointer_mut("/function/arguments") else {
            continue;
        };
        let object = arguments
            .as_str()
            .and_then(|a| serde_json::from_str(a).ok());
        if let Some(object @ Value::Object(_)) = object {
            *arguments = object;
        }
    }
    if let (false, Some(Value::Array(content))) = (parts, plain.get("content")) {
        let texts = content.iter().filter_map(|part| part["text"].as_str());
        let joined = texts.collect::<Vec<_>>().join(" ");
        plain.insert("content".into(), json!(joined));
    }
    plain
}

/// Appends [`END`] to the content of a message, or to its last part that is text.
fn mark_end(message: &mut Map<String, Value>) {
    let content = match message.get_mut("content") {
        Some(Value::Array(parts)) => {
            let mut texts = parts
                .iter_mut()
                .rev()
                .filter_map(|part| part.get_mut("text"));
            texts.next()
        }
        other => other,
    };
    if let Some(Value::String(text)) = content {
        text.push_str(END);
    }
}
