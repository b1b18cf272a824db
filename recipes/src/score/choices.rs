//! Log-odds of the candidate responses to a prompt.

use super::{ModelVariant, log_sum_exp};
use crate::activation_cache::ActivationCache;
use crate::batch::{Batch, Most, TOKENS_PER_FORWARD, batches};
use crate::chat::{Chat, Message};
use crate::data::Question;
use crate::error::{Error, Result};
use crate::recipe::Recipe;
use reptune_adapters::ModelSpec;
use reptune_adapters::model::prefix_tree::TokenMask;

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
    fn is_single_token(&self) -> bool {
        self.responses.iter().all(|r| r.len() == 1)
    }

    /// Refuses what a model of `spec` cannot score. `number` is the choice's place among
    /// others.
    fn check(&self, spec: &ModelSpec, number: usize) -> Result<()> {
        let longest = self.responses.iter().map(Vec::len).max().unwrap_or(0);
        let shortest = self.responses.iter().map(Vec::len).min().unwrap_or(0);
        let (responses, positive) = (self.responses.len(), self.positive);
        if responses < 2 || shortest == 0 || positive >= responses {
            let expected =
                "two or more responses of one token or more, and which of them is positive";
            let found = format!("{responses} responses, number {positive} positive");
            let what = format!("choice {number}");
            return Err(Error::value(what, expected, found, "correct the question"));
        }
        let most = spec.context.saturating_sub(longest - 1);
        let tokens = self.prompt.len();
        if tokens == 0 || tokens > most {
            let (what, expected) = (format!("prompt {number}"), format!("1 to {most} tokens"));
            let hint = "shorten it to the model's context, or leave it out";
            return Err(Error::value(what, expected, tokens.to_string(), hint));
        }
        let mut tokens = self.responses.iter().flatten();
        if let Some(token) = tokens.find(|t| **t as usize >= spec.vocab) {
            let expected = format!("0 to {}, the model's vocabulary", spec.vocab.max(1) - 1);
            let hint = "check that the tokenizer belongs to the model";
            let found = token.to_string();
            return Err(Error::value("answer token", expected, found, hint));
        }
        Ok(())
    }
}

/// Choices in prefix trees, ready to be scored under any interventions that act on the same
/// tokens.
pub struct PackedChoices<'a> {
    choices: &'a [Choice],
    sequences: Vec<Sequence>,
    batches: Vec<Batch>,
}

/// Tokens of one forward that predict responses: a prompt, followed by all but the last
/// token of a response. Responses of one token share the prompt alone.
struct Sequence {
    ids: Vec<u32>,
    choice: usize,
    /// The responses that are predicted along it.
    responses: Vec<usize>,
}

impl AsRef<[u32]> for Sequence {
    fn as_ref(&self) -> &[u32] {
        &self.ids
    }
}

impl<'a> PackedChoices<'a> {
    /// Packs `choices` for a model of `spec`. `mask` gives the token mask at a position
    /// after a prompt of some length.
    ///
    /// # Errors
    /// When a prompt is empty or does not fit the context, a choice has no positive
    /// response, or a response holds no token of the model.
    pub fn new(
        spec: &ModelSpec,
        choices: &'a [Choice],
        mask: impl Fn(usize, usize) -> TokenMask,
    ) -> Result<Self> {
        let mut sequences: Vec<Sequence> = Vec::new();
        for (number, choice) in choices.iter().enumerate() {
            choice.check(spec, number)?;
            let first = sequences.len();
            for (i, response) in choice.responses.iter().enumerate() {
                let ids = [&choice.prompt, &response[..response.len() - 1]].concat();
                match sequences[first..].iter_mut().find(|s| s.ids == ids) {
                    Some(known) => known.responses.push(i),
                    None => sequences.push(Sequence {
                        ids,
                        choice: number,
                        responses: vec![i],
                    }),
                }
            }
        }
        let prompt = |i: usize| choices[sequences[i].choice].prompt.len();
        let mask = |i: usize, position| mask(position, prompt(i));
        let batches = batches(&sequences, Most::Distinct(TOKENS_PER_FORWARD), mask);
        Ok(Self {
            choices,
            sequences,
            batches,
        })
    }

    /// All tokens that a forward computes: what an [`ActivationCache`] is computed for.
    pub fn prompts(&self) -> Vec<Vec<u32>> {
        self.sequences.iter().map(|s| s.ids.clone()).collect()
    }

    /// The log-odds of the positive response of every choice, in order:
    ///
    /// `log p(positive) - log sum_r p(r)` over the other responses r, where
    /// `log p(r) = sum_t log p(r_t | prompt, r_1 .. r_(t-1))`
    ///
    /// For two responses of one token each this is the difference of two logits.
    /// `variant` must act on the tokens that the choices were packed for. Its forwards
    /// resume at rows of `cache` where they can. `progress` is called after each forward
    /// with the number of choices done.
    ///
    /// # Errors
    /// When `variant` steers no token that is scored, `cache` is of other weights or prompts,
    /// or the model fails.
    pub fn log_odds(
        &self,
        variant: &ModelVariant,
        cache: Option<&ActivationCache>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<f64>> {
        let prompt = |s: &Sequence| self.choices[s.choice].prompt.len();
        let sizes = self.sequences.iter().map(|s| (s.ids.len(), prompt(s)));
        variant.check_steered("log-odds", sizes)?;
        // For every choice, the score of each response.
        let zeros = self.choices.iter().map(|c| vec![0.; c.responses.len()]);
        let mut scores: Vec<Vec<f64>> = zeros.collect();
        for batch in &self.batches {
            let sequences = &self.sequences[batch.prompts.clone()];
            // The last token of the prompt, and those of the response.
            let predicting =
                |(sequence, path): (&Sequence, &'_ Vec<u32>)| path[prompt(sequence) - 1..].to_vec();
            let paths: Vec<_> = sequences.iter().zip(&batch.paths).map(predicting).collect();
            let logits = variant.logits((batch, sequences), paths.concat(), cache)?;
            for (sequence, path) in sequences.iter().zip(&paths) {
                let choice = &self.choices[sequence.choice];
                // What normalizes one-token responses is the same for all and cancels.
                let single = choice.is_single_token();
                for &i in &sequence.responses {
                    let predicted = choice.responses[i].iter().zip(path);
                    let score = predicted.map(|(id, token)| {
                        let logits = logits.of(*token);
                        let logit = f64::from(logits[*id as usize]);
                        match single {
                            true => logit,
                            false => logit - log_sum_exp(logits),
                        }
                    });
                    scores[sequence.choice][i] = score.sum();
                }
            }
            let next = self.sequences.get(batch.prompts.end);
            progress(next.map_or(self.choices.len(), |s| s.choice));
        }
        let scored = self.choices.iter().zip(&scores);
        let odds = scored.map(|(choice, scores)| odds(scores, choice.positive));
        Ok(odds.collect())
    }
}

/// `scores[positive] - log sum_r exp(scores[r])` over the others.
fn odds(scores: &[f64], positive: usize) -> f64 {
    let others = scores.iter().enumerate().filter(|(i, _)| *i != positive);
    let others: Vec<f64> = others.map(|(_, score)| *score).collect();
    let other = match others.as_slice() {
        [other] => *other,
        _ => {
            let max = others.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            max + others.iter().map(|s| (s - max).exp()).sum::<f64>().ln()
        }
    };
    scores[positive] - other
}

/// The log-odds of the positive response of every choice under `variant`, see
/// [`PackedChoices::log_odds`].
pub fn log_odds(
    variant: &ModelVariant,
    choices: &[Choice],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<f64>> {
    let mask = |position, prompt| variant.mask(position, prompt);
    let packed = PackedChoices::new(variant.model.spec(), choices, mask)?;
    packed.log_odds(variant, None, progress)
}

#[cfg(test)]
mod tests;
