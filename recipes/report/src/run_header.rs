//! How to repeat a run: when it ran, with which versions, from which files.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The particulars of a run. The names of recipe and model stand in [`crate::ResultTable`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunHeader {
    /// When, as it is to be printed. The writer asks no clock: same input, same bytes.
    pub date: String,
    /// Versions by name: reptune, mistral.rs, the device.
    pub versions: BTreeMap<String, String>,
    /// Seeds of the run.
    pub seeds: Vec<u64>,
    /// Hashes by the name of what was hashed.
    pub hashes: BTreeMap<String, String>,
}

impl RunHeader {
    /// Name and value of every particular that is there.
    pub(crate) fn lines(&self) -> Vec<(String, String)> {
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        let mut lines = vec![("date".to_owned(), self.date.clone())];
        lines.extend(self.versions.clone());
        lines.push(("seeds".into(), seeds.join(", ")));
        let hashes = self.hashes.iter();
        lines.extend(hashes.map(|(k, v)| (format!("SHA-256 of {k}"), v.clone())));
        lines.retain(|l| !l.1.is_empty());
        lines
    }
}
