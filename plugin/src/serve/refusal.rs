//! Errors as clients of OpenAI's interface read them.

use crate::runtime::without_backtrace;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// A request that is not answered, and why.
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

    /// 400, as field `param` of the request is wrong.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            ..Self::new(StatusCode::BAD_REQUEST, message)
        }
    }

    /// 404, as there is no such model; `known` are those there are.
    pub fn no_model(asked: &str, known: &[String]) -> Self {
        let known = known.join("`, `");
        Self {
            code: Some("model_not_found"),
            param: Some("model".into()),
            ..Self::new(
                StatusCode::NOT_FOUND,
                format!("expected one of the models `{known}`, found `{asked}`"),
            )
        }
    }

    /// 500, with what mistral.rs said.
    pub fn failed(reason: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            without_backtrace(&reason.to_string()),
        )
    }

    /// 400, with what mistral.rs said about the request.
    pub fn invalid(reason: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            without_backtrace(&reason.to_string()),
        )
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
