//! What a model would answer and how surely, without generation and without a parser.

use super::changed::{Changed, batches};
use crate::chat::{Chat, Message};
use crate::data::Question;
use crate::error::{Error, Result};
use crate::recipe::Recipe;

/// Rows of one forward.
const ROWS: usize = 4096;

/// A question as tokens, with the two tokens that may answer it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterPrompt {
    /// The prompt, up to where the answer starts.
    pub ids: Vec<u32>,
    /// Token of the true label.
    pub right: u32,
    /// Token of the other label.
    pub wrong: u32,
}

impl LetterPrompt {
    /// Prompts of `questions`, which take the system prompts `systems` in turn as
    /// [`ask`](super::ask) does.
    ///
    /// # Errors
    /// When the template fails, or a label is more than one token.
    pub fn of(
        chat: &Chat,
        recipe: &Recipe,
        systems: &[String],
        questions: &[Question],
    ) -> Result<Vec<Self>> {
        let prompt = |(i, question): (usize, &Question)| {
            let system = systems.get(i % systems.len().max(1)).map_or("", |s| s);
            let messages = Message::conversation(system, &question.text);
            let label = |i: usize| chat.label_token(&messages, &recipe.prompt.labels[i]);
            Ok(Self {
                ids: chat.prompt(&messages)?,
                right: label(question.right)?,
                wrong: label(1 - question.right)?,
            })
        };
        questions.iter().enumerate().map(prompt).collect()
    }
}

/// Log-odds of the true answer of every prompt, read at its last row.
///
/// `log p(right) - log p(wrong) = logit(right) - logit(wrong)`
///
/// `progress` is called after each forward with the number of prompts done.
///
/// # Errors
/// When a prompt is empty or does not fit the context, or an answer is no token of the model.
pub fn log_odds(
    model: &Changed,
    prompts: &[LetterPrompt],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<f64>> {
    let vocab = model.host.spec().vocab;
    let mut answers = prompts.iter().flat_map(|p| [p.right, p.wrong]);
    if let Some(token) = answers.find(|t| *t as usize >= vocab) {
        return Err(Error::Adapters(reptune_adapters::Error::value(
            "answer token",
            format!("0 to {}, the model's vocabulary", vocab.max(1) - 1),
            token.to_string(),
            "is the tokenizer that of the model?",
        )));
    }
    let mut odds = Vec::with_capacity(prompts.len());
    for batch in batches(prompts.iter().map(|p| p.ids.len()), ROWS) {
        let some = &prompts[batch];
        let ids: Vec<&[u32]> = some.iter().map(|p| p.ids.as_slice()).collect();
        let last: Vec<_> = ids.iter().map(|t| t.len().max(1) - 1..t.len()).collect();
        let logits = model.logits(&ids, &last)?;
        for (i, prompt) in some.iter().enumerate() {
            let row = logits.row(i, 0);
            let logit = |token: u32| f64::from(row[token as usize]);
            odds.push(logit(prompt.right) - logit(prompt.wrong));
        }
        progress(odds.len());
    }
    Ok(odds)
}

#[cfg(test)]
mod tests {
    use super::super::changed::toy_changes::{adapter, next, steering, text};
    use super::*;
    use crate::toy::tiny;

    #[test]
    fn log_odds_are_those_of_each_prompt_alone_under_every_change() {
        let toy = tiny();
        let (steering, update) = (steering(), adapter());
        let base = Changed::base(&toy);
        let steered = Changed {
            interventions: &steering,
            ..base
        };
        let tuned = Changed {
            adapter: Some(&update),
            ..base
        };
        let mut prompts: Vec<LetterPrompt> = (0..80)
            .map(|seed| LetterPrompt {
                ids: text(40 + seed % 30, seed / 2),
                right: 65 + seed % 2,
                wrong: 66 - seed % 2,
            })
            .collect();
        prompts.push(prompts[0].clone());
        let mut all = Vec::new();
        for model in [base, steered, tuned] {
            let mut done = Vec::new();
            let odds = log_odds(&model, &prompts, &mut |n| done.push(n)).expect("log-odds");
            assert!(done.len() > 1 && done.last() == Some(&81), "{done:?}");
            for (prompt, odds) in prompts.iter().zip(&odds) {
                let p = next(&model, &prompt.ids);
                let alone = p[prompt.right as usize] - p[prompt.wrong as usize];
                assert!((alone - odds).abs() < 1e-4, "{alone} {odds}");
            }
            all.push(odds);
        }
        assert!((all[0][0] - all[1][0]).abs() > 1e-3 && (all[0][0] - all[2][0]).abs() > 1e-3);
    }

    #[test]
    fn an_answer_beyond_the_vocabulary_is_refused() {
        let prompt = LetterPrompt {
            ids: text(9, 0),
            right: 65,
            wrong: 272,
        };
        let odds = log_odds(&Changed::base(&tiny()), &[prompt], &mut |_| ());
        let message = odds.expect_err("no such token").to_string();
        assert!(
            message.starts_with("answer token: expected 0 to 271"),
            "{message}"
        );
    }

    #[test]
    fn a_prompt_beyond_the_context_is_refused() {
        let toy = tiny();
        let prompt = |length| LetterPrompt {
            ids: text(length, 0),
            right: 65,
            wrong: 66,
        };
        for (length, found) in [(129, "found 129"), (0, "found 0")] {
            let odds = log_odds(&Changed::base(&toy), &[prompt(length)], &mut |_| ());
            let message = odds.expect_err("a length that does not fit").to_string();
            assert!(
                message.contains(found) && message.contains("128"),
                "{message}"
            );
        }
    }
}
