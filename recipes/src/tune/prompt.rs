//! A claim as it is tuned on.

use crate::chat::{Chat, Message};
use crate::data::{Claim, claim_question};
use crate::error::{Error, Result};
use crate::recipe::Recipe;

/// A claim as a persona-free prompt with its two letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The claim, for messages.
    pub claim: String,
    /// Tokens up to where a letter follows.
    pub ids: Vec<u32>,
    /// Token of the letter that is true.
    pub right: u32,
    /// Token of the other letter.
    pub wrong: u32,
}

impl Prompt {
    /// `claim` as `recipe` words it.
    ///
    /// # Errors
    /// When the prompt is shorter than an offset, or a label is not one token.
    pub fn new(chat: &Chat, recipe: &Recipe, claim: &Claim) -> Result<Self> {
        let question = claim_question(recipe, claim);
        let messages = Message::conversation(&recipe.prompt.system, &question.text);
        let ids = chat.prompt(&messages)?;
        let offsets = recipe.tuning.all_offsets();
        if let Some(offset) = offsets.iter().find(|o| **o >= ids.len()) {
            let key = match recipe.tuning.offsets.is_empty() {
                true => "tuning.offset",
                false => "tuning.offsets",
            };
            return Err(Error::input(
                &recipe.name,
                key,
                format!("0 to {}", ids.len() - 1),
                offset.to_string(),
                format!("the prompt of `{}` has {} tokens", claim.text, ids.len()),
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
