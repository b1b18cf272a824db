//! The paper's claims, checked against this run.

use super::number::short;
use super::section::{Grid, Section};
use super::sheet::{Cell, Sheet};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Whether a claim was borne out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The numbers bear it out.
    Holds,
    /// They speak against it.
    DoesNotHold,
    /// They do not decide it.
    #[default]
    Undecided,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Holds => "holds",
            Self::DoesNotHold => "does not hold",
            Self::Undecided => "undecided",
        })
    }
}

/// A number with its name: a share, a difference, a p-value.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What it is.
    pub name: String,
    /// The number.
    pub value: f64,
}

/// One claim of the paper and what this run says about it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The claim, in words.
    pub claim: String,
    /// The paper's own numbers, in words; empty if it gives none.
    pub paper: String,
    /// Whether it was borne out here.
    pub outcome: Outcome,
    /// The numbers that say so.
    pub numbers: Vec<Measured>,
}

/// The findings as text cells, header first.
pub(super) fn grid(findings: &[Finding]) -> Grid {
    let row = |f: &Finding| {
        let numbers = f.numbers.iter();
        let numbers: Vec<String> = numbers
            .map(|n| format!("{} {}", n.name, short(n.value)))
            .collect();
        vec![
            f.claim.clone(),
            f.outcome.to_string(),
            numbers.join("; "),
            f.paper.clone(),
        ]
    };
    let head = ["claim", "outcome", "here", "in the paper"];
    Grid::new(&head, findings.iter().map(row).collect())
}

/// The part of the page about `findings`.
pub(super) fn section(findings: &[Finding]) -> Option<Section> {
    let rows = findings.iter().flat_map(|f| {
        let row = |name: Cell, value: Cell| {
            let outcome = Cell::text(f.outcome.to_string());
            vec![
                Cell::text(&f.claim),
                outcome,
                name,
                value,
                Cell::text(&f.paper),
            ]
        };
        match f.numbers.as_slice() {
            [] => vec![row(Cell::Missing, Cell::Missing)],
            numbers => numbers
                .iter()
                .map(|n| row(Cell::text(&n.name), Cell::Number(n.value)))
                .collect(),
        }
    });
    let columns = ["claim", "outcome", "number", "value", "paper"];
    (!findings.is_empty()).then(|| Section {
        table: Some(grid(findings)),
        sheet: Some(Sheet::new("findings", columns, rows)),
        ..Section::new(
            "findings",
            "The paper's claims",
            "Look for claims that do not hold, and at how far their numbers are from holding.",
        )
    })
}
