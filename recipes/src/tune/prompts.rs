//! Claims as prompts that are tuned on, and the order in which they are taken: shuffled again
//! for each epoch.

use crate::chat::{Chat, Message};
use crate::data::{Claim, claim_question};
use crate::error::{Error, Result};
use crate::recipe::Recipe;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

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
            let expected = format!("tokens of a prompt of {} tokens", ids.len());
            let found = format!("`{}`", recipe.tuning.positions);
            let hint = format!("the prompt is that of `{}`", claim.text);
            let key = "tuning.positions";
            return Err(Error::input(&recipe.name, key, expected, found, hint));
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

/// Batches of a seed. Which batch a step has depends on nothing but the seed, so a run that
/// is resumed finds its place by shuffling from the start.
pub(super) struct Order {
    rng: ChaCha8Rng,
    indices: Vec<usize>,
    batch: usize,
    shuffled: usize,
}

impl Order {
    pub(super) fn new(seed: u64, prompts: usize, batch: usize) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            indices: (0..prompts).collect(),
            batch,
            shuffled: 0,
        }
    }

    /// Steps of an epoch.
    pub(super) fn an_epoch(&self) -> usize {
        self.indices.len().div_ceil(self.batch)
    }

    /// Prompts of step `step`, counted from 0; steps may be left out, but not taken back.
    pub(super) fn batch(&mut self, step: usize) -> &[usize] {
        let an_epoch = self.an_epoch();
        while self.shuffled <= step / an_epoch {
            self.indices.shuffle(&mut self.rng);
            self.shuffled += 1;
        }
        let from = step % an_epoch * self.batch;
        &self.indices[from..self.indices.len().min(from + self.batch)]
    }
}

/// The prompts of the first `steps` steps, by their number.
pub(crate) fn batches(seed: u64, prompts: usize, batch: usize, steps: usize) -> Vec<Vec<usize>> {
    let mut order = Order::new(seed, prompts, batch);
    (0..steps).map(|step| order.batch(step).to_vec()).collect()
}

#[cfg(test)]
mod tests;
