//! Tunings repeated with other seeds.

use super::result::Row;
use super::section::{Grid, Section};
use super::sheet::{Cell, Sheet};
use crate::recipe::Mode;
use serde::{Deserialize, Serialize};

/// One mode, tuned once for each seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Repeats {
    /// The mode.
    pub mode: Mode,
    /// What each seed gave, in the order of the seeds.
    pub rows: Vec<Row>,
}

/// A measure of a row; none where it was not taken.
type Measure = fn(&Row) -> Option<f64>;

const MEASURES: [(&str, Measure); 6] = [
    ("claims: honest", |r| Some(r.claims.honest_share())),
    ("claims: lie", |r| Some(r.claims.lie_share())),
    ("two-choice: honest", |r| Some(r.choices?.honest_share())),
    ("two-choice: lie", |r| Some(r.choices?.lie_share())),
    ("perplexity", |r| r.perplexity),
    ("KL from base", |r| r.divergence),
];

impl Repeats {
    /// Mean, least and largest over the seeds.
    fn spread(&self, measure: Measure) -> Option<[f64; 3]> {
        let values: Vec<f64> = self.rows.iter().map(measure).collect::<Option<_>>()?;
        if values.is_empty() {
            return None;
        }
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some([mean, least, largest])
    }
}

/// Means with least and largest as text cells, header first.
pub(super) fn grid(all: &[Repeats]) -> Grid {
    let taken: Vec<&(&str, Measure)> = MEASURES
        .iter()
        .filter(|(_, m)| all.iter().any(|r| r.spread(*m).is_some()))
        .collect();
    let mut header = vec!["mode", "seeds"];
    header.extend(taken.iter().map(|(name, _)| *name));
    let row = |r: &Repeats| {
        let mut cells = vec![r.mode.name().to_owned(), r.rows.len().to_string()];
        cells.extend(taken.iter().map(|(_, m)| match r.spread(*m) {
            Some([mean, least, largest]) => format!("{mean:.3} ({least:.3} to {largest:.3})"),
            None => "-".into(),
        }));
        cells
    };
    Grid::new(&header, all.iter().map(row).collect())
}

/// The table as a part of the page.
pub(super) fn section(all: &[Repeats]) -> Option<Section> {
    let columns = ["mode", "seeds"].map(str::to_owned).into_iter();
    let spreads = MEASURES
        .iter()
        .flat_map(|(name, _)| ["mean", "least", "largest"].map(|which| format!("{name}: {which}")));
    let row = |r: &Repeats| {
        let mut cells = vec![Cell::text(r.mode.name()), Cell::Count(r.rows.len())];
        for (_, measure) in MEASURES {
            let spread = r.spread(measure);
            cells.extend((0..3).map(|i| Cell::number(spread.map(|s| s[i]))));
        }
        cells
    };
    (!all.is_empty()).then(|| Section {
        table: Some(grid(all)),
        sheet: Some(Sheet::new("repeats", columns.chain(spreads), all.iter().map(row))),
        ..Section::new(
            "repeats",
            "Other seeds",
            "Mean over the seeds, least and largest: look for modes that differ by more than their seeds do.",
        )
    })
}
