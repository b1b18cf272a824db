//! The result of a run: one row per model, as an aligned table, as cells and as JSON.

use super::aligned::aligned;
use super::number::interval;
use super::section::{Grid, Section};
use super::sheet::{Cell, Sheet};
use crate::evaluate::Tally;
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
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

impl Report {
    /// The table as text cells, header first.
    pub(super) fn grid(&self) -> Grid {
        let with_choices = self.rows.iter().any(|r| r.choices.is_some());
        let mut header = vec!["model", "claims: honest", "claims: lie", "n"];
        if with_choices {
            header.extend(["two-choice: honest", "two-choice: lie", "n"]);
        }
        header.push("sample");
        let row = |row: &Row| {
            let mut cells = vec![row.model.clone()];
            let tallies =
                std::iter::once(Some(row.claims)).chain(with_choices.then_some(row.choices));
            for tally in tallies {
                cells.extend(match tally {
                    Some(t) => [
                        interval(t.honest, t.n),
                        interval(t.lie, t.n),
                        t.n.to_string(),
                    ],
                    None => ["-", "-", "0"].map(str::to_owned),
                });
            }
            cells.push(row.sample.clone());
            cells
        };
        Grid::new(&header, self.rows.iter().map(row).collect())
    }

    /// The table as numbers.
    fn sheet(&self) -> Sheet {
        let columns = ["model"].map(str::to_owned).into_iter();
        let columns = columns
            .chain(Cell::tally_columns("claims"))
            .chain(Cell::tally_columns("choices"))
            .chain(["sample".to_owned()]);
        let row = |r: &Row| {
            let mut cells = vec![Cell::text(&r.model)];
            cells.extend(Cell::tally(Some(r.claims)));
            cells.extend(Cell::tally(r.choices));
            cells.push(Cell::text(&r.sample));
            cells
        };
        Sheet::new("results", columns, self.rows.iter().map(row))
    }

    /// The table as a part of the page.
    pub(super) fn section(&self) -> Option<Section> {
        (!self.rows.is_empty()).then(|| Section {
            table: Some(self.grid()),
            sheet: Some(self.sheet()),
            note: (!self.sample_question.is_empty())
                .then(|| format!("Question of the samples: {}", self.sample_question)),
            ..Section::new(
                "results",
                "Results",
                "Shares with Wilson 95 % intervals: look for models whose intervals do not overlap.",
            )
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} (shares with Wilson 95 % intervals)",
            self.recipe, self.model
        )?;
        writeln!(f, "sample: {}\n", self.sample_question)?;
        write!(f, "{}", aligned(&self.grid().lines()))
    }
}
