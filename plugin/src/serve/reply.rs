//! Answers in the shape of OpenAI's interface.
//!
//! mistral.rs 0.8.1 puts the path of the weights in place of the model's name, sends
//! log-probabilities in a shape of its own, and counts tokens only in streamed chats.

use super::fields::Fields;
use super::request::Refusal;
use super::sampling::Picked;
use mistralrs_core::{
    ChatCompletionChunkResponse, ChunkChoice, CompletionChunkChoice, CompletionChunkResponse,
    Delta, Response,
};
use reptune_recipes::Chat;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The answers to one request, as they come.
pub struct Reply {
    chat: Arc<Chat>,
    model: String,
    /// The prompt of a completion, and whether answers begin with it.
    prompt: Option<String>,
    echo: bool,
    logprobs: bool,
    include_usage: bool,
    /// Texts that end an answer. mistral.rs 0.8.1 streams them, and a token after them.
    stop: Vec<String>,
    /// What a stream holds back because one of them may begin there.
    held: String,
    /// The first answer, to which the others are added.
    answer: Option<Value>,
    /// Of the first chunk: all have the same.
    id: Option<Value>,
    /// Tokens of all answers.
    tokens: usize,
    /// Characters of the answer so far.
    characters: usize,
}

impl Reply {
    /// The reply to a chat.
    pub fn chat(chat: Arc<Chat>, model: String, fields: &Fields) -> Self {
        Self {
            chat,
            model,
            prompt: None,
            echo: false,
            logprobs: fields.logprobs.is_some(),
            include_usage: fields.include_usage,
            stop: fields.stop.clone(),
            held: String::new(),
            answer: None,
            id: None,
            tokens: 0,
            characters: 0,
        }
    }

    /// The reply to a completion of `prompt`.
    pub fn completion(chat: Arc<Chat>, model: String, fields: &Fields, prompt: &str) -> Self {
        Self {
            prompt: Some(prompt.to_owned()),
            echo: fields.echo,
            ..Self::chat(chat, model, fields)
        }
    }

    /// Adds the answer `choice`, which has the tokens `picked`.
    pub fn add(
        &mut self,
        choice: usize,
        answer: Response,
        picked: &[Picked],
    ) -> Result<(), Refusal> {
        let mut answer = match answer {
            Response::Done(answer) => value(answer)?,
            Response::CompletionDone(answer) => value(answer)?,
            _ => return Err(Refusal::failed(OTHER)),
        };
        let mut one = answer["choices"][0].take();
        one["index"] = json!(choice);
        one["logprobs"] = self.logprobs(picked);
        if let (true, Some(prompt), Some(text)) = (self.echo, &self.prompt, one["text"].as_str()) {
            one["text"] = json!(format!("{prompt}{text}"));
        }
        let tokens = answer["usage"]["completion_tokens"]
            .as_u64()
            .unwrap_or_default();
        self.tokens += tokens as usize;
        let all = self.answer.get_or_insert_with(|| {
            answer["choices"] = json!([]);
            answer
        });
        if let Value::Array(choices) = &mut all["choices"] {
            choices.push(one);
        }
        Ok(())
    }

    /// All answers.
    pub fn whole(self) -> Value {
        let mut answer = self.answer.unwrap_or_default();
        let prompt = answer["usage"]["prompt_tokens"]
            .as_u64()
            .unwrap_or_default() as usize;
        answer["model"] = json!(self.model);
        answer["usage"]["completion_tokens"] = json!(self.tokens);
        answer["usage"]["total_tokens"] = json!(prompt + self.tokens);
        answer
    }

    /// A chunk of the answer `choice` with the tokens chosen since the last one, and whether it
    /// is the last.
    pub fn chunk(
        &mut self,
        choice: usize,
        answer: Response,
        picked: &[Picked],
    ) -> Result<(Value, bool), Refusal> {
        let mut chunk = match answer {
            Response::Chunk(chunk) => value(chunk)?,
            Response::CompletionChunk(chunk) => value(chunk)?,
            _ => return Err(Refusal::failed(OTHER)),
        };
        chunk["model"] = json!(self.model);
        chunk["id"] = self.id.get_or_insert_with(|| chunk["id"].clone()).clone();
        self.count_usage(&mut chunk, Value::Null);
        let begins = picked.first().is_some_and(|token| token.step == 0);
        if begins {
            self.characters = 0;
            self.held.clear();
        }
        self.tokens += picked.len();
        let one = &mut chunk["choices"][0];
        one["index"] = json!(choice);
        one["logprobs"] = self.logprobs(picked);
        let mut ended = !one["finish_reason"].is_null();
        let text = match self.prompt {
            None => &mut one["delta"]["content"],
            Some(_) => &mut one["text"],
        };
        let (sent, stopped) = self.released(text.as_str().unwrap_or_default(), ended);
        let echoed = self.prompt.as_deref().filter(|_| self.echo && begins);
        let sent = echoed.unwrap_or_default().to_owned() + &sent;
        if !(text.is_null() && sent.is_empty()) {
            *text = json!(sent);
        }
        if stopped {
            one["finish_reason"] = json!("stop");
            ended = true;
        }
        Ok((chunk, ended))
    }

    /// A last chunk with the tokens `picked`, none of which was in a chunk.
    pub fn unsent(&self, picked: &[Picked]) -> Response {
        let stops = |token: &&Picked| self.chat.stop.contains(&token.token);
        let said = picked.iter().filter(|token| !stops(token));
        let ids: Vec<u32> = said.map(|token| token.token).collect();
        let text = self.chat.decode(&ids).unwrap_or_default();
        let reason = if picked.iter().any(|token| stops(&token)) {
            "stop"
        } else {
            "length"
        };
        let finish_reason = Some(reason.to_owned());
        let (id, model, system_fingerprint) = (String::new(), String::new(), "local".to_owned());
        let created = std::time::UNIX_EPOCH
            .elapsed()
            .map_or(0, |t| u128::from(t.as_secs()));
        if self.prompt.is_some() {
            let choice = CompletionChunkChoice {
                text,
                index: 0,
                logprobs: None,
                finish_reason,
            };
            return Response::CompletionChunk(CompletionChunkResponse {
                id,
                choices: vec![choice],
                created,
                model,
                system_fingerprint,
                object: "text_completion".into(),
            });
        }
        let choice = ChunkChoice {
            finish_reason,
            index: 0,
            delta: Delta {
                content: Some(text),
                role: "assistant".into(),
                tool_calls: None,
                reasoning_content: None,
            },
            logprobs: None,
        };
        Response::Chunk(ChatCompletionChunkResponse {
            id,
            choices: vec![choice],
            created,
            model,
            system_fingerprint,
            object: "chat.completion.chunk".into(),
            usage: None,
        })
    }

    /// What can be sent now of the text that is held back and `text` after it, and whether a text
    /// that ends the answer comes next. With the `last` text everything is sent.
    fn released(&mut self, text: &str, last: bool) -> (String, bool) {
        self.held.push_str(text);
        let held = &self.held;
        let found = self.stop.iter().filter_map(|stop| held.find(stop)).min();
        let may_begin = |at: &usize| self.stop.iter().any(|s| s.starts_with(&held[*at..]));
        let end = match found {
            Some(at) => at,
            None if last => held.len(),
            None => {
                let mut starts = held.char_indices().map(|(at, _)| at);
                starts.find(may_begin).unwrap_or(held.len())
            }
        };
        (self.held.drain(..end).collect(), found.is_some())
    }

    /// The last chunk of a stream, if the request asked for one that counts tokens.
    pub fn usage_chunk(&self, prompt: usize) -> Option<Value> {
        let object = match self.prompt {
            None => "chat.completion.chunk",
            Some(_) => "text_completion",
        };
        let usage = json!({
            "prompt_tokens": prompt,
            "completion_tokens": self.tokens,
            "total_tokens": prompt + self.tokens,
        });
        let created = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_secs());
        let mut chunk = json!({
            "id": self.id,
            "object": object,
            "created": created,
            "model": self.model,
            "choices": [],
        });
        self.count_usage(&mut chunk, usage);
        self.include_usage.then_some(chunk)
    }

    /// `usage` stands in every chunk where the request asks for it, and else in none.
    fn count_usage(&self, chunk: &mut Value, usage: Value) {
        match chunk.as_object_mut() {
            Some(chunk) if self.include_usage => {
                chunk.insert("usage".into(), usage);
            }
            Some(chunk) => {
                chunk.remove("usage");
            }
            None => {}
        }
    }

    /// The log-probabilities of tokens, without those that end the answer.
    fn logprobs(&mut self, picked: &[Picked]) -> Value {
        if !self.logprobs {
            return Value::Null;
        }
        let said = picked.iter().filter(|p| !self.chat.stop.contains(&p.token));
        let said: Vec<&Picked> = said.collect();
        match self.prompt {
            None => {
                let content = said.into_iter().map(|token| self.chat_token(token));
                json!({"content": content.collect::<Value>(), "refusal": null})
            }
            Some(_) => self.completion_tokens(&said),
        }
    }

    fn chat_token(&self, picked: &Picked) -> Value {
        let entry = |token: u32, logprob: f32| {
            let bytes = self.chat.token_text(token).map(String::into_bytes);
            let name = self.chat.token_name(token);
            json!({"token": name, "logprob": finite(logprob), "bytes": bytes})
        };
        let mut all = entry(picked.token, picked.logprob);
        let top = picked.top.iter().map(|(token, lp)| entry(*token, *lp));
        all["top_logprobs"] = top.collect();
        all
    }

    fn completion_tokens(&mut self, said: &[&Picked]) -> Value {
        let echoed = self.prompt.as_deref().filter(|_| self.echo);
        let before = echoed.map_or(0, |prompt| prompt.chars().count());
        let (mut texts, mut offsets, mut tops) = (Vec::new(), Vec::new(), Vec::new());
        for picked in said {
            let text = self.chat.token_name(picked.token);
            offsets.push(before + self.characters);
            self.characters += text.chars().count();
            let entry = |(id, lp): &(u32, f32)| (self.chat.token_name(*id), finite(*lp));
            let top: Map<String, Value> = picked.top.iter().map(entry).collect();
            tops.push(if top.is_empty() {
                Value::Null
            } else {
                top.into()
            });
            texts.push(text);
        }
        let logprobs = said.iter().map(|picked| finite(picked.logprob));
        json!({
            "tokens": texts,
            "token_logprobs": logprobs.collect::<Value>(),
            "top_logprobs": tops,
            "text_offset": offsets,
        })
    }
}

const OTHER: &str = "mistral.rs answered with something else than what was asked for";

/// A logarithm in JSON, which has no infinity: OpenAI writes -9999 for a probability of 0.
fn finite(logprob: f32) -> Value {
    json!(logprob.max(-9999.))
}

fn value(answer: impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(answer).map_err(Refusal::failed)
}
