//! The messages of a chat, checked, as its template gets them.

use super::fields::{Body, tools};
use super::request::{Refusal, shown};
use reptune_recipes::{ChatEnding, Conversation};
use serde_json::{Map, Value, json};

/// Variables that a template has from the request itself.
const RESERVED: [&str; 5] = [
    "messages",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
];

/// The conversation of a request; 400 for messages that are none, and for parts of any other
/// type than `text`: this server reads and fetches nothing that a message names.
///
/// A developer's message is a system message.
pub fn conversation(body: &Body) -> Result<Conversation, Refusal> {
    let messages = match body.given("messages") {
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        found => return Err(wrong("messages".into(), "a list of messages", found)),
    };
    let messages = messages.iter().enumerate().map(|(i, m)| message(m, i));
    let mut variables = match body.given("chat_template_kwargs") {
        None => Map::new(),
        Some(Value::Object(variables)) => variables.clone(),
        Some(_) => return Err(body.wrong("chat_template_kwargs", "to be an object")),
    };
    if let Some(name) = RESERVED.iter().find(|name| variables.contains_key(**name)) {
        let expected = format_args!("without `{name}`, which is a field of its own or fixed");
        return Err(body.wrong("chat_template_kwargs", expected));
    }
    if let Some(thinking) = body.flag("enable_thinking")? {
        variables.insert("enable_thinking".into(), json!(thinking));
    }
    for (name, fits, expected) in [
        (
            "reasoning_effort",
            Value::is_string as fn(&Value) -> bool,
            "to be a text",
        ),
        ("documents", Value::is_array, "to be a list"),
    ] {
        match body.given(name) {
            Some(value) if fits(value) => {
                variables.insert(name.into(), value.clone());
            }
            Some(_) => return Err(body.wrong(name, expected)),
            None => {}
        }
    }
    let continues = body.flag("continue_final_message")?.unwrap_or_default();
    let ending = match (continues, body.flag("add_generation_prompt")?) {
        (true, Some(true)) => {
            let expected = "false beside `continue_final_message`";
            return Err(body.wrong("add_generation_prompt", expected));
        }
        (true, _) => ChatEnding::Continue,
        (false, Some(false)) => ChatEnding::Closed,
        (false, _) => ChatEnding::Prompt,
    };
    Ok(Conversation {
        messages: messages.collect::<Result<_, _>>()?,
        tools: tools(body)?,
        variables,
        ending,
    })
}

fn wrong(place: String, expected: &str, found: Option<&Value>) -> Refusal {
    let found = found.map_or("nothing".into(), shown);
    let text = format!("expected `{place}` to be {expected}, found {found}");
    Refusal::field(place, text)
}

fn message(message: &Value, i: usize) -> Result<Map<String, Value>, Refusal> {
    let place = |rest: &str| format!("messages[{i}]{rest}");
    let Value::Object(message) = message else {
        return Err(wrong(place(""), "an object", Some(message)));
    };
    let mut message = message.clone();
    message.retain(|_, value| !value.is_null());
    match message.get("role") {
        Some(Value::String(role)) if role == "developer" => {
            message.insert("role".into(), json!("system"));
        }
        Some(Value::String(_)) => {}
        other => return Err(wrong(place(".role"), "a text", other)),
    }
    let calls = match message.get("tool_calls") {
        Some(Value::Array(calls)) => calls.as_slice(),
        None => &[],
        other => return Err(wrong(place(".tool_calls"), "a list", other)),
    };
    for (j, call) in calls.iter().enumerate() {
        let function = &call["function"];
        let arguments = &function["arguments"];
        let fits = function["name"].is_string() && (arguments.is_string() || arguments.is_object());
        if !fits {
            let expected = "a call with `function.name` and `function.arguments`";
            return Err(wrong(
                place(&format!(".tool_calls[{j}]")),
                expected,
                Some(call),
            ));
        }
    }
    let called = !calls.is_empty();
    if !called {
        message.remove("tool_calls");
    }
    match message.get("content") {
        Some(Value::String(_)) => {}
        None if called => {}
        Some(Value::Array(parts)) => {
            let text = |part: &&Value| part["type"] == "text" && part["text"].is_string();
            if let Some((j, part)) = parts.iter().enumerate().find(|(_, part)| !text(part)) {
                let expected = "text; this server reads and fetches nothing else";
                let place = place(&format!(".content[{j}]"));
                return Err(wrong(place, expected, Some(&part["type"])));
            }
        }
        other => return Err(wrong(place(".content"), "a text", other)),
    }
    Ok(message)
}

#[cfg(test)]
mod tests;
