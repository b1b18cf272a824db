//! Claims and questions of a recipe, split by what they are about.

use super::formats;
use super::item::{Claim, Question};
use crate::error::{Error, Result};
use crate::recipe::Recipe;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

/// Items of a recipe, split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Items {
    /// Claims for extraction and tuning.
    pub train: Vec<Claim>,
    /// Claims for choosing and early stop.
    pub validation: Vec<Claim>,
    /// Claims that nothing else sees.
    pub test: Vec<Claim>,
    /// Two-choice questions about groups that are only tested.
    pub choices: Vec<Question>,
    /// In which format each file was read, where that is not the recipe's own.
    pub notes: Vec<String>,
}

impl Items {
    /// Reads and splits the items of `recipe`; at most as many test items as its
    /// evaluation asks for.
    ///
    /// # Errors
    /// When a file, a column or a label is wrong, or a part is empty.
    pub fn read(recipe: &Recipe) -> Result<Self> {
        let (claims, note) = formats::claims(&recipe.data.claims, &recipe.prompt)?;
        let mut notes = Vec::from_iter(note);
        let groups: BTreeSet<&str> = claims.iter().map(|c| c.group.as_str()).collect();
        let mut groups: Vec<&str> = groups.into_iter().collect();
        let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed);
        groups.shuffle(&mut rng);
        let at = |share: f64| (share * groups.len() as f64).round() as usize;
        let [first, second] = recipe.data.split;
        let ends = [at(first), at(first + second)];
        let part = |i: usize| ends.iter().filter(|end| i >= **end).count();
        let part = groups.iter().enumerate().map(|(i, g)| (*g, part(i)));
        let part: BTreeMap<&str, usize> = part.collect();
        let mut parts: [Vec<Claim>; 3] = Default::default();
        for claim in &claims {
            parts[part[claim.group.as_str()]].push(claim.clone());
        }
        let mut choices = Vec::new();
        if let Some(source) = &recipe.data.choices {
            let (all, note) = formats::choices(source, &recipe.prompt)?;
            notes.extend(note);
            for (group, question) in all {
                let part = group.as_deref().and_then(|g| part.get(g));
                if part.is_none_or(|p| *p == 2) {
                    choices.push(question);
                }
            }
        }
        parts.iter_mut().for_each(|p| p.shuffle(&mut rng));
        choices.shuffle(&mut rng);
        let [train, validation, mut test] = parts;
        test.truncate(recipe.evaluation.claims);
        choices.truncate(recipe.evaluation.choices);
        for (name, part) in [
            ("training", &train),
            ("validation", &validation),
            ("test", &test),
        ] {
            let truths: BTreeSet<bool> = part.iter().map(|c| c.label).collect();
            if truths.len() < 2 {
                let place = format!("{name} part of the claims");
                let found = format!("{} claims, {} kinds", part.len(), truths.len());
                let (file, expected) = (&recipe.data.claims.file, "true and false claims");
                let hint = "give more claims, or another data.split";
                return Err(Error::input(file, place, expected, found, hint));
            }
        }
        Ok(Self {
            train,
            validation,
            test,
            choices,
            notes,
        })
    }
}
