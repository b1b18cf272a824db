//! Which tokens each token of a prefix tree attends to.

use crate::neighbours::{Neighbours, Span};
use candle_core::{Device, Result, Tensor};
use std::sync::OnceLock;

/// The ancestors of some querying tokens, as runs of token numbers: what attention may see.
///
/// One value serves all blocks of a forward: what attention derives from it (groups of
/// tokens that see much the same, dense masks) is computed once, when it is first needed.
#[derive(Debug)]
pub struct Ancestors {
    spans: Vec<Span>,
    offsets: Vec<u32>,
    neighbours: OnceLock<Vec<Neighbours>>,
    masks: OnceLock<Masks>,
}

/// Dense masks, one for every `piece` querying tokens.
#[derive(Debug)]
struct Masks {
    piece: usize,
    device: Device,
    pieces: Vec<Tensor>,
}

impl Ancestors {
    /// The i-th querying token sees `spans[offsets[i]..offsets[i + 1]]`, in ascending order.
    ///
    /// # Panics
    /// When `offsets` do not ascend from 0 to the number of spans.
    pub fn new(spans: Vec<Span>, offsets: Vec<u32>) -> Self {
        assert!(offsets.first() == Some(&0) && offsets.is_sorted());
        assert!(
            offsets
                .last()
                .is_some_and(|end| *end as usize == spans.len())
        );
        Self {
            spans,
            offsets,
            neighbours: OnceLock::new(),
            masks: OnceLock::new(),
        }
    }

    /// Number of querying tokens.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// True without tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Runs of the i-th querying token, itself included, in ascending order of position.
    pub fn spans(&self, i: usize) -> &[Span] {
        &self.spans[self.offsets[i] as usize..self.offsets[i + 1] as usize]
    }

    /// The querying tokens in groups that see much the same.
    pub(crate) fn neighbours(&self) -> &[Neighbours] {
        self.neighbours
            .get_or_init(|| Neighbours::all(self.len(), |i| self.spans(i)))
    }

    /// Masks to add to attention scores, one for every `piece` querying tokens: 0 where a
    /// token may look, minus infinity elsewhere; f32. Those made first are kept.
    ///
    /// Shapes: (1, piece, n) with n the tokens up to the last that is seen.
    ///
    /// # Errors
    /// When memory cannot be allocated on `device`.
    pub fn masks(&self, piece: usize, device: &Device) -> Result<Vec<Tensor>> {
        if let Some(known) = self.masks.get()
            && known.piece == piece
            && known.device.same_device(device)
        {
            return Ok(known.pieces.clone());
        }
        let starts = (0..self.len()).step_by(piece);
        let pieces = starts.map(|from| self.mask(from, piece.min(self.len() - from), device));
        let pieces: Vec<Tensor> = pieces.collect::<Result<_>>()?;
        let _ = self.masks.set(Masks {
            piece,
            device: device.clone(),
            pieces: pieces.clone(),
        });
        Ok(pieces)
    }

    fn mask(&self, from: usize, rows: usize, device: &Device) -> Result<Tensor> {
        let spans = |row: usize| self.spans(from + row);
        let seen = (0..rows).flat_map(spans).map(|&(_, to)| to as usize);
        let n = seen.max().unwrap_or(0);
        let mut mask = vec![f32::NEG_INFINITY; rows * n];
        for row in 0..rows {
            for &(from, to) in spans(row) {
                mask[row * n + from as usize..row * n + to as usize].fill(0.);
            }
        }
        Tensor::from_vec(mask, (1, rows, n), device)
    }
}
