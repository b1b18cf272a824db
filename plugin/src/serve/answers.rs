//! Chats and completions: the requests and answers of mistral.rs's own server, each sent
//! to the engine of the model it names.
//!
//! mistral.rs 0.8.1 sends every completion to its default model, and puts the path of
//! the weights into answers; here the model is the one that was asked for, in both.

use super::models::{App, DEFAULT};
use super::request::{Refusal, check, object, only_text};
use crate::runtime::{SharedEngine, without_backtrace};
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use mistralrs_core::{
    ChatCompletionChunkResponse, CompletionChunkResponse, Request as EngineRequest,
    Response as Answer,
};
use mistralrs_server_core::handler_core::{create_response_channel, send_request};
use mistralrs_server_core::{chat_completion, completions, util::sanitize_error_message};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::sync::oneshot;

/// `POST /v1/chat/completions`.
pub async fn chat(State(app): State<App>, request: Request) -> Result<Response, Refusal> {
    let (mut body, name, engine) = checked(&app, request).await?;
    only_text(&mut body)?;
    let (tx, rx) = create_response_channel(None);
    let parsed = chat_completion::parse_request(typed(body)?, engine.mistralrs.clone(), tx).await;
    let (request, streams) = parsed.map_err(Refusal::invalid)?;
    let mut rx = ask(&engine, request, rx).await?;
    if streams {
        let named = Box::new(move |mut chunk: ChatCompletionChunkResponse| {
            chunk.model.clone_from(&name);
            chunk
        });
        let stream = chat_completion::create_streamer(rx, engine.mistralrs, Some(named), None);
        return Ok(stream.into_response());
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
    let (mut body, name, engine) = checked(&app, request).await?;
    let Some(Value::String(prompt)) = body.get_mut("prompt") else {
        return Err(Refusal::field("prompt", "expected `prompt` to be a text"));
    };
    if !prompt.starts_with(&*engine.begin) {
        prompt.insert_str(0, &engine.begin);
    }
    let (tx, rx) = create_response_channel(None);
    let parsed = completions::parse_request(typed(body)?, engine.mistralrs.clone(), tx);
    let (request, streams) = parsed.map_err(Refusal::invalid)?;
    let mut rx = ask(&engine, request, rx).await?;
    if streams {
        let named = Box::new(move |mut chunk: CompletionChunkResponse| {
            chunk.model.clone_from(&name);
            chunk
        });
        let stream = completions::create_streamer(rx, engine.mistralrs, Some(named), None);
        return Ok(stream.into_response());
    }
    match rx.recv().await {
        Some(Answer::CompletionDone(mut answer)) => {
            answer.model = name;
            Ok(Json(answer).into_response())
        }
        _ => Err(Refusal::failed(OTHER)),
    }
}

/// The body of a request, and the name and the engine of the model that it asks.
async fn checked(
    app: &App,
    request: Request,
) -> Result<(Map<String, Value>, String, SharedEngine), Refusal> {
    let body = object(request, &app.limits).await?;
    let served = app.models.asked(&body)?;
    check(&body)?;
    Ok((body, served.name.clone(), served.now().engine))
}

/// Answers that wait for a slow reader before the engine waits too, and whoever is next:
/// more than any context has tokens.
const WAITING: usize = 1 << 20;

const OTHER: &str = "mistral.rs answered with something else than what was asked for";

/// The request in mistral.rs's own type. Each engine knows one model, its default.
fn typed<T: DeserializeOwned>(mut body: Map<String, Value>) -> Result<T, Refusal> {
    body.insert("model".into(), json!(DEFAULT));
    serde_json::from_value(Value::Object(body)).map_err(Refusal::invalid)
}

/// Sends `request` and waits for the first of its answers, so that a refusal has its own
/// status, also where the answer is a stream.
///
/// A stream that nobody reads any more is let go, and the engine ends it. The answer to
/// any other request is received to its end, also when the client has gone: where nobody
/// receives it, mistral.rs 0.8.1 fails every request of the same batch, and its engine
/// panics.
async fn ask(
    engine: &SharedEngine,
    request: EngineRequest,
    mut answers: Receiver<Answer>,
) -> Result<Receiver<Answer>, Refusal> {
    let EngineRequest::Normal(normal) = &request else {
        return Err(Refusal::failed(OTHER));
    };
    let (streams, engines) = (normal.is_streaming, normal.response.downgrade());
    let (begun, first) = oneshot::channel();
    let (tx, rx) = channel(WAITING);
    let (kept, turn) = (engine.clone(), engine.turn.clone().lock_owned().await);
    // On its own from the start: this future is dropped when the client goes.
    tokio::spawn(async move {
        let mut next = answers.recv().await;
        let _ = begun.send(refused(next.as_ref()));
        while let Some(answer) = next {
            if tx.send(without_backtraces(answer)).await.is_err() && streams {
                break;
            }
            next = answers.recv().await;
        }
        drop(answers);
        // The engine may be at a last step of it.
        while engines.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop((turn, kept));
    });
    send_request(&engine.mistralrs, request)
        .await
        .map_err(Refusal::failed)?;
    match first.await {
        Ok(None) => Ok(rx),
        Ok(Some(refusal)) => Err(refusal),
        Err(e) => Err(Refusal::failed(e)),
    }
}

/// An error in the middle of a stream is sent without a backtrace too.
fn without_backtraces(answer: Answer) -> Answer {
    let short = |text: String| without_backtrace(&text).to_owned();
    match answer {
        Answer::ModelError(text, rest) => Answer::ModelError(short(text), rest),
        Answer::CompletionModelError(text, rest) => Answer::CompletionModelError(short(text), rest),
        other => other,
    }
}

fn refused(answer: Option<&Answer>) -> Option<Refusal> {
    match answer {
        Some(Answer::ValidationError(e)) => Some(Refusal::invalid(sanitize_error_message(&**e))),
        Some(Answer::InternalError(e)) => Some(Refusal::failed(sanitize_error_message(&**e))),
        Some(Answer::ModelError(text, _)) | Some(Answer::CompletionModelError(text, _)) => {
            Some(Refusal::failed(text))
        }
        Some(_) => None,
        None => Some(Refusal::failed("the engine stopped; ask again")),
    }
}
