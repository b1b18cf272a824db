//! A model in mistral.rs itself, for one caller: what parity is measured against, and what
//! answers where a table says that mistral.rs does.

use super::load;
use super::message::{failed, said};
use crate::error::{Error, Result};
use crate::model::ModelDir;
use candle_core::{DType, Tensor};
use mistralrs::{
    Model, NormalRequest, Request, RequestBuilder, RequestMessage, Response, ResponseOk,
    SamplingParams, TextMessageRole,
};
use std::future::Future;
use std::path::Path;

const NO_CHOICES: &str = "an answer without choices";

/// A model in mistral.rs's own engine: f32, on the CPU, without prefix cache.
///
/// Every call blocks; none may be made from within another tokio runtime.
pub struct Engine {
    // before the runtime, so that it is dropped first
    model: Model,
    runtime: tokio::runtime::Runtime,
    place: String,
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
    /// [`Error::Runtime`] with what mistral.rs said; also for an adapter on a UQFF,
    /// which it would ignore without a word.
    pub fn load(path: &Path, adapter: Option<&Path>) -> Result<Self> {
        let place = path.display().to_string();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|e| failed(&place, &e.to_string()))?;
        let source = ModelDir::at(path)?;
        if let (true, Some(adapter)) = (source.is_quantized(), adapter) {
            let adapter = adapter.display();
            let reason =
                format!("it ignores adapters on a UQFF; merge {adapter} into the full model first");
            return Err(failed(place, &reason));
        }
        let builder = load::builder(&source)
            .with_force_cpu()
            .with_prefix_cache_n(None);
        let loaded = load::pipeline(runtime.handle(), &place, builder, adapter)?;
        let model = runtime.block_on(load::start(loaded))?;
        Ok(Self {
            model,
            runtime,
            place,
        })
    }

    /// The logits that predict what follows each token of `ids`, one sequence alone.
    ///
    /// Shapes: `ids` (T,), result (T, V), f32.
    ///
    /// # Errors
    /// [`Error::Runtime`] with what mistral.rs said.
    pub fn logits(&self, ids: &[u32]) -> Result<Tensor> {
        match self.complete(ids, None)? {
            ResponseOk::Raw { logits_chunks, .. } => {
                Ok(Tensor::cat(&logits_chunks, 0)?.to_dtype(DType::F32)?)
            }
            other => Err(self.unexpected(&other)),
        }
    }

    /// The text of the most likely continuation of `ids`, token by token.
    ///
    /// # Errors
    /// [`Error::Runtime`] with what mistral.rs said.
    pub fn generate(&self, ids: &[u32], max_new_tokens: usize) -> Result<String> {
        self.text(self.complete(ids, Some(max_new_tokens))?)
    }

    fn text(&self, answer: ResponseOk) -> Result<String> {
        match answer {
            ResponseOk::CompletionDone(done) => done
                .choices
                .into_iter()
                .next()
                .map(|choice| choice.text)
                .ok_or_else(|| failed(&self.place, NO_CHOICES)),
            other => Err(self.unexpected(&other)),
        }
    }

    /// The same for several prompts, all of which are with the engine at once. (On a CPU
    /// mistral.rs 0.8.1 mixes up prompts of different lengths that it computes together.)
    ///
    /// # Errors
    /// [`Error::Runtime`] with what mistral.rs said.
    pub fn generate_together(
        &self,
        prompts: &[Vec<u32>],
        max_new_tokens: usize,
    ) -> Result<Vec<String>> {
        let all = prompts
            .iter()
            .map(|ids| self.request(ids, Some(max_new_tokens)));
        let answers = self.runtime.block_on(futures::future::join_all(all));
        answers
            .into_iter()
            .map(|a| self.text(self.answered(a)?))
            .collect()
    }

    /// The most likely answer to `messages` (role, content) in the model's chat template.
    ///
    /// mistral.rs lets the tokenizer add its special tokens to what the template wrote,
    /// so a model whose template and tokenizer both write `<s>` reads it twice. Where
    /// that matters, apply the template oneself and use [`Engine::generate`].
    ///
    /// # Errors
    /// [`Error::Runtime`] with what mistral.rs said.
    pub fn chat(&self, messages: &[(String, String)], max_new_tokens: usize) -> Result<String> {
        let request = RequestBuilder::new()
            .set_deterministic_sampler()
            .set_sampler_max_len(max_new_tokens);
        let request = messages.iter().fold(request, |request, (role, content)| {
            let role = match role.as_str() {
                "system" => TextMessageRole::System,
                "user" => TextMessageRole::User,
                "assistant" => TextMessageRole::Assistant,
                "tool" => TextMessageRole::Tool,
                other => TextMessageRole::Custom(other.to_owned()),
            };
            request.add_message(role, content)
        });
        let done = self
            .runtime
            .block_on(self.model.send_chat_request(request))
            .map_err(|e| failed(&self.place, &e.to_string()))?;
        let content = done.choices.into_iter().next().map(|c| c.message.content);
        content
            .map(Option::unwrap_or_default)
            .ok_or_else(|| failed(&self.place, NO_CHOICES))
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Raw logits of the prompt when `max_new_tokens` is none, else a greedy continuation.
    fn complete(&self, ids: &[u32], max_new_tokens: Option<usize>) -> Result<ResponseOk> {
        self.answered(self.runtime.block_on(self.request(ids, max_new_tokens)))
    }

    async fn request(
        &self,
        ids: &[u32],
        max_new_tokens: Option<usize>,
    ) -> std::result::Result<Response, String> {
        let (tx, mut rx) = tokio::sync::mpsc::channel(1);
        let engine = self.model.inner();
        let mut sampling = SamplingParams::deterministic();
        sampling.max_len = max_new_tokens;
        let mut request = NormalRequest::new_simple(
            RequestMessage::CompletionTokens(ids.to_vec()),
            sampling,
            tx,
            engine.next_request_id(),
            None,
            None,
        );
        request.return_raw_logits = max_new_tokens.is_none();
        let sender = engine.get_sender(None).map_err(|e| e.to_string())?;
        let request = Request::Normal(Box::new(request));
        sender.send(request).await.map_err(|e| e.to_string())?;
        rx.recv()
            .await
            .ok_or_else(|| "the engine stopped".to_owned())
    }

    fn answered(&self, answer: std::result::Result<Response, String>) -> Result<ResponseOk> {
        answer
            .map_err(|reason| failed(&self.place, &reason))?
            .as_result()
            .map_err(|e| failed(&self.place, &said(*e)))
    }

    fn unexpected(&self, answer: &ResponseOk) -> Error {
        let mut text = format!("{answer:?}");
        text.truncate(text.find(['(', ' ', '{']).unwrap_or(text.len()));
        failed(&self.place, &format!("an answer of another kind, {text}"))
    }
}
