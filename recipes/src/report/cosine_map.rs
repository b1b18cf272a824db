//! Where positives and negatives part: mean cosine difference by layer and token.

use super::canvas::{Anchor, WIDTH, draw};
use super::ink::Ink;
use super::number::short;
use super::section::{Key, Plot, Section, expect};
use super::sheet::{Cell, Sheet};
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Cosine with the direction: mean over positives minus mean over negatives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CosineMap {
    /// Layers, 0-based, of the rows of `difference`.
    pub layers: Vec<usize>,
    /// Offsets counted back from the answer, of its columns.
    pub offsets: Vec<usize>,
    /// One list per layer, one value per offset.
    pub difference: Vec<Vec<f64>>,
}

impl CosineMap {
    /// `(layer, offset, difference)` of every cell.
    fn cells(&self) -> impl Iterator<Item = (usize, usize, f64)> {
        self.layers
            .iter()
            .zip(&self.difference)
            .flat_map(move |(layer, row)| {
                let cells = self.offsets.iter().zip(row);
                cells.map(move |(offset, x)| (*layer, *offset, *x))
            })
    }

    fn check(&self) -> Result<()> {
        let part = "cosine map";
        expect(part, self.layers.len(), self.difference.len(), "layers")?;
        self.difference
            .iter()
            .try_for_each(|row| expect(part, self.offsets.len(), row.len(), "offsets"))
    }

    pub(super) fn section(&self) -> Result<Option<Section>> {
        self.check()?;
        let finite = self.cells().filter(|c| c.2.is_finite());
        let Some(largest) = finite.max_by(|a, b| a.2.abs().total_cmp(&b.2.abs())) else {
            return Ok(None);
        };
        let (layer, offset, difference) = largest;
        let rows = self.cells().map(|(layer, offset, x)| {
            vec![Cell::Count(layer), Cell::Count(offset), Cell::Number(x)]
        });
        Ok(Some(Section {
            note: Some(format!(
                "Outlined: layer {layer}, offset {offset} ({}); full colour stands for its size.",
                short(difference)
            )),
            legend: vec![
                Key::new("positives higher", Ink::Positive),
                Key::new("negatives higher", Ink::Negative),
            ],
            plots: vec![Plot {
                title: String::new(),
                svg: self.svg(largest)?,
            }],
            sheet: Some(Sheet::new(
                "cosine_map",
                ["layer", "offset", "cosine_difference"],
                rows,
            )),
            ..Section::new(
                "cosine-map",
                "Where positives and negatives part",
                "Mean cosine of positives minus that of negatives, by layer and by token before the \
                 answer: look for cells of full colour, where a direction is worth reading.",
            )
        }))
    }

    /// Last layer on top, the token nearest to the answer on the right.
    fn svg(&self, largest: (usize, usize, f64)) -> Result<String> {
        let mut layers = self.layers.clone();
        layers.sort_unstable_by(|a, b| b.cmp(a));
        let mut offsets = self.offsets.clone();
        offsets.sort_unstable_by(|a, b| b.cmp(a));
        let (left, top) = (34, 22);
        let cell = (WIDTH - left - 4) / (offsets.len() as i32).max(1);
        let tall = cell.clamp(12, 24);
        let bottom = top + tall * layers.len() as i32;
        let column = |offset: usize| offsets.iter().position(|o| *o == offset).unwrap_or(0) as i32;
        let row = |layer: usize| layers.iter().position(|l| *l == layer).unwrap_or(0) as i32;
        let corners = |layer: usize, offset: usize| {
            let (x, y) = (left + column(offset) * cell, top + row(layer) * tall);
            [(x, y), (x + cell, y + tall)]
        };
        // Labels that would touch are left out.
        let every = (26 / cell.max(1) + 1) as usize;
        draw(
            "Mean cosine difference by layer and offset",
            WIDTH,
            bottom + 40,
            |canvas| {
                canvas.text("layer", (4, 8), Ink::Faint, Anchor::Start)?;
                for (layer, offset, x) in self.cells().filter(|c| c.2.is_finite()) {
                    let ink = match x < 0. {
                        true => Ink::Negative,
                        false => Ink::Positive,
                    };
                    let share = x.abs() / largest.2.abs().max(f64::MIN_POSITIVE);
                    canvas.block(corners(layer, offset), ink, share)?;
                }
                for layer in layers.iter().rev().step_by(1 + layers.len() / 24) {
                    let y = top + row(*layer) * tall + tall / 2;
                    canvas.text(&layer.to_string(), (left - 6, y), Ink::Faint, Anchor::End)?;
                }
                for offset in offsets.iter().rev().step_by(every) {
                    let x = left + column(*offset) * cell + cell / 2;
                    let label = offset.to_string();
                    canvas.text(&label, (x, bottom + 11), Ink::Faint, Anchor::Middle)?;
                }
                canvas.frame(corners(largest.0, largest.1), Ink::Text)?;
                let middle = (left + WIDTH) / 2;
                let name = "offset, counted back from the answer";
                canvas.text(name, (middle, bottom + 30), Ink::Faint, Anchor::Middle)
            },
        )
    }
}
