//! The result of a run: one row per model, as an aligned table and as JSON.

use crate::evaluate::{Tally, wilson};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One model under test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What it is: base, prompted, steered, tuned, merged, baked.
    pub model: String,
    /// Test claims.
    pub claims: Tally,
    /// Two-choice questions, if the recipe has some.
    pub choices: Option<Tally>,
    /// Its answer to the sample question.
    pub sample: String,
}

/// All rows of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the recipe.
    pub recipe: String,
    /// SHA-256 of the recipe.
    pub recipe_hash: String,
    /// Name of the model.
    pub model: String,
    /// The question whose answers are shown as samples.
    pub sample_question: String,
    /// Rows.
    pub rows: Vec<Row>,
}

fn share(successes: usize, n: usize) -> String {
    let (low, high) = wilson(successes, n);
    let plain = |x: f64| format!("{x:.2}").replacen("0.", ".", 1);
    format!(
        "{:.3} [{}, {}]",
        successes as f64 / n.max(1) as f64,
        plain(low),
        plain(high)
    )
}

/// An aligned table: the first row is the header, the first column is left-aligned.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| {
        rows.iter()
            .filter_map(|r| r.get(c))
            .map(|s| s.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, w)| format!("{cell:<w$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    let rule: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
    lines.insert(1.min(lines.len()), rule.join("  "));
    lines.join("\n")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with_choices = self.rows.iter().any(|r| r.choices.is_some());
        let mut header = vec!["model", "claims: honest", "claims: lie", "n"];
        if with_choices {
            header.extend(["two-choice: honest", "two-choice: lie", "n"]);
        }
        header.push("sample");
        let mut rows = vec![header.into_iter().map(str::to_owned).collect::<Vec<_>>()];
        for row in &self.rows {
            let mut cells = vec![row.model.clone()];
            let tallies =
                std::iter::once(Some(row.claims)).chain(with_choices.then_some(row.choices));
            for tally in tallies {
                let t = tally.unwrap_or_default();
                cells.extend([share(t.honest, t.n), share(t.lie, t.n), t.n.to_string()]);
            }
            cells.push(row.sample.clone());
            rows.push(cells);
        }
        writeln!(
            f,
            "{}: {} (shares with Wilson 95 % intervals)",
            self.recipe, self.model
        )?;
        writeln!(f, "sample: {}\n", self.sample_question)?;
        write!(f, "{}", aligned(&rows))
    }
}
