//! What is read and checked of a request before mistral.rs sees it: what 0.8.1 would accept
//! silently, what would make it read files or fetch addresses, and what would stop it.

use crate::runtime::without_backtrace;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, body::to_bytes, extract::Request};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// What a request may cost before it is answered.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of its body.
    pub body: usize,
    /// Time until its body has come.
    pub patience: Duration,
    /// Time in which answers may complete after the server was stopped.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 2 << 20,
            patience: Duration::from_secs(30),
            drain: Duration::from_secs(60),
        }
    }
}

/// A request that is not answered, and why, as clients of OpenAI's interface read it.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    status: StatusCode,
    message: String,
    /// The field of the request that is wrong.
    param: Option<String>,
    code: Option<&'static str>,
}

impl Refusal {
    /// A refusal with nothing but a reason.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            param: None,
            code: None,
        }
    }

    /// 400, because field `param` of the request is wrong.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            ..Self::new(StatusCode::BAD_REQUEST, message)
        }
    }

    /// 404, because there is no such model; `known` are those there are.
    pub fn no_model(asked: &str, known: &[String]) -> Self {
        let known = known.join("`, `");
        let message = format!("expected one of the models `{known}`, found `{asked}`");
        Self {
            code: Some("model_not_found"),
            param: Some("model".into()),
            ..Self::new(StatusCode::NOT_FOUND, message)
        }
    }

    /// 500, with what mistral.rs said.
    pub fn failed(reason: impl std::fmt::Display) -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, without_backtrace(&reason.to_string()))
    }

    /// 400, with what mistral.rs said about the request.
    pub fn invalid(reason: impl std::fmt::Display) -> Self {
        let status = StatusCode::BAD_REQUEST;
        Self::new(status, without_backtrace(&reason.to_string()))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let kind = match self.status.is_server_error() {
            true => "server_error",
            false => "invalid_request_error",
        };
        let body = json!({"error": {
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.code,
        }});
        (self.status, Json(body)).into_response()
    }
}

/// The JSON object that `request` holds; 415 for another type, 413 when it is too large, 408
/// when it does not come, 400 when it is no JSON object.
///
/// The request must declare its type as JSON. That also protects against web pages of other
/// origins: a browser asks for permission before it sends such a request from them, and this
/// server never gives it.
pub async fn object(request: Request, limits: &Limits) -> Result<Map<String, Value>, Refusal> {
    let headers = request.headers();
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let kind = text(header::CONTENT_TYPE).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let found = if kind.is_empty() { "none" } else { kind };
        let message =
            format!("expected the header `Content-Type: application/json`, found {found}");
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let too_large = || {
        let message = format!("expected a body of at most {} bytes", limits.body);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let announced = text(header::CONTENT_LENGTH).and_then(|n| n.parse::<u64>().ok());
    if announced.is_some_and(|n| n > limits.body as u64) {
        return Err(too_large());
    }
    // One byte more than allowed distinguishes what is too large from what broke off.
    let read = to_bytes(request.into_body(), limits.body + 1);
    let bytes = match tokio::time::timeout(limits.patience, read).await {
        Ok(Ok(bytes)) if bytes.len() <= limits.body => bytes,
        Ok(Ok(_)) => return Err(too_large()),
        Ok(Err(e)) if is_limit(&e) => return Err(too_large()),
        Ok(Err(e)) => return Err(Refusal::invalid(format!("the body broke off: {e}"))),
        Err(_) => {
            let message = format!("expected the whole body within {:?}", limits.patience);
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, message));
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Refusal::invalid("expected a JSON object as the body")),
        Err(e) => Err(Refusal::invalid(format!("the body is no JSON: {e}"))),
    }
}

fn is_limit(e: &axum::Error) -> bool {
    let first: &dyn std::error::Error = e;
    let mut sources = std::iter::successors(Some(first), |e| e.source());
    sources.any(|e| e.to_string().contains("length limit"))
}

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

/// Checks what chats and completions have in common; 400, naming the field.
pub fn check(body: &Map<String, Value>) -> Result<(), Refusal> {
    let given = |name: &str| body.get(name).filter(|v| !v.is_null());
    // mistral.rs answers this field by fetching from the network.
    let fetching = "web_search_options";
    if given(fetching).is_some() {
        let message = format!("expected no `{fetching}`: this server fetches nothing");
        return Err(Refusal::field(fetching, message));
    }
    for (field, least, most) in NUMBERS {
        let Some(value) = given(field) else { continue };
        if !value.as_f64().is_some_and(|x| (least..=most).contains(&x)) {
            let found = shown(value);
            let message = format!("expected `{field}` from {least} to {most}, found {found}");
            return Err(Refusal::field(field, message));
        }
    }
    for field in ["stream", "echo"] {
        if let Some(value) = given(field).filter(|v| !v.is_boolean()) {
            let message = format!("expected `{field}` true or false, found {}", shown(value));
            return Err(Refusal::field(field, message));
        }
    }
    Ok(())
}

/// Checks the messages of a chat, and makes every content one text; 400 for messages that are
/// none, and for parts of any other type than `text`: mistral.rs would read or fetch whatever
/// their address names, also for a model of text.
///
/// Parts of type `text` are joined by a blank, as mistral.rs does, but handed to the
/// chat template as a string, which every template knows.
pub fn only_text(body: &mut Map<String, Value>) -> Result<(), Refusal> {
    let wrong = |place: String, expected: &str, found: Option<&Value>| {
        let found = found.map_or("nothing".into(), shown);
        let text = format!("expected `{place}` to be {expected}, found {found}");
        Refusal::field(place, text)
    };
    let messages = match body.get_mut("messages") {
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        found => {
            let expected = "a list of messages";
            return Err(wrong("messages".into(), expected, found.as_deref()));
        }
    };
    for (i, message) in messages.iter_mut().enumerate() {
        let place = |rest: &str| format!("messages[{i}]{rest}");
        let Value::Object(message) = message else {
            return Err(wrong(place(""), "an object", Some(message)));
        };
        if !message.get("role").is_some_and(Value::is_string) {
            return Err(wrong(place(".role"), "a text", message.get("role")));
        }
        let calls = message.get("tool_calls").is_some_and(Value::is_array);
        match message.get_mut("content") {
            Some(Value::String(_)) => {}
            None | Some(Value::Null) if calls => {}
            Some(Value::Array(parts)) => {
                let mut texts = Vec::new();
                for (j, part) in parts.iter().enumerate() {
                    match (&part["type"], &part["text"]) {
                        (Value::String(kind), Value::String(text)) if kind == "text" => {
                            texts.push(text.as_str());
                        }
                        (kind, _) => {
                            let expected = "text; this server reads and fetches nothing else";
                            let place = place(&format!(".content[{j}]"));
                            return Err(wrong(place, expected, Some(kind)));
                        }
                    }
                }
                let text = texts.join(" ");
                message.insert("content".into(), json!(text));
            }
            other => return Err(wrong(place(".content"), "a text", other.as_deref())),
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
