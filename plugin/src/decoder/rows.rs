//! Which rows of a prefix-tree batch a table holds: all new ones or, after the last block, those
//! that are read.

use candle_core::{Device, Tensor};
use reptune_adapters::model::Ancestors;
use reptune_adapters::ops::Rotation;
use reptune_adapters::steering::intervention::apply_all;
use reptune_adapters::{HookPoint, Intervention, PrefixTree, Result};
use std::ops::Range;
use std::sync::Arc;

/// The rows of a table, and on which of them each intervention acts.
pub(super) struct Rows {
    /// Rows of the batch, ascending.
    held: Held,
    /// By intervention, rows of the table.
    acted: Vec<Vec<u32>>,
}

enum Held {
    Run(Range<u32>),
    Some(Vec<u32>),
}

/// What a block needs to compute some of its rows, which attend to the keys and values of all.
pub(super) struct Read {
    /// Their numbers in the table (R,).
    pub index: Tensor,
    pub rotation: Rotation,
    pub seen: Seen,
}

/// What the rows of a table attend to: their ancestors or, in blocks with a sliding window, the
/// last of them.
pub(super) struct Seen {
    all: Arc<Ancestors>,
    windowed: Arc<Ancestors>,
}

impl Seen {
    /// `window` is the model's, if it has one.
    pub(super) fn new(ancestors: Ancestors, window: Option<usize>) -> Self {
        let all = Arc::new(ancestors);
        let windowed = window.and_then(|window| all.within(window));
        Self {
            windowed: windowed.map_or_else(|| all.clone(), Arc::new),
            all,
        }
    }

    pub(super) fn by(&self, windowed: bool) -> &Arc<Ancestors> {
        match windowed {
            true => &self.windowed,
            false => &self.all,
        }
    }
}

impl Rows {
    /// The rows `new` of `batch`.
    pub(super) fn all(batch: &PrefixTree, new: Range<usize>, interventions: usize) -> Self {
        let first = new.start as u32;
        let acted = |i| {
            let masked = batch.masked(i, new.clone()).into_iter();
            masked.map(|r| r - first).collect()
        };
        Self {
            acted: (0..interventions).map(acted).collect(),
            held: Held::Run(first..new.end as u32),
        }
    }

    /// Of these the rows `read` (ascending), and what a block of a model with this `window`
    /// needs to compute them; `rotation` is that of these rows.
    pub(super) fn only(
        &self,
        batch: &PrefixTree,
        read: &[u32],
        (rotation, window): (&Rotation, Option<usize>),
        device: &Device,
    ) -> Result<(Self, Read)> {
        let index: Vec<u32> = read.iter().filter_map(|r| self.place(*r)).collect();
        let place = |row: &u32| Some(index.binary_search(row).ok()? as u32);
        let acted = self.acted.iter().map(|rows| rows.iter().filter_map(place));
        let rows = Self {
            acted: acted.map(Iterator::collect).collect(),
            held: Held::Some(read.to_vec()),
        };
        let read = Read {
            rotation: rotation.rows(&index),
            seen: Seen::new(batch.ancestors_of(read), window),
            index: Tensor::new(index, device)?,
        };
        Ok((rows, read))
    }

    /// The place of `row` of the batch in the table.
    fn place(&self, row: u32) -> Option<u32> {
        match &self.held {
            Held::Run(run) => run.contains(&row).then(|| row - run.start),
            Held::Some(rows) => Some(rows.binary_search(&row).ok()? as u32),
        }
    }

    /// The rows `wanted` of the batch out of the table `x` (N, H), in their order.
    pub(super) fn pick(&self, x: &Tensor, wanted: &[u32]) -> Result<Tensor> {
        let index: Vec<u32> = wanted.iter().filter_map(|r| self.place(*r)).collect();
        if index.iter().copied().eq(0..x.dims()[0] as u32) {
            return Ok(x.clone());
        }
        Ok(x.index_select(&Tensor::new(index, x.device())?, 0)?)
    }

    /// Applies what acts at `point` of `layer`.
    pub(super) fn change(
        &self,
        interventions: &[Intervention],
        x: &Tensor,
        point: HookPoint,
        layer: usize,
    ) -> Result<Tensor> {
        apply_all(interventions, x, point, layer, |i| self.acted[i].clone())
    }
}
