//! Chats and completions: the requests and answers of mistral.rs's own server, each sent
//! to the engine of the model it names.
//!
//! mistral.rs 0.8.1 sends every completion to its default model, and puts the path of
//! the weights into answers; here the model is the one that was asked for, in both.

use super::request::{check, only_text};
use super::{App, Refusal, body};
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use mistralrs_core::{MistralRs, Request as EngineRequest, Response as Answer};
use mistralrs_server_core::handler_core::{create_response_channel, send_request};
use mistralrs_server_core::util::sanitize_error_message;
use mistralrs_server_core::{chat_completion, completions};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, channel};

/// `POST /v1/chat/completions`.
pub async fn chat(State(app): State<App>, request: Request) -> Result<Response, Refusal> {
    let mut body = body::object(request, &app.limits).await?;
    let served = app.models.asked(&body)?;
    check(&body)?;
    only_text(&mut body)?;
    let (name, engine) = (served.name().to_owned(), served.engine());
    let (tx, rx) = create_response_channel(None);
    let (request, streams) = chat_completion::parse_request(typed(body)?, engine.clone(), tx)
        .await
        .map_err(Refusal::invalid)?;
    let mut rx = ask(&engine, request, rx).await?;
    if streams {
        let named = Box::new(
            move |mut chunk: mistralrs_core::ChatCompletionChunkResponse| {
                chunk.model.clone_from(&name);
                chunk
            },
        );
        return Ok(chat_completion::create_streamer(rx, engine, Some(named), None).into_response());
    }
    match rx.recv().await {
        Some(Answer::Done(mut answer)) => {
            answer.model = name;
            Ok(Json(answer).into_response())
        }
        _ => Err(Refusal::failed(OTHER)),
    }
}

/// `POST /v1/completions`.
pub async fn complete(State(app): State<App>, request: Request) -> Result<Response, Refusal> {
    let body = body::object(request, &app.limits).await?;
    let served = app.models.asked(&body)?;
    check(&body)?;
    if !body.get("prompt").is_some_and(Value::is_string) {
        return Err(Refusal::field("prompt", "expected `prompt` to be a text"));
    }
    let (name, engine) = (served.name().to_owned(), served.engine());
    let (tx, rx) = create_response_channel(None);
    let (request, streams) =
        completions::parse_request(typed(body)?, engine.clone(), tx).map_err(Refusal::invalid)?;
    let mut rx = ask(&engine, request, rx).await?;
    if streams {
        let named = Box::new(move |mut chunk: mistralrs_core::CompletionChunkResponse| {
            chunk.model.clone_from(&name);
            chunk
        });
        return Ok(completions::create_streamer(rx, engine, Some(named), None).into_response());
    }
    match rx.recv().await {
        Some(Answer::CompletionDone(mut answer)) => {
            answer.model = name;
            Ok(Json(answer).into_response())
        }
        _ => Err(Refusal::failed(OTHER)),
    }
}

const OTHER: &str = "mistral.rs answered with something else than what was asked for";

/// The request in mistral.rs's own type. Each engine knows one model, its default.
fn typed<T: DeserializeOwned>(mut body: Map<String, Value>) -> Result<T, Refusal> {
    body.insert("model".into(), json!(super::models::DEFAULT));
    serde_json::from_value(Value::Object(body)).map_err(Refusal::invalid)
}

/// Sends `request` and waits for the first of its answers, so that a refusal is told by
/// the status, also where the answer is a stream.
async fn ask(
    engine: &Arc<MistralRs>,
    request: EngineRequest,
    mut answers: Receiver<Answer>,
) -> Result<Receiver<Answer>, Refusal> {
    send_request(engine, request)
        .await
        .map_err(Refusal::failed)?;
    let first = match answers.recv().await {
        Some(Answer::ValidationError(e)) => {
            return Err(Refusal::invalid(sanitize_error_message(&*e)));
        }
        Some(Answer::InternalError(e)) => return Err(Refusal::failed(sanitize_error_message(&*e))),
        Some(Answer::ModelError(text, _)) | Some(Answer::CompletionModelError(text, _)) => {
            return Err(Refusal::failed(text));
        }
        Some(first) => first,
        None => return Err(Refusal::failed("the engine stopped; ask again")),
    };
    let (tx, rx) = channel(16);
    tokio::spawn(async move {
        let mut next = Some(first);
        // When the client is gone, sending fails and ends this; the engine then finds
        // nobody listening, and ends the sequence.
        while let Some(answer) = next {
            if tx.send(answer).await.is_err() {
                break;
            }
            next = answers.recv().await;
        }
    });
    Ok(rx)
}
