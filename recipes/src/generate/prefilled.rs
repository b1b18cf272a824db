//! Prompts computed once, for all that is generated from them under other interventions.

use super::{Generation, groups};
use crate::error::Result;
use candle_core::Tensor;
use reptune_adapters::{Cache, Forest, Host, Intervention, LowRankUpdate, Request};
use std::collections::BTreeMap;

/// Keys, values and residual rows of prompts without interventions. What is steered at a
/// layer begins there: the blocks below give every coeff and sign the same.
pub struct Prefilled<'a> {
    low_rank: Option<&'a LowRankUpdate>,
    groups: Vec<Group>,
}

/// Prompts that were computed together.
struct Group {
    forest: Forest,
    cache: Cache,
    /// Rows (N, H) by layer.
    rows: BTreeMap<usize, Tensor>,
}

/// Where a forward begins.
pub(super) struct Begun {
    pub cache: Cache,
    pub layer: usize,
    /// Rows (N, H) of its forest at the output of `layer`.
    pub rows: Tensor,
}

impl<'a> Prefilled<'a> {
    /// Computes `prompts` up to the highest of `layers`, so that what is steered at one of
    /// them can begin there.
    ///
    /// # Errors
    /// When a layer does not exist, or the model fails.
    pub fn of(
        host: &dyn Host,
        prompts: &[Vec<u32>],
        layers: &[usize],
        low_rank: Option<&'a LowRankUpdate>,
    ) -> Result<Self> {
        let blocks = layers.iter().max().map_or(0, |l| l + 1);
        let group = |range: std::ops::Range<usize>| {
            let (forest, _) = Forest::pack(&prompts[range]);
            let mut cache = Cache::keeping(blocks, forest.len());
            let request = Request {
                capture: layers,
                low_rank,
                ..Request::default()
            };
            let rows = host.forward(&forest, &mut cache, &request)?.residuals;
            Ok(Group {
                forest,
                cache,
                rows: rows
                    .into_iter()
                    .map(|(l, rows)| (l, rows.detach()))
                    .collect(),
            })
        };
        Ok(Self {
            low_rank,
            groups: groups(prompts)
                .into_iter()
                .map(group)
                .collect::<Result<_>>()?,
        })
    }

    /// Where the forward of `forest` begins, in which the tokens of each of `prompts` have
    /// the rows of `paths`; none where what is done to the model reaches below all that is
    /// known, or other prompts are.
    pub(super) fn begin(
        &self,
        how: &Generation,
        forest: &Forest,
        prompts: &[Vec<u32>],
        paths: &[Vec<u32>],
        layers: usize,
        room: usize,
    ) -> Result<Option<Begun>> {
        let same = |a: Option<&LowRankUpdate>, b: Option<&LowRankUpdate>| match (a, b) {
            (Some(a), Some(b)) => std::ptr::eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        let lowest = how.interventions.iter().map(Intervention::lowest).min();
        let lowest = lowest.unwrap_or(Some(layers - 1));
        let (true, Some(lowest)) = (same(self.low_rank, how.low_rank), lowest) else {
            return Ok(None);
        };
        for group in &self.groups {
            let known = prompts.iter().map(|p| group.forest.path(p));
            let Some(known) = known.collect::<Option<Vec<_>>>() else {
                continue;
            };
            let Some((&layer, rows)) = group.rows.range(..=lowest).next_back() else {
                return Ok(None);
            };
            let mut index = vec![0; forest.len()];
            for (row, known) in paths.iter().flatten().zip(known.iter().flatten()) {
                index[*row as usize] = *known;
            }
            let rows = rows.index_select(&Tensor::new(index.as_slice(), rows.device())?, 0)?;
            let room = forest.len() + room;
            let cache = group.cache.below(layer + 1, &index, layers, room)?;
            return Ok(Some(Begun { cache, layer, rows }));
        }
        Ok(None)
    }
}
