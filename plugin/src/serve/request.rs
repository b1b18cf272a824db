//! The body of a request as it comes, and refusals as clients of OpenAI's interface read them.

use crate::runtime::without_backtrace;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, body::to_bytes, extract::Request};
use reptune_adapters::Error as Fault;
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
    /// Why.
    pub message: String,
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

impl Refusal {
    /// What is wrong with the tokenizer or the template of a served model, or with a text that they
    /// get, without the directory of the model.
    pub fn without_path(error: reptune_recipes::Error) -> String {
        match error {
            reptune_recipes::Error::Adapters(Fault::Content {
                place,
                expected,
                found,
                hint,
                ..
            }) => format!("{place}: expected {expected}, found {found}; {hint}"),
            other => other.to_string(),
        }
    }

    /// As it is sent.
    pub fn body(&self) -> Value {
        let kind = match self.status.is_server_error() {
            true => "server_error",
            false => "invalid_request_error",
        };
        json!({"error": {
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.body())).into_response()
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

/// A value as a message quotes it: whole if short.
pub fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}..", &text[..at]),
        None => text,
    }
}
