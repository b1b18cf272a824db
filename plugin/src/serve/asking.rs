//! One answer of mistral.rs to one prompt.
//!
//! Whatever mistral.rs 0.8.1 would do with text is done before or after it: the prompt comes
//! rendered, and tokens are chosen here, by a logits processor. The engine's own sampler ignores
//! `seed` and `logit_bias`, and its log-probabilities are logarithms to base 10 of filtered
//! probabilities, or of logits.

use super::fields::Fields;
use super::request::Refusal;
use super::sampling::{Picked, RequestSampling};
use crate::runtime::{SharedEngine, without_backtrace};
use candle_core::{Device, Tensor};
use mistralrs::{Function, RequestLike, TextMessageRole, TextMessages, Tool, ToolChoice, ToolType};
use mistralrs_core::{
    CustomLogitsProcessor, NormalRequest, Request, RequestMessage, Response, SamplingParams,
    StopTokens,
};
use mistralrs_server_core::util::sanitize_error_message;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

/// What a model is to answer or to continue.
#[derive(Debug, Clone)]
pub struct AskedPrompt {
    /// A chat as its template wrote it; the answer is parsed for tool calls and reasoning. None
    /// for raw text.
    pub chat: Option<String>,
    /// The tokens.
    pub ids: Vec<u32>,
}

/// What comes back.
pub enum Said {
    /// A token was chosen.
    Token(Picked),
    /// The engine's answer, or a chunk of it.
    Answer(Response),
}

/// Number of tokens that are buffered for a slow reader: more than any context has, so a slow
/// reader never makes the engine, or the next request, wait.
const WAITING: usize = 1 << 20;

/// Answers on their way from the engine.
const ON_THE_WAY: usize = 10_000;

/// Has `engine` answer `prompt`; answer `choice` of several draws random numbers of its own.
/// Waits for the first sign of the answer, so that a refusal has its own status, also where the
/// answer is a stream.
///
/// A stream that nobody reads any more is let go, and the engine ends it. The answer to
/// any other request is received to its end, also when the client has gone: where nobody
/// receives it, mistral.rs 0.8.1 fails every request of the same batch, and its engine
/// panics.
pub async fn ask(
    engine: &SharedEngine,
    prompt: &AskedPrompt,
    fields: &Fields,
    choice: u64,
) -> Result<Receiver<Said>, Refusal> {
    let (sender, mut answers) = channel(ON_THE_WAY);
    let engines = sender.downgrade();
    let request = request(engine, prompt, fields, choice, sender)?;
    let (begun, first) = oneshot::channel();
    let (tx, rx) = channel(WAITING);
    let (kept, turn) = (engine.clone(), engine.turn.clone().lock_owned().await);
    let streams = fields.stream;
    // On its own from the start: this future is dropped when the client goes.
    tokio::spawn(async move {
        let mut next = answers.recv().await.map(said);
        let _ = begun.send(refused(next.as_ref()));
        while let Some(answer) = next {
            if tx.send(answer).await.is_err() && streams {
                break;
            }
            next = answers.recv().await.map(said);
        }
        drop(answers);
        // The engine may be at a last step of it.
        while engines.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop((turn, kept));
    });
    let sender = engine.mistralrs.get_sender(None);
    let sent = sender.map_err(Refusal::failed)?.send(request).await;
    sent.map_err(Refusal::failed)?;
    match first.await {
        Ok(None) => Ok(rx),
        Ok(Some(refusal)) => Err(refusal),
        Err(e) => Err(Refusal::failed(e)),
    }
}

/// The engine's answer and all its tokens.
pub async fn whole(said: &mut Receiver<Said>) -> Result<(Response, Vec<Picked>), Refusal> {
    let mut picked = Vec::new();
    loop {
        let next = said.recv().await;
        match (refused(next.as_ref()), next) {
            (Some(refusal), _) => return Err(refusal),
            (None, Some(Said::Token(token))) => push(&mut picked, token),
            (None, Some(Said::Answer(answer))) => return Ok((answer, picked)),
            (None, None) => return Err(Refusal::failed("the engine stopped; ask again")),
        }
    }
}

/// Under a grammar a token may be chosen twice; the second choice counts.
pub fn push(picked: &mut Vec<Picked>, token: Picked) {
    picked.retain(|earlier| earlier.step != token.step);
    picked.push(token);
}

/// Why there is no answer, if there is none.
pub fn refused(said: Option<&Said>) -> Option<Refusal> {
    let answer = match said {
        Some(Said::Answer(answer)) => answer,
        Some(Said::Token(_)) => return None,
        None => return Some(Refusal::failed("the engine stopped; ask again")),
    };
    match answer {
        Response::ValidationError(e) => Some(Refusal::invalid(sanitize_error_message(&**e))),
        Response::InternalError(e) => Some(Refusal::failed(sanitize_error_message(&**e))),
        Response::ModelError(text, _) | Response::CompletionModelError(text, _) => {
            Some(Refusal::failed(without_backtrace(text)))
        }
        _ => None,
    }
}

fn request(
    engine: &SharedEngine,
    prompt: &AskedPrompt,
    fields: &Fields,
    choice: u64,
    response: Sender<Response>,
) -> Result<Request, Refusal> {
    let length = prompt.ids.len();
    if length == 0 || length > engine.context {
        let context = engine.context;
        let message = format!(
            "expected a prompt of 1 to {context} tokens, the model's sequence length, found {length}"
        );
        return Err(Refusal::invalid(message));
    }
    let room = (engine.context - length).max(1);
    let picker = Picker {
        sampling: fields.sampling.clone(),
        prompt: prompt.ids.clone(),
        top: fields.logprobs,
        answers: response.clone(),
        state: Mutex::new(State::of(&fields.sampling, choice)),
    };
    let messages = match &prompt.chat {
        // The template of the engine prints the text of its only message.
        Some(text) => TextMessages::new()
            .add_message(TextMessageRole::User, text)
            .take_messages(),
        None => RequestMessage::CompletionTokens(prompt.ids.clone()),
    };
    let sampling = SamplingParams {
        temperature: Some(0.),
        max_len: Some(fields.max_tokens.map_or(room, |most| most.min(room))),
        stop_toks: (!fields.stop.is_empty()).then(|| StopTokens::Seqs(fields.stop.clone())),
        dry_params: fields.dry.clone(),
        ..SamplingParams::neutral()
    };
    let id = engine.mistralrs.next_request_id();
    let mut request = NormalRequest::new_simple(messages, sampling, response, id, None, None);
    request.is_streaming = fields.stream;
    request.constraint = fields.constraint.clone();
    request.logits_processors = Some(vec![Arc::new(picker)]);
    if fields.calls {
        // Only so that the engine looks for calls in the answer: the template has their schemas.
        let function = Function {
            description: None,
            name: String::new(),
            parameters: None,
        };
        let tp = ToolType::Function;
        request.tools = Some(vec![Tool { tp, function }]);
        request.tool_choice = Some(ToolChoice::Auto);
    }
    Ok(Request::Normal(Box::new(request)))
}

/// Chooses the tokens of one answer, and reports them between the engine's own answers.
struct Picker {
    sampling: RequestSampling,
    prompt: Vec<u32>,
    top: Option<usize>,
    answers: Sender<Response>,
    state: Mutex<State>,
}

struct State {
    rng: ChaCha8Rng,
    /// The step at which the engine is, and the logits that it had there first: under a grammar
    /// it asks again with those of forbidden tokens at minus infinity.
    first: Option<(usize, Vec<f32>)>,
}

impl State {
    fn of(sampling: &RequestSampling, choice: u64) -> Self {
        let seed = sampling.seed.unwrap_or_else(rand::random);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(choice);
        Self { rng, first: None }
    }
}

impl CustomLogitsProcessor for Picker {
    fn apply(&self, logits: &Tensor, context: &[u32]) -> candle_core::Result<Tensor> {
        let step = context.len().saturating_sub(self.prompt.len());
        // At the first token the engine leaves out what its prefix cache holds.
        let known = match step {
            0 => self.prompt.ends_with(context),
            _ => context.starts_with(&self.prompt),
        };
        if !known {
            candle_core::bail!("the engine computes another prompt than it was given");
        }
        let context = if step == 0 { &self.prompt } else { context };
        let logits: Vec<f32> = logits.to_vec1()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(token) = self.sampling.pick(&logits, context, &mut state.rng) else {
            candle_core::bail!("the model's logits are not numbers");
        };
        let again = state.first.as_ref().is_some_and(|(at, _)| *at == step);
        let mut answer = Vec::from([step as u32, token]);
        let mut logprobs = Vec::new();
        if let Some(top) = self.top {
            let raw = match &state.first {
                Some((_, first)) if again => first,
                _ => &logits,
            };
            let picked = Picked::of(raw, step, token, top);
            answer.extend(picked.top.iter().map(|(id, _)| id));
            let all = [picked.logprob].into_iter();
            let all: Vec<f32> = all.chain(picked.top.iter().map(|(_, lp)| *lp)).collect();
            logprobs.push(Tensor::new(all, &Device::Cpu)?);
        }
        // In the engine's own channel, so that a token comes before the chunk that holds it. If
        // nobody reads any more, the engine finds out by itself.
        let _ = self.answers.try_send(Response::Raw {
            logits_chunks: logprobs,
            tokens: answer,
        });
        let mut only = vec![f32::NEG_INFINITY; logits.len()];
        only[token as usize] = 1.;
        if !again {
            state.first = Some((step, logits));
        }
        Tensor::new(only, &Device::Cpu)
    }
}

/// An answer of the engine, or the token that a [`Picker`] has put between them.
fn said(answer: Response) -> Said {
    let Response::Raw {
        logits_chunks,
        tokens,
    } = answer
    else {
        return Said::Answer(answer);
    };
    let logprobs = logits_chunks.first().and_then(|l| l.to_vec1::<f32>().ok());
    let logprobs = logprobs.unwrap_or_default();
    let of = |i: usize| logprobs.get(i).copied().unwrap_or_default();
    let ids = tokens.iter().skip(2).zip(1..);
    Said::Token(Picked {
        step: tokens.first().map_or(0, |step| *step as usize),
        token: tokens.get(1).copied().unwrap_or_default(),
        logprob: of(0),
        top: ids.map(|(id, i)| (*id, of(i))).collect(),
    })
}
