//! What is checked of a request before mistral.rs sees it: what 0.8.1 would take in
//! silence, what would make it read files or fetch addresses, and what would stop it.

use super::Refusal;
use serde_json::{Map, Value, json};

/// Fields that are numbers, and their bounds. Those of the counts keep one request from
/// taking all memory; the others are what the sampler means something by.
const NUMBERS: [(&str, f64, f64); 13] = [
    ("n", 1., 16.),
    ("best_of", 1., 16.),
    ("max_tokens", 1., 1e9),
    ("max_completion_tokens", 1., 1e9),
    ("top_logprobs", 0., 20.),
    ("temperature", 0., 100.),
    ("top_p", 0., 1.),
    ("min_p", 0., 1.),
    ("top_k", 1., 1e9),
    ("frequency_penalty", -2., 2.),
    ("presence_penalty", -2., 2.),
    ("repetition_penalty", 0., 100.),
    ("dry_multiplier", 0., 100.),
];

/// Fields that mistral.rs answers by fetching from the network.
const FETCHING: [&str; 1] = ["web_search_options"];

/// Checks what chats and completions have in common.
///
/// # Errors
/// 400, naming the field.
pub fn check(body: &Map<String, Value>) -> Result<(), Refusal> {
    let given = |name: &str| body.get(name).filter(|v| !v.is_null());
    for field in FETCHING {
        if given(field).is_some() {
            return Err(Refusal::field(
                field,
                format!("expected no `{field}`: this server fetches nothing"),
            ));
        }
    }
    for (field, least, most) in NUMBERS {
        let Some(value) = given(field) else { continue };
        let fits = value.as_f64().is_some_and(|x| (least..=most).contains(&x));
        if !fits {
            return Err(Refusal::field(
                field,
                format!(
                    "expected `{field}` from {least} to {most}, found {}",
                    shown(value)
                ),
            ));
        }
    }
    for field in ["stream", "echo"] {
        if let Some(value) = given(field).filter(|v| !v.is_boolean()) {
            return Err(Refusal::field(
                field,
                format!("expected `{field}` true or false, found {}", shown(value)),
            ));
        }
    }
    Ok(())
}

/// Checks the messages of a chat, and makes every content one text.
///
/// Parts of type `text` are joined by a blank, as mistral.rs does, but handed to the
/// chat template as a string, which every template knows.
///
/// # Errors
/// 400 for messages that are none, and for parts of any other type: mistral.rs would
/// read or fetch whatever their address names, also for a model of text.
pub fn only_text(body: &mut Map<String, Value>) -> Result<(), Refusal> {
    let messages = match body.get_mut("messages") {
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        found => {
            let found = found.map_or("nothing".into(), |v| shown(v));
            return Err(Refusal::field(
                "messages",
                format!("expected `messages` to be a list of messages, found {found}"),
            ));
        }
    };
    for (i, message) in messages.iter_mut().enumerate() {
        let at = format!("messages[{i}]");
        let wrong = |place: &str, expected: &str, found: Option<&Value>| {
            let found = found.map_or("nothing".into(), shown);
            let place = format!("{at}{place}");
            let text = format!("expected `{place}` to be {expected}, found {found}");
            Refusal::field(place, text)
        };
        let Value::Object(message) = message else {
            return Err(wrong("", "an object", Some(message)));
        };
        if !message.get("role").is_some_and(Value::is_string) {
            return Err(wrong(".role", "a text", message.get("role")));
        }
        let calls = message.get("tool_calls").is_some_and(Value::is_array);
        let content = message.get_mut("content");
        match content {
            Some(Value::String(_)) => {}
            None | Some(Value::Null) if calls => {}
            Some(Value::Array(parts)) => {
                let mut texts = Vec::new();
                for (j, part) in parts.iter().enumerate() {
                    let place = format!(".content[{j}]");
                    match (&part["type"], &part["text"]) {
                        (Value::String(kind), Value::String(text)) if kind == "text" => {
                            texts.push(text.as_str());
                        }
                        (kind, _) => {
                            let expected = "text; this server reads and fetches nothing else";
                            return Err(wrong(&place, expected, Some(kind)));
                        }
                    }
                }
                let text = texts.join(" ");
                message.insert("content".into(), json!(text));
            }
            other => return Err(wrong(".content", "a text", other.as_deref())),
        }
    }
    Ok(())
}

/// A value as a message quotes it: whole if short.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}..", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
