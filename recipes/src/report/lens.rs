//! What the direction says in words: the logit lens.

use super::section::{Grid, Section};
use super::sheet::{Cell, Sheet};
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

/// A token with its spaces and line ends made visible.
fn visible(token: &str) -> String {
    token.chars().fold(String::new(), |mut shown, c| {
        match c {
            ' ' => shown.push('\u{2423}'),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
        shown
    })
}

/// The part of the page about `layers`.
pub(super) fn section(layers: &[LensRow]) -> Option<Section> {
    let words = |tokens: &[String]| {
        let tokens: Vec<String> = tokens.iter().map(|t| visible(t)).collect();
        tokens.join("  ")
    };
    let grid = layers
        .iter()
        .map(|l| vec![l.layer.to_string(), words(&l.top), words(&l.bottom)]);
    let rows = layers.iter().flat_map(|l| {
        let ends = [("top", &l.top), ("bottom", &l.bottom)];
        ends.into_iter().flat_map(move |(end, tokens)| {
            tokens.iter().enumerate().map(move |(i, token)| {
                let place = [Cell::Count(l.layer), Cell::text(end), Cell::Count(i + 1)];
                place.into_iter().chain([Cell::text(token)]).collect()
            })
        })
    });
    (!layers.is_empty()).then(|| Section {
        table: Some(Grid::new(
            &["layer", "raises", "lowers"],
            grid.collect(),
        )),
        sheet: Some(Sheet::new("lens", ["layer", "end", "rank", "token"], rows)),
        ..Section::new(
            "lens",
            "The direction in tokens",
            "Final norm and unembedding applied to the direction: look for layers whose words are about \
             the behaviour and not about the answer letters.",
        )
    })
}
