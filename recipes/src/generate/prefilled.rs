//! Prompts computed once, for all that is generated from them under other interventions.

use super::{Generation, ROWS};
use crate::error::Result;
use crate::groups::groups;
use candle_core::Tensor;
use reptune_adapters::{
    Adapter, ForwardOptions, HookedModel, Intervention, KeyValueCache, PrefixTree,
};
use std::collections::BTreeMap;

/// Keys, values and residual rows of prompts without interventions. What is steered at a
/// layer begins there: the blocks below give every coeff and sign the same.
pub struct Prefilled<'a> {
    adapter: Option<&'a Adapter>,
    groups: Vec<Group>,
}

/// Prompts that were computed together.
struct Group {
    forest: PrefixTree,
    cache: KeyValueCache,
    /// Rows (N, H) by layer.
    rows: BTreeMap<usize, Tensor>,
}

/// Where a forward begins.
pub(super) struct Begun {
    pub cache: KeyValueCache,
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
        host: &dyn HookedModel,
        prompts: &[Vec<u32>],
        layers: &[usize],
        adapter: Option<&'a Adapter>,
    ) -> Result<Self> {
        let blocks = layers.iter().max().map_or(0, |l| l + 1);
        let group = |range: std::ops::Range<usize>| {
            let (forest, _) = PrefixTree::pack(&prompts[range]);
            let mut cache = KeyValueCache::keeping(blocks, forest.len());
            let request = ForwardOptions {
                capture: layers,
                adapter,
                ..ForwardOptions::default()
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
            adapter,
            groups: groups(prompts, ROWS)
                .into_iter()
                .map(group)
                .collect::<Result<_>>()?,
        })
    }

    /// Where the forward of `forest` begins, in which the tokens of each of `prompts` have
    /// the rows of `paths`, and again under every further variant; none where what is done to the model reaches below all that is
    /// known, or other prompts are.
    pub(super) fn begin(
        &self,
        how: &Generation,
        forest: &PrefixTree,
        prompts: &[Vec<u32>],
        paths: &[Vec<u32>],
        layers: usize,
        room: usize,
    ) -> Result<Option<Begun>> {
        let same = |a: Option<&Adapter>, b: Option<&Adapter>| match (a, b) {
            (Some(a), Some(b)) => std::ptr::eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        let lowest = how.interventions.iter().map(Intervention::lowest).min();
        let lowest = lowest.unwrap_or(Some(layers - 1));
        let (true, Some(lowest)) = (same(self.adapter, how.adapter), lowest) else {
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
            for (row, known) in paths.iter().flatten().zip(known.iter().flatten().cycle()) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::generate;
    use crate::steering_tests::{prompts, set};
    use crate::toy::tiny;
    use reptune_adapters::{Dose, HookPoint, Operator, Positions};

    #[test]
    fn what_begins_at_the_steered_layer_says_the_same() -> Result<()> {
        let toy = tiny();
        let (prompts, set) = (prompts(), set(&toy, 1));
        let prefilled = Prefilled::of(&toy, &prompts, &[0, 2], None)?;
        let mut different = 0;
        for rows in [Positions::All, Positions::Last(2), Positions::Generated] {
            for (layers, point) in [
                (vec![2], HookPoint::ResidPost),
                (vec![1, 3], HookPoint::ResidPost),
                (vec![2], HookPoint::ResidPre),
                (vec![0], HookPoint::ResidPre),
            ] {
                let steering = Intervention::new(&set, &layers, Dose::Total(9.), Operator::Add)?;
                let steering = [steering.on(rows.clone()).at(point)];
                let how = Generation {
                    interventions: &steering,
                    max_new_tokens: 6,
                    ..Generation::default()
                };
                let plain = generate(&toy, &prompts, &how, &mut |_| {})?;
                let begun = Generation {
                    prefilled: Some(&prefilled),
                    ..how
                };
                assert_eq!(generate(&toy, &prompts, &begun, &mut |_| {})?, plain);
                let unsteered = Generation {
                    interventions: &[],
                    ..begun
                };
                let unsteered = generate(&toy, &prompts, &unsteered, &mut |_| {})?;
                different += usize::from(unsteered != plain);
            }
        }
        assert!(different > 6, "the steering does something: {different}");
        Ok(())
    }
}
