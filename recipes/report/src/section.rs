//! A part of the page: a title, what to look for, and figures or a table.

use crate::canvas::Ink;
use crate::sheet::{Cell, Sheet};
use crate::table::{Column, Grid};
use serde::Serialize;

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Plot {
    /// What it shows, above it; empty if the section's title says it.
    pub(crate) title: String,
    /// The drawing, escaped and themed.
    pub(crate) svg: String,
}

/// What a colour stands for.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Key {
    name: String,
    ink: &'static str,
}

/// One part of the page.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Section {
    /// Anchor.
    pub(crate) id: &'static str,
    /// Title.
    pub(crate) title: &'static str,
    /// What to look for, in a line.
    pub(crate) caption: &'static str,
    /// A second line.
    pub(crate) note: Option<String>,
    /// What the colours stand for.
    pub(crate) legend: Vec<Key>,
    /// Figures, side by side where there is room.
    pub(crate) plots: Vec<Plot>,
    /// Table.
    pub(crate) table: Option<Grid>,
    /// Generations, side by side.
    pub(crate) samples: minijinja::Value,
    /// The data it shows.
    #[serde(skip)]
    pub(crate) sheet: Option<Sheet>,
}

impl Section {
    /// A section without content.
    pub(crate) fn new(id: &'static str, title: &'static str, caption: &'static str) -> Self {
        Self {
            id,
            title,
            caption,
            ..Self::default()
        }
    }

    /// With what the colours stand for.
    pub(crate) fn legend(self, keys: &[(&str, Ink)]) -> Self {
        let key = |(name, ink): &(&str, Ink)| Key {
            name: (*name).to_owned(),
            ink: ink.name(),
        };
        let legend = keys.iter().map(key).collect();
        Self { legend, ..self }
    }

    /// With figures; none if there are none.
    pub(crate) fn plots(self, plots: Vec<Plot>) -> Option<Self> {
        (!plots.is_empty()).then_some(Self { plots, ..self })
    }

    /// With data.
    pub(crate) fn data(self, sheet: Sheet) -> Self {
        let sheet = Some(sheet);
        Self { sheet, ..self }
    }

    /// With a table of `rows`, whose data have the section's id as their name; none if
    /// there are none.
    pub(crate) fn table<T>(self, columns: &[Column<T>], rows: &[T]) -> Option<Self> {
        (!rows.is_empty()).then(|| Self {
            table: Some(Grid::new(columns, rows)),
            sheet: Some(Sheet::of(self.id, columns, rows)),
            ..self
        })
    }
}

/// A line of data for every value of the positives and of the negatives of a layer.
pub(crate) fn both_sets<V>(
    layer: usize,
    (positive, negative): (&[V], &[V]),
    cells: impl Fn(&V) -> Vec<Cell>,
) -> Vec<Vec<Cell>> {
    let sets = [("positive", positive), ("negative", negative)];
    let line = |set: &str, value: &V| {
        let mut line = vec![Cell::from(layer), Cell::from(set)];
        line.extend(cells(value));
        line
    };
    let lines = sets
        .into_iter()
        .flat_map(|(set, values)| values.iter().map(move |v| (set, v)));
    lines.map(|(set, value)| line(set, value)).collect()
}
