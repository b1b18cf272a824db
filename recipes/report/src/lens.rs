//! What the direction says in words: the logit lens.

use crate::section::Section;
use crate::sheet::{Cell, Sheet};
use crate::table::{Column, Grid};
use serde::{Deserialize, Serialize};

/// The direction of one layer through the final norm and the unembedding.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LensRow {
    /// Layer, 0-based.
    pub layer: usize,
    /// Tokens it raises most, the first first.
    pub top: Vec<String>,
    /// Tokens it lowers most, the lowest first.
    pub bottom: Vec<String>,
}

/// Tokens with their spaces and line ends made visible.
fn visible(tokens: &[String]) -> String {
    let shown = tokens.iter().map(|token| {
        token.chars().fold(String::new(), |mut shown, c| {
            match c {
                ' ' => shown.push('\u{2423}'),
                c if c.is_control() => shown.extend(c.escape_default()),
                c => shown.push(c),
            }
            shown
        })
    });
    shown.collect::<Vec<_>>().join("  ")
}

/// The part of the page about `layers`.
pub(crate) fn section(layers: &[LensRow]) -> Option<Section> {
    let columns = [
        Column::count("layer", "", |l: &LensRow| Some(l.layer)),
        Column::text("raises", "", |l: &LensRow| visible(&l.top)),
        Column::text("lowers", "", |l: &LensRow| visible(&l.bottom)),
    ];
    let lines = layers.iter().flat_map(|l| {
        let ends = [("top", &l.top), ("bottom", &l.bottom)];
        ends.into_iter().flat_map(move |(end, tokens)| {
            tokens.iter().enumerate().map(move |(i, token)| {
                let place = [Cell::from(l.layer), Cell::from(end), Cell::from(i + 1)];
                place
                    .into_iter()
                    .chain([Cell::from(token.as_str())])
                    .collect()
            })
        })
    });
    (!layers.is_empty()).then(|| Section {
        table: Some(Grid::new(&columns, layers)),
        sheet: Some(Sheet::new("lens", ["layer", "end", "rank", "token"], lines)),
        ..Section::new(
            "lens",
            "The direction in tokens",
            "Final norm and unembedding applied to the direction. Look for layers whose words are \
             about the behaviour and not about the answer tokens.",
        )
    })
}
