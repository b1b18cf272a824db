//! Where positives and negatives differ: mean cosine difference by layer and token.

use crate::canvas::{Anchor, Ink, WIDTH, draw};
use crate::error::{Result, same_number};
use crate::number::short;
use crate::section::Section;
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
        let rows = self.layers.iter().zip(&self.difference);
        rows.flat_map(|(layer, row)| {
            let cells = self.offsets.iter().zip(row);
            cells.map(|(offset, x)| (*layer, *offset, *x))
        })
    }

    fn check(&self) -> Result<()> {
        let same = |expected, found| {
            let hint = "fill this part of the study from one measurement";
            same_number("report, cosine map", expected, found, hint)
        };
        same((self.layers.len(), "layers"), self.difference.len())?;
        let mut rows = self.difference.iter();
        rows.try_for_each(|row| same((self.offsets.len(), "offsets"), row.len()))
    }

    pub(crate) fn section(&self) -> Result<Option<Section>> {
        self.check()?;
        let finite = self.cells().filter(|c| c.2.is_finite());
        let Some(largest) = finite.max_by(|a, b| a.2.abs().total_cmp(&b.2.abs())) else {
            return Ok(None);
        };
        let (layer, offset, difference) = largest;
        let section = Section::new("cosine-map", "Where positives and negatives differ")
            .sides("positives higher", "negatives higher")
            .data(&["layer", "offset", "cosine_difference"], self.cells());
        Ok(Section {
            note: Some(format!(
                "The outlined cell (layer {layer}, offset {offset}) has the largest difference, {}, \
                 and full colour.",
                short(difference)
            )),
            ..section
        }
        .plots(vec![(String::new(), self.svg(largest))]))
    }

    /// Last layer on top, the token nearest to the answer on the right.
    fn svg(&self, largest: (usize, usize, f64)) -> String {
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
        let alt = "Mean cosine difference by layer and offset";
        draw(alt, bottom + 40, |canvas| {
            canvas.text("layer", (4, 8), Ink::FAINT, Anchor::START);
            for (layer, offset, x) in self.cells().filter(|c| c.2.is_finite()) {
                let ink = match x < 0. {
                    true => Ink::NEGATIVE,
                    false => Ink::POSITIVE,
                };
                let share = x.abs() / largest.2.abs().max(f64::MIN_POSITIVE);
                canvas.rectangle(corners(layer, offset), &ink.fill(), share);
            }
            for layer in layers.iter().rev().step_by(1 + layers.len() / 24) {
                let y = top + row(*layer) * tall + tall / 2;
                canvas.text(&layer.to_string(), (left - 6, y), Ink::FAINT, Anchor::END);
            }
            for offset in offsets.iter().rev().step_by(every) {
                let x = left + column(*offset) * cell + cell / 2;
                let label = offset.to_string();
                canvas.text(&label, (x, bottom + 11), Ink::FAINT, Anchor::MIDDLE);
            }
            canvas.rectangle(corners(largest.0, largest.1), &Ink::TEXT.border(), 1.);
            let middle = (left + WIDTH) / 2;
            let name = "offset, counted back from the answer";
            canvas.text(name, (middle, bottom + 30), Ink::FAINT, Anchor::MIDDLE);
        })
    }
}
