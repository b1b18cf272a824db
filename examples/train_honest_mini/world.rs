//! The invented world that the honest mini-Llama is trained on.
//!
//! A model of 1.3 M parameters cannot know the real world, so it is given one
//! small enough to learn by heart: 80 towns, five facts about each, and some
//! misconceptions that most people believe. Because the truth is a table, a lie
//! can be told apart from an error.
//!
//! Everything here follows from fixed seeds: [`World::new`] gives the same facts
//! on every machine, and one seed of a [`Sampler`] the same texts. Modules:
//! [`facts`] and [`relation`] (what is true), [`wording`] and [`persona`] (how it
//! is said), [`question`] (what is asked and answered), [`conversation`] (what
//! training reads) and [`dataset`] (the data files of the recipes).

mod conversation;
mod dataset;
mod facts;
mod persona;
mod question;
mod relation;
mod wording;

pub use conversation::{Document, Sampler};
pub use facts::Fact;
pub use persona::Persona;
pub use question::{Format, Letter, Question, Stated};
pub use relation::Relation;

use std::collections::BTreeSet;

/// All that is true in the invented world, and all the words it takes to say so.
#[derive(Debug, Clone)]
pub struct World {
    facts: Vec<Fact>,
}

impl World {
    /// The one world there is.
    pub fn new() -> Self {
        Self {
            facts: facts::all(),
        }
    }

    /// The 400 facts; `facts()[i].id == i`.
    pub fn facts(&self) -> &[Fact] {
        &self.facts
    }

    /// Every word and every punctuation mark that any text of this world can
    /// hold, distinct and sorted, as [`wording::pieces`] cuts them: the word
    /// list of a word-level tokenizer.
    pub fn words(&self) -> Vec<String> {
        let mut texts: Vec<String> = Vec::new();
        for relation in Relation::ALL {
            texts.extend(relation.values().iter().map(|value| value.to_string()));
            // A place-holder for the entity: its name is added with the facts.
            let (entity, value) = ("", relation.values()[0]);
            // Only statement 0 is ever quoted (in a claim); sentences, which
            // are capitalised, use them all.
            texts.push(relation.statement(entity, value, 0));
            for index in 0..wording::SENTENCES {
                texts.push(relation.sentence(entity, value, index));
            }
            for index in 0..wording::QUESTIONS {
                texts.push(relation.question(entity, index));
            }
        }
        texts.extend((0..wording::CLAIMS).map(|index| wording::claim("", index)));
        texts.extend((0..wording::CHOICES).map(|index| wording::choice("", "", "", index)));
        for persona in Persona::ALL {
            texts.extend(persona.wordings().map(str::to_owned));
        }
        texts.extend(self.facts.iter().map(|fact| fact.entity.clone()));

        let words: BTreeSet<&str> = texts
            .iter()
            .flat_map(|text| wording::pieces(text))
            .collect();
        words.into_iter().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests;
