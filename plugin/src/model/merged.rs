//! Merging an adapter into full weights.

use super::companions::Companions;
use super::source::Source;
use crate::error::Result;
use reptune_adapters::Adapter;
use reptune_recipes::merge::{MergeReport, merge_checked};
use std::path::Path;

impl Source {
    /// Folds `update` into the full weights and writes the checkpoint `out`, with a configuration
    /// and a tokenizer that every engine reads. It is opened before it gets its name.
    ///
    /// # Errors
    /// Those of [`merge_checked`] and of [`Companions::of`]. Nothing is left at `out` then.
    pub fn merge(
        &self,
        update: &Adapter,
        out: &Path,
        progress: &mut dyn FnMut(&Path, usize, usize),
    ) -> Result<MergeReport> {
        let companions = Companions::of(&self.directory, &self.config)?;
        merge_checked(&self.directory, update, out, progress, |staging| {
            companions.overwrite(staging)?;
            let written = Self::open(staging.path())?;
            Companions::of(staging.path(), &written.config)?;
            super::companions::engine_reads(&written.config)
        })
    }
}
