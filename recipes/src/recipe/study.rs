//! A run as a study: repeats with other seeds, controls, and claims.

use super::Wrong;
use reptune_report::StudyClaim;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Repeats, controls and claims. With this table a run tunes every mode once for each seed,
/// steers with a random and with a shuffled direction too, and says which claims hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// Seeds of the order of training claims and of the initial LoRA factors; the split of
    /// the data stays that of the recipe's own seed.
    pub seeds: Vec<u64>,
    /// A Markdown file for the result (relative to the recipe file).
    pub results: Option<PathBuf>,
    /// What the study claims about its models; the run says whether it holds.
    #[serde(default)]
    pub claims: Vec<StudyClaim>,
}

impl Study {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        let mut seeds = self.seeds.clone();
        seeds.sort_unstable();
        seeds.dedup();
        if seeds.is_empty() || seeds.len() != self.seeds.len() {
            let found = format!("{:?}", self.seeds);
            return Wrong::key("study.seeds", "different seeds, at least one", found);
        }
        for (i, claim) in self.claims.iter().enumerate() {
            let place = |key: &str| format!("study.claims, entry {}, {key}", i + 1);
            let texts = [
                ("name", &claim.name),
                ("left.model", &claim.left.model),
                ("right.model", &claim.right.model),
            ];
            if let Some((key, _)) = texts.into_iter().find(|(_, text)| text.is_empty()) {
                return Wrong::key(place(key), "words", "an empty text");
            }
            let margin = claim.margin.value();
            if !margin.is_finite() {
                return Wrong::key(place("margin"), "a finite number", margin.to_string());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
