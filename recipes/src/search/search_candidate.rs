//! Settings that a search tries.

use super::settings;
use crate::error::Result;
use crate::recipe::Recipe;
use serde::{Deserialize, Serialize};

/// Settings that are tried together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchCandidate {
    /// Place in the grid, from 0.
    pub number: usize,
    /// `tuning.layers`.
    pub layers: Vec<usize>,
    /// `tuning.offset`, and `extraction.offset` with it; none: as in the recipe.
    pub offset: Option<usize>,
    /// `tuning.m`.
    pub m: f64,
    /// `tuning.token_weight`.
    pub token_weight: f64,
    /// `tuning.learning_rate`.
    pub learning_rate: f64,
}

impl SearchCandidate {
    /// Every combination of the values of `recipe`'s `[search]`, the learning rate
    /// changing fastest.
    ///
    /// # Errors
    /// When the recipe has no `[search]`.
    pub fn grid(recipe: &Recipe) -> Result<Vec<Self>> {
        let (search, t) = (settings(recipe)?, &recipe.tuning);
        let or = |list: &[f64], own: f64| match list.is_empty() {
            true => vec![own],
            false => list.to_vec(),
        };
        let layers = match search.layers.is_empty() {
            true => vec![t.layers.clone()],
            false => search.layers.clone(),
        };
        let offsets = match search.offset.is_empty() {
            true => vec![None],
            false => search.offset.iter().copied().map(Some).collect(),
        };
        let mut grid = Vec::new();
        for layers in &layers {
            for &offset in &offsets {
                for m in or(&search.m, t.m) {
                    for token_weight in or(&search.token_weight, t.token_weight) {
                        for learning_rate in or(&search.learning_rate, t.learning_rate) {
                            grid.push(Self {
                                number: grid.len(),
                                layers: layers.clone(),
                                offset,
                                m,
                                token_weight,
                                learning_rate,
                            });
                        }
                    }
                }
            }
        }
        Ok(grid)
    }

    /// `recipe` with these settings, tuned for `epochs`.
    pub fn recipe(&self, recipe: &Recipe, epochs: usize) -> Recipe {
        let mut recipe = recipe.clone();
        recipe.tuning.layers = self.layers.clone();
        if let Some(offset) = self.offset {
            recipe.tuning.offset = offset;
            recipe.extraction.offset = offset as i64;
        }
        recipe.tuning.m = self.m;
        recipe.tuning.token_weight = self.token_weight;
        recipe.tuning.learning_rate = self.learning_rate;
        recipe.tuning.epochs = epochs;
        recipe
    }
}
