//! Settings that a search tries.

use super::settings;
use crate::error::Result;
use crate::recipe::Recipe;
use reptune_adapters::Positions;
use serde::{Deserialize, Serialize};

/// Settings that are tried together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchCandidate {
    /// Place in the grid, from 0.
    pub number: usize,
    /// `tuning.layers`.
    pub layers: Vec<usize>,
    /// `tuning.positions`, and `extraction.positions` with it; none: as in the recipe.
    pub positions: Option<Positions>,
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
        let places = match search.positions.is_empty() {
            true => vec![None],
            false => search.positions.iter().cloned().map(Some).collect(),
        };
        let mut grid = Vec::new();
        for layers in &layers {
            for positions in &places {
                for m in or(&search.m, t.m) {
                    for token_weight in or(&search.token_weight, t.token_weight) {
                        for learning_rate in or(&search.learning_rate, t.learning_rate) {
                            grid.push(Self {
                                number: grid.len(),
                                layers: layers.clone(),
                                positions: positions.clone(),
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
        if let Some(positions) = &self.positions {
            recipe.tuning.positions = positions.clone();
            recipe.extraction.positions = positions.clone();
        }
        recipe.tuning.m = self.m;
        recipe.tuning.token_weight = self.token_weight;
        recipe.tuning.learning_rate = self.learning_rate;
        recipe.tuning.epochs = epochs;
        recipe
    }
}
