//! Who answers: our own forward under some changes, or another runtime.

use super::reader::verdict;
use crate::chat::{Chat, Message};
use crate::data::Question;
use crate::error::Result;
use crate::generate::{Generation, generate_variants};
use crate::recipe::Recipe;
use crate::score::ModelVariant;
use reptune_adapters::{HookedModel, Intervention};
use reptune_report::Verdict;

/// Something that answers prompts: our own forward under some changes, or another runtime.
pub trait Answerer {
    /// Greedy continuations of `prompts` (token ids), as text.
    fn answer(
        &self,
        prompts: &[Vec<u32>],
        max_new_tokens: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<String>>;

    /// The model whose logits may be read, for what is measured without generation.
    /// A runtime that hands out text only has none.
    fn variant(&self) -> Option<ModelVariant<'_>> {
        None
    }
}

/// Our own forward.
pub struct OwnForward<'a> {
    /// The model.
    pub model: &'a dyn HookedModel,
    /// Its tokenizer.
    pub chat: &'a Chat,
    /// Interventions and low-rank updates; lengths and stop tokens are set here.
    pub how: Generation<'a>,
}

impl OwnForward<'_> {
    /// Greedy continuations of `prompts` under each of `variants`, interventions that act with
    /// those of `how`; as text, by variant and prompt.
    pub fn answer_variants(
        &self,
        prompts: &[Vec<u32>],
        variants: &[Vec<Intervention>],
        max_new_tokens: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Vec<String>>> {
        let how = Generation {
            max_new_tokens,
            stop: &self.chat.stop,
            ..self.how
        };
        let tokens = generate_variants(self.model, prompts, variants, &how, progress)?;
        let texts = |tokens: &Vec<Vec<u32>>| tokens.iter().map(|t| self.chat.decode(t)).collect();
        tokens.iter().map(texts).collect()
    }
}

impl Answerer for OwnForward<'_> {
    fn answer(
        &self,
        prompts: &[Vec<u32>],
        max_new_tokens: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<String>> {
        let alone = [Vec::new()];
        let mut texts = self.answer_variants(prompts, &alone, max_new_tokens, progress)?;
        Ok(texts.remove(0))
    }

    fn variant(&self) -> Option<ModelVariant<'_>> {
        Some(ModelVariant {
            model: self.model,
            interventions: self.how.interventions,
            adapter: self.how.adapter,
        })
    }
}

/// The prompts of `questions`, in turn under the system prompts `systems`.
pub fn asked(chat: &Chat, systems: &[String], questions: &[Question]) -> Result<Vec<Vec<u32>>> {
    let prompt = |(i, q): (usize, &Question)| {
        let system = systems.get(i % systems.len().max(1)).map_or("", |s| s);
        chat.prompt(&Message::conversation(system, &q.text))
    };
    questions.iter().enumerate().map(prompt).collect()
}

/// Asks `questions` in turn under the system prompts `systems`; returns the texts and their verdicts.
pub fn ask(
    answerer: &dyn Answerer,
    chat: &Chat,
    recipe: &Recipe,
    systems: &[String],
    questions: &[Question],
    progress: &mut dyn FnMut(usize),
) -> Result<(Vec<String>, Vec<Verdict>)> {
    let prompts = asked(chat, systems, questions)?;
    let texts = answerer.answer(&prompts, recipe.evaluation.max_new_tokens, progress)?;
    let verdicts = verdicts(&texts, questions, recipe);
    Ok((texts, verdicts))
}

/// Verdicts of what was answered to `questions`.
pub fn verdicts(texts: &[String], questions: &[Question], recipe: &Recipe) -> Vec<Verdict> {
    let answered = texts.iter().zip(questions);
    let verdicts = answered.map(|(t, q)| verdict(t, q, &recipe.prompt.labels));
    verdicts.collect()
}

#[cfg(test)]
mod tests;
