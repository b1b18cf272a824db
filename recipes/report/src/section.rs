//! A part of the page: a title, what to look for, and figures or a table.

use crate::canvas::Ink;
use crate::table::{Cell, Column, grid, sheet};
use serde::Serialize;

/// One figure: what it shows, empty if the section's title says it, and the drawing, escaped and
/// themed.
pub(crate) type Plot = (String, String);

/// One part of the page.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Section {
    /// Anchor.
    pub(crate) id: &'static str,
    /// Title.
    pub(crate) title: &'static str,
    /// A line about it, after the caption that the template has for it.
    pub(crate) note: Option<String>,
    /// Names and their colours.
    pub(crate) legend: Vec<(String, Ink)>,
    /// Figures, side by side where there is room.
    pub(crate) plots: Vec<Plot>,
    /// Table, its header first.
    pub(crate) table: Vec<Vec<String>>,
    /// Generations, side by side.
    pub(crate) samples: minijinja::Value,
    /// Name of the files of its data, without extension; empty if it has none.
    pub(crate) file: String,
    /// Its data, with a header.
    #[serde(skip)]
    pub(crate) data: Vec<Vec<Cell>>,
}

impl Section {
    /// A section without content.
    pub(crate) fn new(id: &'static str, title: &'static str) -> Self {
        Self {
            id,
            title,
            ..Self::default()
        }
    }

    /// With what the colours stand for.
    pub(crate) fn legend<const N: usize>(mut self, keys: [(&str, Ink); N]) -> Self {
        self.legend = keys.map(|(name, ink)| (name.to_owned(), ink)).into();
        self
    }

    /// With the names of the positives and of the negatives.
    pub(crate) fn sides(self, positive: &str, negative: &str) -> Self {
        self.legend([(positive, Ink::POSITIVE), (negative, Ink::NEGATIVE)])
    }

    /// With figures; none if there are none.
    pub(crate) fn plots(self, plots: Vec<Plot>) -> Option<Self> {
        (!plots.is_empty()).then_some(Self { plots, ..self })
    }

    /// With data: `rows` are tuples, as long as `columns`.
    pub(crate) fn data<R: Serialize>(
        self,
        columns: &[&str],
        rows: impl Iterator<Item = R>,
    ) -> Self {
        let cells = |row| match serde_json::to_value(row) {
            Ok(Cell::Array(cells)) => cells,
            _ => Vec::new(), // Refused by the CSV.
        };
        let head = columns.iter().map(|c| Cell::from(*c)).collect();
        self.sheet(std::iter::once(head).chain(rows.map(cells)).collect())
    }

    /// With data that have a header.
    pub(crate) fn sheet(self, data: Vec<Vec<Cell>>) -> Self {
        let file = self.id.replace('-', "_");
        Self { file, data, ..self }
    }

    /// With a table of `rows` and its data; none if there are none.
    pub(crate) fn table<T>(mut self, columns: &[Column<T>], rows: &[T]) -> Option<Self> {
        self.table = grid(columns, rows);
        (!rows.is_empty()).then(|| self.sheet(sheet(columns, rows)))
    }
}
