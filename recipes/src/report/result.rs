//! The result of a run: one row per model, as an aligned table, as cells and as JSON.

use super::aligned::aligned;
use super::number::interval;
use super::section::{Grid, Section};
use super::sheet::{Cell, Sheet};
use crate::evaluate::{Comparison, Preferences, Tally};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One model under test.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What it is: base, prompted, steered, tuned, merged, baked.
    pub model: String,
    /// Test claims.
    pub claims: Tally,
    /// Two-choice questions, if the recipe has some.
    pub choices: Option<Tally>,
    /// Its answer to the sample question.
    pub sample: String,
    /// Honest answers to the same claims, beside those of the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versus_base: Option<Comparison>,
    /// Mean log p(true letter) - log p(other letter) on the claims, where logits can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_odds: Option<f64>,
    /// Perplexity of the recipe's text, where logits can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Mean KL(base || model) in nats on the recipe's neutral texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<f64>,
    /// Open answers judged: those of the base are the first, the model's the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged: Option<Preferences>,
}

/// A column that is there when at least one row has something for it.
struct Optional {
    title: &'static str,
    text: fn(&Row) -> Option<String>,
    /// Name in the data, and the number.
    data: &'static str,
    number: fn(&Row) -> Option<f64>,
}

const OPTIONAL: [Optional; 5] = [
    Optional {
        title: "log-odds",
        text: |r| Some(format!("{:+.2}", r.log_odds?)),
        data: "claims_log_odds",
        number: |r| r.log_odds,
    },
    Optional {
        title: "p vs base",
        text: |r| Some(p_value(r.versus_base.as_ref()?.test.p)),
        data: "p_versus_base",
        number: |r| Some(r.versus_base.as_ref()?.test.p),
    },
    Optional {
        title: "perplexity",
        text: |r| Some(format!("{:.3}", r.perplexity?)),
        data: "perplexity",
        number: |r| r.perplexity,
    },
    Optional {
        title: "KL from base",
        text: |r| Some(format!("{:.4}", r.divergence?)),
        data: "divergence",
        number: |r| r.divergence,
    },
    Optional {
        title: "judged better/tie/worse",
        text: |r| {
            let j = r.judged.as_ref()?;
            Some(format!("{}/{}/{}", j.second, j.tie, j.first))
        },
        data: "judged_better_share",
        number: |r| {
            let j = r.judged.as_ref()?;
            Some(j.second as f64 / j.n.max(1) as f64)
        },
    },
];

fn p_value(p: f64) -> String {
    match p < 0.001 {
        true => "<.001".into(),
        false => format!("{p:.3}"),
    }
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
        let optional: Vec<&Optional> = OPTIONAL
            .iter()
            .filter(|o| self.rows.iter().any(|r| (o.text)(r).is_some()))
            .collect();
        header.extend(optional.iter().map(|o| o.title));
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
            let more = optional.iter().map(|o| (o.text)(row));
            cells.extend(more.map(|text| text.unwrap_or_else(|| "-".into())));
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
            .chain(OPTIONAL.iter().map(|o| o.data.to_owned()))
            .chain(["sample".to_owned()]);
        let row = |r: &Row| {
            let mut cells = vec![Cell::text(&r.model)];
            cells.extend(Cell::tally(Some(r.claims)));
            cells.extend(Cell::tally(r.choices));
            cells.extend(OPTIONAL.iter().map(|o| Cell::number((o.number)(r))));
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
