//! A model in mistral.rs itself, for one caller: the reference of parity tests, and the source of
//! answers that a table attributes to mistral.rs. And how a running model is asked.

use super::differs::check;
use super::load::{self, failed};
use super::view::EngineView;
use crate::error::Result;
use crate::model::ModelDir;
use candle_core::{DType, Tensor};
use mistralrs::{Model, NormalRequest, Request, RequestMessage, ResponseOk, SamplingParams};
use mistralrs_core::ResponseErr;
use reptune_recipes::Chat;
use std::future::Future;
use std::path::Path;

/// A model in mistral.rs's own engine: f32, on the CPU, without prefix cache.
///
/// Every call blocks; none may be made from within another tokio runtime.
pub struct Engine {
    // before the runtime, so that it is dropped first
    pub(crate) model: Model,
    runtime: tokio::runtime::Runtime,
    place: String,
    pub(crate) chat: Chat,
}

impl Engine {
    /// Loads a Hugging Face directory, a UQFF directory or a `.uqff` file; `adapter` is
    /// a PEFT directory that mistral.rs itself merges while it loads.
    ///
    /// mistral.rs takes entries of `target_modules` as patterns, knows no
    /// `layers_to_transform` and reads `lora_alpha / r` as the scale: directories
    /// written by [`reptune_adapters::lora::peft::save`] mean the same to it.
    ///
    /// # Errors
    /// `Error::Runtime` with what mistral.rs said; also for an adapter on a UQFF, which it would
    /// ignore.
    pub fn load(path: &Path, adapter: Option<&Path>) -> Result<Self> {
        let place = path.display().to_string();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|e| failed(&place, e))?;
        let source = ModelDir::at(path)?;
        if let (true, Some(adapter)) = (source.is_quantized(), adapter) {
            let reason = "it ignores adapters on a UQFF";
            let hint = format!("merge {} into the full model first", adapter.display());
            return Err(failed(place, format!("{reason}; {hint}")));
        }
        check(&source)?;
        let chat = Chat::load(&source.directory)?;
        let view = EngineView::of(&source, &chat)?;
        let builder = load::builder(&view.model)?
            .with_force_cpu()
            .with_prefix_cache_n(None);
        let loaded = load::pipeline(runtime.handle(), &place, builder, adapter)?;
        let model = runtime.block_on(load::start(loaded))?;
        Ok(Self {
            model,
            runtime,
            place,
            chat,
        })
    }

    /// The logits that predict what follows each token of `ids`, one sequence alone.
    ///
    /// Shapes: `ids` (T,), result (T, V), f32.
    ///
    /// # Errors
    /// `Error::Runtime` with what mistral.rs said.
    pub fn logits(&self, ids: &[u32]) -> Result<Tensor> {
        let sampling = SamplingParams::deterministic();
        let asked = ask(&self.model, ids.to_vec(), sampling, true);
        match self.block_on(asked) {
            Ok(ResponseOk::Raw { logits_chunks, .. }) => {
                Ok(Tensor::cat(&logits_chunks, 0)?.to_dtype(DType::F32)?)
            }
            Ok(other) => Err(failed(&self.place, unexpected(&other))),
            Err(reason) => Err(failed(&self.place, reason)),
        }
    }

    /// The text of the most likely continuation of `ids`, token by token.
    ///
    /// # Errors
    /// `Error::Runtime` with what mistral.rs said.
    pub fn generate(&self, ids: &[u32], max_new_tokens: usize) -> Result<String> {
        self.said(self.block_on(self.greedy(ids, max_new_tokens)))
    }

    /// The same for several prompts, which the engine gets all at once. (On a CPU
    /// mistral.rs 0.8.1 mixes up prompts of different lengths that it computes together.)
    ///
    /// # Errors
    /// `Error::Runtime` with what mistral.rs said.
    pub fn generate_together(
        &self,
        prompts: &[Vec<u32>],
        max_new_tokens: usize,
    ) -> Result<Vec<String>> {
        let all = prompts.iter().map(|ids| self.greedy(ids, max_new_tokens));
        let answers = self.block_on(futures::future::join_all(all));
        answers.into_iter().map(|a| self.said(a)).collect()
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    async fn greedy(&self, ids: &[u32], max_new_tokens: usize) -> Answer<String> {
        let mut sampling = SamplingParams::deterministic();
        sampling.max_len = Some(max_new_tokens);
        complete(&self.model, ids.to_vec(), sampling).await
    }

    fn said(&self, answer: Answer<String>) -> Result<String> {
        answer.map_err(|reason| failed(&self.place, reason))
    }
}

/// What mistral.rs answered, or its error message.
type Answer<T> = std::result::Result<T, String>;

/// Sends tokens, which no template and no tokenizer of the engine touches. With `logits` the answer
/// is the raw logits of the prompt, and nothing is generated.
async fn ask(
    model: &Model,
    ids: Vec<u32>,
    sampling: SamplingParams,
    logits: bool,
) -> Answer<ResponseOk> {
    let (tx, mut rx) = tokio::sync::mpsc::channel(1);
    let engine = model.inner();
    let id = engine.next_request_id();
    let message = RequestMessage::CompletionTokens(ids);
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

/// The continuation of `ids`.
pub(crate) async fn complete(
    model: &Model,
    ids: Vec<u32>,
    sampling: SamplingParams,
) -> Answer<String> {
    match ask(model, ids, sampling, false).await? {
        ResponseOk::CompletionDone(done) => {
            let choice = done.choices.into_iter().next();
            Ok(choice.ok_or(NO_CHOICES)?.text)
        }
        other => Err(unexpected(&other)),
    }
}

const NO_CHOICES: &str = "an answer without choices";

/// An answer of another kind than was asked for.
fn unexpected(answer: &ResponseOk) -> String {
    let mut text = format!("{answer:?}");
    text.truncate(text.find(['(', ' ', '{']).unwrap_or(text.len()));
    format!("an answer of another kind, {text}")
}
