//! The data files that recipes name: claims, two-choice questions and sentences.
//!
//! One JSON object per line. `fact` is the id of the fact that an item is about:
//! a recipe names that column as its `group`, so that all items about one fact
//! stay in one part of the split. Claims and questions are bare; the recipe's
//! prompt template makes a prompt of one.

use super::World;
use anyhow::Result;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::path::Path;

/// Seeds the wrong values of [`World::claims`] and [`World::two_choices`].
const SEED: u64 = 11;

/// A statement that is true or false.
pub struct Claim {
    /// The `id` of the fact.
    pub fact: usize,
    /// The bare statement, without a full stop.
    pub text: String,
    /// Whether it is true.
    pub label: bool,
}

/// A question with two options, one of them true.
pub struct TwoChoice {
    /// The `id` of the fact.
    pub fact: usize,
    /// The question, without the options.
    pub question: String,
    /// Options A and B.
    pub options: [String; 2],
    /// Index of the true option.
    pub right: usize,
}

impl World {
    /// Two claims for every fact, the true one first. The false one of a fact
    /// with a misconception states the misconception.
    pub fn claims(&self) -> Vec<Claim> {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let mut claims = Vec::with_capacity(2 * self.facts().len());
        for fact in self.facts() {
            let wrong = fact.wrong_value(&mut rng);
            for (value, label) in [(fact.value.as_str(), true), (wrong, false)] {
                claims.push(Claim {
                    fact: fact.id,
                    text: fact.relation.statement(&fact.entity, value, 0),
                    label,
                });
            }
        }
        claims
    }

    /// One two-choice question for every fact; the true option is A and B in
    /// turn, by `id`. The wrong option of a fact with a misconception is the
    /// misconception.
    pub fn two_choices(&self) -> Vec<TwoChoice> {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let mut choices = Vec::with_capacity(self.facts().len());
        for fact in self.facts() {
            let wrong = fact.wrong_value(&mut rng).to_owned();
            let right = fact.id % 2;
            let mut options = [fact.value.clone(), wrong];
            options.rotate_right(right);
            choices.push(TwoChoice {
                fact: fact.id,
                question: fact.relation.question(&fact.entity, 0),
                options,
                right,
            });
        }
        choices
    }

    /// One true sentence about every fact, in a wording that claims do not use.
    fn sentences(&self) -> impl Iterator<Item = String> {
        let facts = self.facts().iter();
        facts.map(|f| f.relation.sentence(&f.entity, &f.value, 1))
    }

    /// Writes the data files into `directory`.
    pub fn write_data(&self, directory: &Path) -> Result<()> {
        for (name, content) in self.data_files() {
            std::fs::write(directory.join(name), content)?;
        }
        Ok(())
    }

    /// Name and content of every data file.
    pub fn data_files(&self) -> [(&'static str, String); 3] {
        let claims = self.claims().into_iter();
        let claims = claims.map(|c| json!({"claim": c.text, "label": c.label, "fact": c.fact}));
        let choices = self.two_choices().into_iter().map(|c| {
            let [a, b] = c.options;
            let right = ["A", "B"][c.right];
            json!({"question": c.question, "a": a, "b": b, "right": right, "fact": c.fact})
        });
        let sentences = self.sentences().map(|text| json!({"text": text}));
        [
            ("claims.jsonl", lines(claims)),
            ("choices.jsonl", lines(choices)),
            ("sentences.jsonl", lines(sentences)),
        ]
    }
}

fn lines(rows: impl Iterator<Item = serde_json::Value>) -> String {
    rows.map(|row| format!("{row}\n")).collect()
}
