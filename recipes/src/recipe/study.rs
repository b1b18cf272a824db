//! A run as a study: repeats with other seeds, and controls.

use super::Wrong;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Repeats and controls. With this table a run tunes every mode once for each seed,
/// steers with a random and with a shuffled direction too, and says which claims of
/// the paper hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// Seeds of the order of training claims and of the first factors; the split of
    /// the data stays that of the recipe's own seed.
    pub seeds: Vec<u64>,
    /// A Markdown file for the result (relative to the recipe file).
    pub results: Option<PathBuf>,
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
        Ok(())
    }
}
