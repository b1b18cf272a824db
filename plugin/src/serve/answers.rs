//! Chats and completions: from a request to the answers of the model it names.

use super::asking::{AskedPrompt, Said, ask, push, refused, whole};
use super::fields::{Body, Endpoint, Fields};
use super::messages::conversation;
use super::models::App;
use super::reply::Reply;
use super::request::{Refusal, object};
use crate::runtime::SharedEngine;
use axum::Json;
use axum::extract::{Request, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// `POST /v1/chat/completions`.
pub async fn chat(State(app): State<App>, request: Request) -> Result<Response, Refusal> {
    let (body, name, engine) = asked(&app, request).await?;
    let fields = Fields::read(&body, Endpoint::Chat)?;
    let conversation = conversation(&Body(&body))?;
    if !engine.chat.has_template() {
        let message = "this model has no chat template; send a `prompt` to /v1/completions";
        return Err(Refusal::field("messages", message));
    }
    let written = engine.chat.write(&conversation);
    let written = written.map_err(|e| Refusal::field("messages", Refusal::without_path(e)))?;
    let prompt = AskedPrompt {
        ids: engine.chat.ids(&written).map_err(Refusal::failed)?,
        chat: Some(written),
    };
    let reply = Reply::chat(engine.chat.clone(), name, &fields);
    answer(engine, prompt, fields, reply).await
}

/// `POST /v1/completions`.
pub async fn complete(State(app): State<App>, request: Request) -> Result<Response, Refusal> {
    let (body, name, engine) = asked(&app, request).await?;
    let fields = Fields::read(&body, Endpoint::Completion)?;
    let Some(Value::String(text)) = body.get("prompt") else {
        return Err(Refusal::field("prompt", "expected `prompt` to be a text"));
    };
    let ids = engine.chat.encode(text);
    let ids = ids.map_err(|e| Refusal::field("prompt", Refusal::without_path(e)))?;
    let reply = Reply::completion(engine.chat.clone(), name, &fields, text);
    answer(engine, AskedPrompt { ids, chat: None }, fields, reply).await
}

/// The body of a request, and the name and the engine of the model that it asks.
async fn asked(
    app: &App,
    request: Request,
) -> Result<(Map<String, Value>, String, SharedEngine), Refusal> {
    let body = object(request, &app.limits).await?;
    let served = app.models.asked(&body)?;
    Ok((body, served.name.clone(), served.now().engine))
}

/// The answers to `prompt`, whole or as a stream. Several are made one after the other, because
/// each has random numbers of its own.
async fn answer(
    engine: SharedEngine,
    prompt: AskedPrompt,
    fields: Fields,
    mut reply: Reply,
) -> Result<Response, Refusal> {
    let mut said = ask(&engine, &prompt, &fields, 0).await?;
    if fields.stream {
        let (tx, mut rx) = channel(EVENTS);
        tokio::spawn(async move {
            let done = stream(&engine, &prompt, &fields, &mut reply, said, &tx).await;
            if let Err(Some(refusal)) = done {
                let _ = tx.send(event(&refusal.body())).await;
            }
            let _ = tx.send(Event::default().data("[DONE]")).await;
        });
        let events = futures::stream::poll_fn(move |cx| rx.poll_recv(cx));
        let events = futures::StreamExt::map(events, Ok::<_, Infallible>);
        let alive = KeepAlive::new().interval(KEEP_ALIVE);
        return Ok(Sse::new(events).keep_alive(alive).into_response());
    }
    for choice in 0..fields.n {
        if choice > 0 {
            said = ask(&engine, &prompt, &fields, choice as u64).await?;
        }
        let (answer, picked) = whole(&mut said).await?;
        reply.add(choice, answer, &picked)?;
    }
    Ok(Json(reply.whole()).into_response())
}

/// Events that wait for a slow reader.
const EVENTS: usize = 1000;

/// After this time without an event the server sends a comment, so that no proxy closes the
/// connection.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Sends the chunks of all answers. The error is the reason for an early end, or nothing when
/// the client has gone.
async fn stream(
    engine: &SharedEngine,
    prompt: &AskedPrompt,
    fields: &Fields,
    reply: &mut Reply,
    mut said: Receiver<Said>,
    events: &Sender<Event>,
) -> Result<(), Option<Refusal>> {
    let send = async |value: &Value| events.send(event(value)).await.map_err(|_| None);
    for choice in 0..fields.n {
        if choice > 0 {
            said = ask(engine, prompt, fields, choice as u64).await?;
        }
        let mut picked = Vec::new();
        loop {
            let next = said.recv().await;
            let answer = match (refused(next.as_ref()), next) {
                (_, Some(Said::Token(token))) => {
                    push(&mut picked, token);
                    continue;
                }
                (None, Some(Said::Answer(answer))) => answer,
                // An answer that ends within a character has no last chunk in 0.8.1.
                (_, None) if !picked.is_empty() => reply.unsent(&picked),
                (refusal, _) => return Err(refusal),
            };
            let tokens = std::mem::take(&mut picked);
            let (chunk, ended) = reply.chunk(choice, answer, &tokens)?;
            send(&chunk).await?;
            if ended {
                break;
            }
        }
    }
    match reply.usage_chunk(prompt.ids.len()) {
        Some(chunk) => send(&chunk).await,
        None => Ok(()),
    }
}

fn event(value: &Value) -> Event {
    Event::default().data(value.to_string())
}
