//! Reading the body of a request: JSON, of bounded size, within bounded time.

use super::{Limits, Refusal};
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use serde_json::{Map, Value};

/// The JSON object that `request` holds.
///
/// Its type must be said to be JSON. That is also what keeps web pages out: a browser
/// sends such a request from a page of another origin only after asking, and nobody
/// answers.
///
/// # Errors
/// 415 for another type, 413 when it is too large, 408 when it does not come, 400 when
/// it is no JSON object.
pub async fn object(request: Request, limits: &Limits) -> Result<Map<String, Value>, Refusal> {
    let headers = request.headers();
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let kind = text(header::CONTENT_TYPE).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let found = if kind.is_empty() { "none" } else { kind };
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("expected the header `Content-Type: application/json`, found {found}"),
        ));
    }
    let too_large = || {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("expected a body of at most {} bytes", limits.body),
        )
    };
    let announced = text(header::CONTENT_LENGTH).and_then(|n| n.parse::<u64>().ok());
    if announced.is_some_and(|n| n > limits.body as u64) {
        return Err(too_large());
    }
    // One byte more than allowed tells what is too large from what broke off.
    let read = to_bytes(request.into_body(), limits.body + 1);
    let bytes = match tokio::time::timeout(limits.patience, read).await {
        Ok(Ok(bytes)) if bytes.len() <= limits.body => bytes,
        Ok(Ok(_)) => return Err(too_large()),
        Ok(Err(e)) if is_limit(&e) => return Err(too_large()),
        Ok(Err(e)) => return Err(Refusal::invalid(format!("the body broke off: {e}"))),
        Err(_) => {
            return Err(Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                format!("expected the whole body within {:?}", limits.patience),
            ));
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Refusal::invalid("expected a JSON object as the body")),
        Err(e) => Err(Refusal::invalid(format!("the body is no JSON: {e}"))),
    }
}

fn is_limit(e: &axum::Error) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(e);
    while let Some(e) = source {
        if e.to_string().contains("length limit") {
            return true;
        }
        source = e.source();
    }
    false
}
