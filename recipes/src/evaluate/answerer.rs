//! Who answers: our own forward under some changes, or another runtime.

use super::{Changed, verdict};
use crate::chat::{Chat, Message};
use crate::data::Question;
use crate::error::Result;
use crate::generate::{Generation, generate_variants};
use crate::recipe::Recipe;
use reptune_adapters::{HookedModel, Intervention};
use reptune_report::Verdict;

/// Something that answers prompts: our own forward under some changes, or another runtime.
pub trait Answerer {
    /// Greedy continuations of `prompts` (token ids), as text.
    ///
    /// # Errors
    /// When the model fails.
    fn answer(
        &self,
        prompts: &[Vec<u32>],
        max_new_tokens: usize,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<String>>;

    /// The model whose logits may be read, for what is measured without generation.
    /// A runtime that hands out text only has none.
    fn changed(&self) -> Option<Changed<'_>> {
        None
    }
}

/// Our own forward.
pub struct Own<'a> {
    /// The model.
    pub host: &'a dyn HookedModel,
    /// Its tokenizer.
    pub chat: &'a Chat,
    /// Interventions and low-rank updates; lengths and stop tokens are set here.
    pub how: Generation<'a>,
}

impl Own<'_> {
    /// Greedy continuations of `prompts` under each of `variants`, interventions that act beside
    /// those of `how`; as text, by variant and prompt.
    ///
    /// # Errors
    /// When the model fails.
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
        let tokens = generate_variants(self.host, prompts, variants, &how, progress)?;
        let texts = |tokens: &Vec<Vec<u32>>| tokens.iter().map(|t| self.chat.decode(t)).collect();
        tokens.iter().map(texts).collect()
    }
}

impl Answerer for Own<'_> {
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

    fn changed(&self) -> Option<Changed<'_>> {
        Some(Changed {
            host: self.host,
            interventions: self.how.interventions,
            adapter: self.how.adapter,
        })
    }
}

/// The prompts of `questions`, in turn under the system prompts `systems`.
///
/// # Errors
/// When the template cannot be applied.
pub fn asked(chat: &Chat, systems: &[String], questions: &[Question]) -> Result<Vec<Vec<u32>>> {
    let prompt = |(i, q): (usize, &Question)| {
        let system = systems.get(i % systems.len().max(1)).map_or("", |s| s);
        chat.prompt(&Message::conversation(system, &q.text))
    };
    questions.iter().enumerate().map(prompt).collect()
}

/// Asks `questions` in turn under the system prompts `systems`; returns the texts and their verdicts.
///
/// # Errors
/// When the model fails.
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
mod tests {
    use super::super::changed::toy_changes::{adapter, next, steering};
    use super::super::{LetterPrompt, log_odds};
    use super::*;
    use crate::toy::{directory, tiny};

    /// The small Llama's tokenizer with a template that puts nothing before an answer.
    fn chat() -> Chat {
        let folder = tempfile::tempdir().expect("a directory");
        let fixture = directory("tests/fixtures/tiny-llama2");
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(fixture.join(name), folder.path().join(name)).expect("a copy");
        }
        let template = "{% for m in messages %}{{ m.role[:1] + ':' + m.content + '|' }}{% endfor %}\
            {% if add_generation_prompt %}a:{% endif %}";
        std::fs::write(folder.path().join("chat_template.jinja"), template).expect("a file");
        Chat::load(folder.path()).expect("a tokenizer")
    }

    struct TextOnly;

    impl Answerer for TextOnly {
        fn answer(
            &self,
            prompts: &[Vec<u32>],
            _: usize,
            _: &mut dyn FnMut(usize),
        ) -> Result<Vec<String>> {
            Ok(vec!["B".into(); prompts.len()])
        }
    }

    #[test]
    fn our_own_forward_gives_log_odds_as_it_is_changed_and_a_text_runtime_none() {
        let (toy, chat) = (tiny(), chat());
        let (steering, update) = (steering(), adapter());
        let own = Own {
            host: &toy,
            chat: &chat,
            how: Generation {
                interventions: &steering,
                adapter: Some(&update),
                ..Generation::default()
            },
        };
        let recipe = Recipe::read(&directory("recipes/honesty-mini.toml")).expect("a recipe");
        let question = |text: &str, right| Question {
            text: text.into(),
            right,
            options: ["true".into(), "false".into()],
        };
        let questions = [question("Is it?", 0), question("Is it not?", 1)];
        let prompts = LetterPrompt::of(&chat, &recipe, &["Be brief.".into()], &questions);
        let prompts = prompts.expect("prompts");
        let tokens = |text: &str| chat.encode(text).expect("tokens");
        assert_eq!(prompts[0].ids, tokens("s:Be brief.|u:Is it?|a:"));
        let letters = ["A", "B"].map(|l| *tokens(l).last().expect("a token"));
        assert_eq!([prompts[0].right, prompts[0].wrong], letters);
        assert_eq!([prompts[1].wrong, prompts[1].right], letters);
        let model = own.changed().expect("our own forward");
        let odds = log_odds(&model, &prompts, &mut |_| ()).expect("log-odds");
        for (prompt, odds) in prompts.iter().zip(odds) {
            let p = next(&model, &prompt.ids);
            let alone = p[prompt.right as usize] - p[prompt.wrong as usize];
            assert!((alone - odds).abs() < 1e-4, "{alone} {odds}");
        }
        assert!(TextOnly.changed().is_none());
        let (texts, verdicts) =
            ask(&TextOnly, &chat, &recipe, &[], &questions, &mut |_| ()).expect("answers");
        assert_eq!(texts, ["B", "B"]);
        assert_eq!(verdicts, [Verdict::Negative, Verdict::Positive]);
    }
}
