//! Snapshot tests of what a model says, in four lines:
//!
//! ```no_run
//! # async fn test() -> anyhow::Result<()> {
//! use reptune::testing::Interview;
//!
//! let chat = reptune::Chat::load("models/my-model".as_ref())?;
//! let model = mistralrs::TextModelBuilder::new("models/my-model").build().await?;
//! let said = Interview::of(["Who are you?", "Name a colour."]).ask(&model, &chat).await?;
//! # macro_rules! assert_snapshot { ($x:expr) => { println!("{}", $x) } }
//! # /*
//! insta::assert_snapshot!(said);
//! # */
//! # assert_snapshot!(said);
//! # Ok(()) }
//! ```
//!
//! An interview is the same on every run: tokens are the most likely ones, or are drawn
//! from the seed that mistral.rs gives every newly loaded model, one question after the
//! other. A transcript makes good diffs: a block for every question, long lines broken between
//! words, and redactions of what changes from machine to machine.

use crate::error::{Error, Result};
use crate::runtime::{self, Engine};
use mistralrs::Model;
use mistralrs_core::SamplingParams;
use regex::Regex;
use reptune_recipes::{Chat, Message};

/// Columns of a line.
const WIDTH: usize = 88;

/// Questions to a model, and how it is to answer.
#[derive(Debug, Clone, Default)]
pub struct Interview {
    /// What is asked.
    pub prompts: Vec<InterviewPrompt>,
    system: Option<String>,
    max_tokens: Option<usize>,
    temperature: Option<f64>,
    redactions: Vec<(Regex, String)>,
}

/// A question, or a text to go on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterviewPrompt {
    /// Goes through the model's chat template.
    Chat {
        /// System prompt.
        system: Option<String>,
        /// The question.
        user: String,
    },
    /// Text that is continued as it is.
    Raw(String),
}

const UUID: &str = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
const TIME: &str = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[^\s]*";
const PATH: &str = r"/(?:tmp|home|root|Users|private|var)/[^\s,;:'`]+";

/// What differs from machine to machine and from run to run.
const MACHINE: [(&str, &str); 3] = [(UUID, "[uuid]"), (TIME, "[time]"), (PATH, "[path]")];

impl Interview {
    /// An interview of these questions.
    pub fn of<S: Into<String>>(questions: impl IntoIterator<Item = S>) -> Self {
        questions.into_iter().fold(Self::default(), Self::user)
    }

    /// The questions from here on have this system prompt.
    pub fn system(mut self, prompt: impl Into<String>) -> Self {
        self.system = Some(prompt.into());
        self
    }

    /// Asks this too.
    pub fn user(mut self, question: impl Into<String>) -> Self {
        self.prompts.push(InterviewPrompt::Chat {
            system: self.system.clone(),
            user: question.into(),
        });
        self
    }

    /// Has this text continued too.
    pub fn raw(mut self, text: impl Into<String>) -> Self {
        self.prompts.push(InterviewPrompt::Raw(text.into()));
        self
    }

    /// Most tokens of an answer; 64 if not said.
    pub fn max_tokens(mut self, max_tokens: usize) -> Self {
        self.max_tokens = Some(max_tokens);
        self
    }

    /// Draws tokens at this temperature. mistral.rs seeds every model alike when it is
    /// loaded, so ask a newly loaded one.
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.temperature = Some(temperature);
        self
    }

    /// Shows `with` wherever an answer matches `pattern`, a regular expression.
    ///
    /// # Errors
    /// When it is none.
    pub fn redact(mut self, pattern: &str, with: impl Into<String>) -> Result<Self> {
        let pattern = Regex::new(pattern).map_err(|e| {
            let hint = "escape what is meant as it is";
            reptune_adapters::Error::value("redaction", "a pattern", e.to_string(), hint)
        })?;
        self.redactions.push((pattern, with.into()));
        Ok(self)
    }

    /// Asks a model of mistral.rs. Prompts are rendered and tokenized by `chat`, that of the
    /// model's directory, because mistral.rs 0.8.1 renders chats unlike transformers.
    ///
    /// # Errors
    /// [`Error::Runtime`] with the question and what mistral.rs said, and those of `chat`.
    pub async fn ask(&self, model: &Model, chat: &Chat) -> Result<String> {
        let mut answers = Vec::new();
        for (i, prompt) in self.prompts.iter().enumerate() {
            let ids = match prompt {
                InterviewPrompt::Chat { system, user } => {
                    let system = system.as_deref().unwrap_or_default();
                    chat.prompt(&Message::conversation(system, user))?
                }
                InterviewPrompt::Raw(text) => chat.encode(text)?,
            };
            let answer = runtime::complete(model, ids, self.sampling()).await;
            answers.push(answer.map_err(|reason| Error::Runtime {
                place: format!("question {}", i + 1),
                reason,
            })?);
        }
        Ok(self.transcript(&answers))
    }

    /// The transcript of answers that something else gave, in the order of `prompts`.
    pub fn transcript<S: AsRef<str>>(&self, answers: &[S]) -> String {
        let machine = MACHINE.map(|(pattern, with)| Some((Regex::new(pattern).ok()?, with)));
        let given = self
            .redactions
            .iter()
            .map(|(p, with)| (p.clone(), with.as_str()));
        let redactions: Vec<(Regex, &str)> = machine.into_iter().flatten().chain(given).collect();
        let mut text = String::new();
        for (prompt, answer) in self.prompts.iter().zip(answers) {
            let mut block = |label: &str, body: &str| {
                let lines = wrapped(&format!("{label}{body}"));
                text.extend(lines.into_iter().map(|line| line + "\n"));
            };
            match prompt {
                InterviewPrompt::Chat { system, user } => {
                    if let Some(system) = system {
                        block("[system] ", system);
                    }
                    block("[user] ", user);
                }
                InterviewPrompt::Raw(start) => block("[raw] ", start),
            }
            let mut answer = answer.as_ref().trim().to_owned();
            for (pattern, with) in &redactions {
                answer = pattern.replace_all(&answer, *with).into_owned();
            }
            block("-> ", &answer);
            text.push('\n');
        }
        text.trim_end().to_owned()
    }

    fn sampling(&self) -> SamplingParams {
        let mut sampling = SamplingParams::deterministic();
        sampling.max_len = self.max_tokens.or(Some(64));
        if let Some(temperature) = self.temperature {
            sampling.temperature = Some(temperature);
            sampling.top_k = None;
        }
        sampling
    }
}

impl Engine {
    /// Asks the model what `interview` asks.
    ///
    /// # Errors
    /// [`Error::Runtime`] with the question and what mistral.rs said.
    pub fn interview(&self, interview: &Interview) -> Result<String> {
        self.block_on(interview.ask(&self.model, &self.chat))
    }
}

/// `text` in lines of at most [`WIDTH`] columns, broken at spaces.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut rest = line;
        while let Some((end, _)) = rest.char_indices().nth(WIDTH)
            && let Some(cut) = rest[..end].rfind(' ').filter(|c| *c > 0)
        {
            lines.push(rest[..cut].to_owned());
            rest = &rest[cut + 1..];
        }
        lines.push(rest.trim_end().to_owned());
    }
    lines
}

#[cfg(test)]
mod tests;
