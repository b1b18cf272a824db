//! A claim as a prompt that is tuned on.

use crate::chat::{Chat, Message};
use crate::data::{Claim, claim_question};
use crate::error::{Error, Result};
use crate::recipe::Recipe;

/// A claim as a prompt without a persona, with its two answer tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TuningPrompt {
    /// The claim, for messages.
    pub claim: String,
    /// Tokens up to where the answer token follows.
    pub ids: Vec<u32>,
    /// The right answer token.
    pub right: u32,
    /// The wrong answer token.
    pub wrong: u32,
}

impl TuningPrompt {
    /// `claim` as `recipe` words it.
    ///
    /// # Errors
    /// When the prompt is too short for a position, or a label is not one token.
    pub fn new(chat: &Chat, recipe: &Recipe, claim: &Claim) -> Result<Self> {
        let question = claim_question(recipe, claim);
        let messages = Message::conversation(&recipe.prompt.system, &question.text);
        let ids = chat.prompt(&messages)?;
        if recipe.tuning.offsets().iter().any(|o| *o >= ids.len()) {
            return Err(Error::input(
                &recipe.name,
                "tuning.positions",
                format!("tokens of a prompt of {} tokens", ids.len()),
                format!("`{}`", recipe.tuning.positions),
                format!("the prompt is that of `{}`", claim.text),
            ));
        }
        let label = |i: usize| chat.label_token(&messages, &recipe.prompt.labels[i]);
        Ok(Self {
            claim: claim.text.clone(),
            ids,
            right: label(question.right)?,
            wrong: label(1 - question.right)?,
        })
    }
}
