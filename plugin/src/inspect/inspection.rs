//! What was found in an artefact, and the short lists in which it is printed.

use serde::Serialize;
use std::collections::BTreeMap;

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// What it is.
    pub kind: &'static str,
    /// Facts, in the order in which they are printed.
    #[serde(serialize_with = "as_map")]
    pub facts: Vec<(String, String)>,
    /// Its parts in columns, header first; empty if it has none worth a table.
    pub parts: Vec<Vec<String>>,
    /// What was checked, or that nothing could be.
    pub checked: String,
}

fn as_map<S: serde::Serializer>(
    facts: &[(String, String)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(facts.iter().map(|(k, v)| (k, v)))
}

impl Inspection {
    pub(super) fn new(kind: &'static str, checked: &str) -> Self {
        Self {
            kind,
            facts: Vec::new(),
            parts: Vec::new(),
            checked: checked.to_owned(),
        }
    }

    /// With a fact, unless its value is empty.
    pub(super) fn fact(mut self, name: &str, value: impl ToString) -> Self {
        let value = value.to_string();
        if !value.is_empty() {
            self.facts.push((name.to_owned(), value));
        }
        self
    }

    /// With its parts.
    pub(super) fn table<const N: usize>(
        mut self,
        head: [&str; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> Self {
        self.parts.push(head.map(str::to_owned).to_vec());
        self.parts.extend(rows.into_iter().map(Vec::from));
        self
    }
}

/// `43 x q8_0, 1 x f32`.
pub(super) fn counted<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for one in all {
        *counts.entry(one.to_string()).or_default() += 1;
    }
    let parts = counts.iter().map(|(t, n)| format!("{n} x {t}"));
    parts.collect::<Vec<_>>().join(", ")
}

/// `1-3, 7`.
pub(super) fn ranges(numbers: impl IntoIterator<Item = usize>) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for n in numbers {
        match runs.last_mut() {
            Some((_, end)) if *end + 1 == n => *end = n,
            _ => runs.push((n, n)),
        }
    }
    let show = |(a, b): &(usize, usize)| match a == b {
        true => a.to_string(),
        false => format!("{a}-{b}"),
    };
    runs.iter().map(show).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
