//! Requests to a running model, and their answers.

use mistralrs::{
    Model, NormalRequest, Request, RequestBuilder, RequestMessage, ResponseOk, SamplingParams,
};
use mistralrs_core::ResponseErr;
use std::result::Result;

/// Sends `message` past the chat template. With `logits` the answer is the raw logits of the
/// prompt, and nothing is generated.
///
/// # Errors
/// What mistral.rs said.
pub(super) async fn ask(
    model: &Model,
    message: RequestMessage,
    sampling: SamplingParams,
    logits: bool,
) -> Result<ResponseOk, String> {
    let (tx, mut rx) = tokio::sync::mpsc::channel(1);
    let engine = model.inner();
    let id = engine.next_request_id();
    let mut request = NormalRequest::new_simple(message, sampling, tx, id, None, None);
    request.return_raw_logits = logits;
    let sender = engine.get_sender(None).map_err(|e| e.to_string())?;
    let request = Request::Normal(Box::new(request));
    sender.send(request).await.map_err(|e| e.to_string())?;
    let answer = rx.recv().await.ok_or("the engine stopped")?;
    answer.as_result().map_err(|e| match *e {
        // their Display prints the whole answer so far
        ResponseErr::ModelError(text, _) | ResponseErr::CompletionModelError(text, _) => text,
        other => other.to_string(),
    })
}

/// The continuation of `message`, which goes past the chat template.
///
/// # Errors
/// What mistral.rs said.
pub(crate) async fn complete(
    model: &Model,
    message: RequestMessage,
    sampling: SamplingParams,
) -> Result<String, String> {
    match ask(model, message, sampling, false).await? {
        ResponseOk::CompletionDone(done) => {
            let choice = done.choices.into_iter().next();
            Ok(choice.ok_or(NO_CHOICES)?.text)
        }
        other => Err(unexpected(&other)),
    }
}

/// The answer to a chat, through the model's own template.
///
/// # Errors
/// What mistral.rs said.
pub(crate) async fn chat(model: &Model, request: RequestBuilder) -> Result<String, String> {
    let done = model.send_chat_request(request).await;
    let choice = done.map_err(|e| e.to_string())?.choices.into_iter().next();
    Ok(choice
        .ok_or(NO_CHOICES)?
        .message
        .content
        .unwrap_or_default())
}

const NO_CHOICES: &str = "an answer without choices";

/// An answer of another kind than was asked for.
pub(super) fn unexpected(answer: &ResponseOk) -> String {
    let mut text = format!("{answer:?}");
    text.truncate(text.find(['(', ' ', '{']).unwrap_or(text.len()));
    format!("an answer of another kind, {text}")
}
