//! An endpoint that speaks OpenAI's chat completions.

use crate::error::{Error, Result};
use crate::recipe::JudgeSettings;
use serde_json::{Value, json};
use std::time::Duration;

/// Longest part of a server's answer that a message repeats, in characters.
const SHOWN: usize = 300;

/// A key, which nothing prints.
struct Key(String);

/// See the module.
pub(super) struct Endpoint {
    pub(super) model: String,
    address: String,
    key: Option<Key>,
    attempts: u32,
    /// Before the second attempt; doubled before each that follows.
    pub(super) pause: Duration,
    agent: ureq::Agent,
}

/// How one attempt failed.
struct Failure {
    found: String,
    hint: &'static str,
    /// Whether another attempt may succeed.
    passing: bool,
}

impl Endpoint {
    /// Reads the key from the environment. Redirects are not followed: a key goes to
    /// the endpoint that the recipe names, and nowhere else.
    pub(super) fn new(settings: &JudgeSettings) -> Result<Self> {
        let key = match &settings.key_env {
            None => None,
            Some(name) => match std::env::var(name) {
                Ok(key) if !key.trim().is_empty() => Some(Key(key.trim().to_owned())),
                _ => {
                    let (at, key) = (&settings.endpoint, "evaluation.judge.key_env");
                    let expected = format!("the judge's key in the environment variable {name}");
                    let hint = format!("export {name}, or leave key_env out if none is needed");
                    return Err(Error::input(at, key, expected, "none", hint));
                }
            },
        };
        let agent = ureq::AgentBuilder::new()
            .timeout(Duration::from_secs(settings.timeout_s))
            .redirects(0)
            .build();
        let base = settings.endpoint.trim_end_matches('/');
        Ok(Self {
            model: settings.model.clone(),
            address: format!("{base}/chat/completions"),
            key,
            attempts: settings.attempts,
            pause: Duration::from_secs(1),
            agent,
        })
    }

    /// The model's reply to `user` under `system`, at temperature 0.
    pub(super) fn complete(&self, system: &str, user: &str) -> Result<String> {
        let body = json!({
            "model": self.model,
            "temperature": 0,
            "messages": [
                { "role": "system", "content": system },
                { "role": "user", "content": user },
            ],
        })
        .to_string();
        let mut pause = self.pause;
        let mut attempt = 1;
        loop {
            match self.attempt(&body) {
                Ok(reply) => return Ok(self.without_key(&reply)),
                Err(failure) if failure.passing && attempt < self.attempts => {
                    std::thread::sleep(pause);
                    pause *= 2;
                    attempt += 1;
                }
                Err(failure) => {
                    let found = self.without_key(&failure.found);
                    let found: String = found.chars().take(SHOWN).collect();
                    let place = format!("judge {}, attempt {attempt}", self.model);
                    let (at, expected) = (&self.address, "a chat completion");
                    return Err(Error::input(at, place, expected, found, failure.hint));
                }
            }
        }
    }

    fn attempt(&self, body: &str) -> std::result::Result<String, Failure> {
        let failure = |found, hint, passing| {
            let failure = Failure {
                found,
                hint,
                passing,
            };
            Err(failure)
        };
        let request = self.agent.post(&self.address);
        let mut request = request.set("Content-Type", "application/json");
        if let Some(Key(key)) = &self.key {
            request = request.set("Authorization", &format!("Bearer {key}"));
        }
        let response = match request.send_string(body) {
            Ok(response) | Err(ureq::Error::Status(_, response)) => response,
            Err(ureq::Error::Transport(e)) => {
                let hint = "is the endpoint up, and the address right?";
                return failure(e.to_string(), hint, true);
            }
        };
        let status = response.status();
        let text = match response.into_string() {
            Ok(text) => text,
            Err(e) => return failure(e.to_string(), "the answer broke off; try again", true),
        };
        let hint = match status {
            200 => "does the endpoint speak OpenAI's chat completions?",
            401 | 403 => "check the key in the variable that evaluation.judge.key_env names",
            404 => "check evaluation.judge.endpoint and model",
            429 => "the endpoint limits requests; what was judged is kept, so run it again later",
            500.. => "the endpoint is in trouble; what was judged is kept, so run it again later",
            _ => "check evaluation.judge",
        };
        if status != 200 {
            let passing = status == 429 || status >= 500;
            return failure(format!("status {status}: {text}"), hint, passing);
        }
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        match json["choices"][0]["message"]["content"].as_str() {
            Some(reply) => Ok(reply.to_owned()),
            None => failure(format!("no message content in: {text}"), hint, false),
        }
    }

    /// Servers may echo what they were sent.
    fn without_key(&self, text: &str) -> String {
        match &self.key {
            Some(Key(key)) => text.replace(key.as_str(), "[key]"),
            None => text.to_owned(),
        }
    }
}
