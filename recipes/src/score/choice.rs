//! A prompt with candidate responses.

use crate::chat::{Chat, Message};
use crate::data::Question;
use crate::error::Result;
use crate::recipe::Recipe;
use reptune_adapters::{Error, ModelSpec};

/// A prompt with two or more candidate responses, one of which shows the behaviour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Token ids up to where a response starts.
    pub prompt: Vec<u32>,
    /// Token ids of each candidate response.
    pub responses: Vec<Vec<u32>>,
    /// Index of the response that shows the behaviour.
    pub positive: usize,
}

impl Choice {
    /// `question` as `recipe` words it, under the system prompt `system`: its two labels
    /// are the responses.
    ///
    /// # Errors
    /// When the template fails, or a label is more than one token.
    pub fn new(chat: &Chat, recipe: &Recipe, system: &str, question: &Question) -> Result<Self> {
        let messages = Message::conversation(system, &question.text);
        let labels = recipe.prompt.labels.iter();
        let response = |label: &String| Ok(vec![chat.label_token(&messages, label)?]);
        Ok(Self {
            prompt: chat.prompt(&messages)?,
            responses: labels.map(response).collect::<Result<_>>()?,
            positive: question.right,
        })
    }

    /// The choices of `questions`, which take the system prompts `systems` in turn.
    ///
    /// # Errors
    /// As [`Choice::new`].
    pub fn of_questions(
        chat: &Chat,
        recipe: &Recipe,
        systems: &[String],
        questions: &[Question],
    ) -> Result<Vec<Self>> {
        let choice = |(i, question): (usize, &Question)| {
            let system = systems.get(i % systems.len().max(1)).map_or("", |s| s);
            Self::new(chat, recipe, system, question)
        };
        questions.iter().enumerate().map(choice).collect()
    }

    /// Whether every response is one token.
    pub(super) fn is_single_token(&self) -> bool {
        self.responses.iter().all(|r| r.len() == 1)
    }

    /// Refuses what a model of `spec` cannot score. `number` is the choice's place among
    /// others.
    pub(super) fn check(&self, spec: &ModelSpec, number: usize) -> Result<()> {
        let wrong = |what: String, expected: String, found: String, hint: &str| {
            Err(Error::value(what, expected, found, hint).into())
        };
        let longest = self.responses.iter().map(Vec::len).max().unwrap_or(0);
        let shortest = self.responses.iter().map(Vec::len).min().unwrap_or(0);
        if self.responses.len() < 2 || shortest == 0 || self.positive >= self.responses.len() {
            return wrong(
                format!("choice {number}"),
                "two or more responses of one token or more, and which of them is positive".into(),
                format!(
                    "{} responses, number {} positive",
                    self.responses.len(),
                    self.positive
                ),
                "correct the question",
            );
        }
        let most = spec.context.saturating_sub(longest - 1);
        if self.prompt.is_empty() || self.prompt.len() > most {
            return wrong(
                format!("prompt {number}"),
                format!("1 to {most} tokens"),
                self.prompt.len().to_string(),
                "shorten it to the model's context, or leave it out",
            );
        }
        let mut tokens = self.responses.iter().flatten();
        match tokens.find(|t| **t as usize >= spec.vocab) {
            Some(token) => wrong(
                "answer token".into(),
                format!("0 to {}, the model's vocabulary", spec.vocab.max(1) - 1),
                token.to_string(),
                "check that the tokenizer belongs to the model",
            ),
            None => Ok(()),
        }
    }
}
