//! The memory that tuning takes, counted from sizes alone, and how it is kept within a budget.

use super::prompts::{TuningPrompt, batches};
use crate::activation_cache::CacheStorage;
use crate::recipe::{Tuning, UpdateKind};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{GradientCheckpointing, ModelSpec, PrefixTree};
use serde::Serialize;
use std::collections::BTreeSet;

/// Bytes of an f32.
const F32: u64 = 4;

/// What a tuning is made of.
#[derive(Clone, Copy)]
pub struct TuningSize<'a> {
    /// The model.
    pub spec: &'a ModelSpec,
    /// How it is tuned.
    pub tuning: &'a Tuning,
    /// Prompts that are trained on.
    pub train: &'a [TuningPrompt],
    /// Prompts for validation.
    pub validation: &'a [TuningPrompt],
    /// Seed of their order.
    pub seed: u64,
}

/// Bytes that tuning takes in addition to the weights, by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TuningMemory {
    /// Rows of the activation cache; 0 where it is on disk.
    pub cache: u64,
    /// What the backward of the largest step reads.
    pub activations: u64,
    /// What the backward takes on top of it at its widest.
    pub backward: u64,
    /// Trained parameters, their gradients and moments.
    pub optimizer: u64,
}

impl TuningMemory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.cache + self.activations + self.backward + self.optimizer
    }
}

/// How a tuning keeps within its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemorySettings {
    /// Where the activation cache is.
    pub cache: CacheStorage,
    /// What blocks keep for the backward.
    pub activations: GradientCheckpointing,
}

/// What prompts in one prefix tree count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Distinct rows.
    pub rows: u64,
    /// Rows whose logits are read.
    pub read: u64,
    /// Ancestors of all rows: the pairs of which attention takes the product.
    pub pairs: u64,
    /// Tokens of all prompts.
    pub tokens: u64,
}

impl Counts {
    pub(crate) fn of(prompts: &[&TuningPrompt]) -> Self {
        let ids: Vec<&[u32]> = prompts.iter().map(|p| p.ids.as_slice()).collect();
        let (tree, paths) = PrefixTree::pack(&ids);
        let last: BTreeSet<u32> = paths.iter().filter_map(|p| p.last().copied()).collect();
        Self {
            rows: tree.len() as u64,
            read: last.len() as u64,
            pairs: tree.positions().iter().map(|p| u64::from(*p) + 1).sum(),
            tokens: ids.iter().map(|p| p.len() as u64).sum(),
        }
    }
}

impl TuningSize<'_> {
    /// How the tuning keeps within `tuning.memory`, if it has such a budget: the activation
    /// cache goes to disk where it takes more than half of it, and blocks are recomputed in
    /// the backward where what they keep does not fit into the rest.
    pub fn within_budget(&self) -> MemorySettings {
        let mut settings = MemorySettings::default();
        let Some(budget) = self.tuning.memory.map(|mib| (mib as u64) << 20) else {
            return settings;
        };
        let needed = self.memory(settings);
        let mut left = budget.saturating_sub(needed.optimizer);
        match needed.cache > left / 2 {
            true => settings.cache = CacheStorage::Disk,
            false => left -= needed.cache,
        }
        if needed.activations + needed.backward > left {
            settings.activations = GradientCheckpointing::On;
        }
        settings
    }

    /// The memory that tuning takes with `settings`.
    pub fn memory(&self, settings: MemorySettings) -> TuningMemory {
        let cache_layer = self.cache_layer();
        let largest = self.largest();
        let distinct = || self.distinct().rows * self.spec.hidden as u64 * F32;
        TuningMemory {
            cache: match settings.cache {
                CacheStorage::Memory => cache_layer.map_or(0, |_| distinct()),
                CacheStorage::Disk => 0,
            },
            activations: self.activations(&largest, cache_layer, settings.activations),
            backward: self.widest(&largest),
            // value, gradient, two moments, and what a step computes in between
            optimizer: self.trained() * 6 * F32,
        }
    }

    /// The block whose output is cached; none where block 0 is trained.
    pub fn cache_layer(&self) -> Option<usize> {
        let trained = self.tuning.layers.iter().copied().min();
        trained.unwrap_or(self.spec.layers).checked_sub(1)
    }

    /// Counts of all prompts together.
    pub(crate) fn distinct(&self) -> Counts {
        let all: Vec<&TuningPrompt> = self.train.iter().chain(self.validation).collect();
        Counts::of(&all)
    }

    /// Steps of the optimizer.
    pub fn steps(&self) -> usize {
        let t = self.tuning;
        self.train.len().div_ceil(t.batch.max(1)) * t.epochs
    }

    /// Counts of every forward of every step.
    pub(crate) fn forwards(&self) -> impl Iterator<Item = Counts> + '_ {
        let t = self.tuning;
        let steps = batches(self.seed, self.train.len(), t.batch, self.steps());
        steps.into_iter().flat_map(move |batch| {
            let prompts: Vec<&TuningPrompt> = batch.iter().map(|i| &self.train[*i]).collect();
            let counts = prompts.chunks(t.per_forward()).map(Counts::of);
            counts.collect::<Vec<_>>()
        })
    }

    /// Counts of the forward with most rows, the first of them.
    pub(crate) fn largest(&self) -> Counts {
        let mut largest = Counts::default();
        for counts in self.forwards() {
            if counts.rows > largest.rows {
                largest = counts;
            }
        }
        largest
    }

    /// Parameters that are trained.
    pub fn trained(&self) -> u64 {
        let t = self.tuning;
        let module = |layer: usize, p: ModuleKind| {
            let (o, i) = p.shape(self.spec);
            match t.module(layer, p).update {
                UpdateKind::Full => (o * i) as u64,
                UpdateKind::Lora => (t.rank * (o + i)) as u64,
            }
        };
        let of_layer = |l: &usize| t.target_modules.iter().map(|p| module(*l, *p)).sum::<u64>();
        t.layers.iter().map(of_layer).sum()
    }

    /// Bytes that a backward over `counts` reads.
    fn activations(
        &self,
        counts: &Counts,
        cache_layer: Option<usize>,
        keep: GradientCheckpointing,
    ) -> u64 {
        let s = self.spec;
        let (h, i) = (s.hidden as u64, s.intermediate as u64);
        let [q, kv] = [s.heads, s.kv_heads].map(|heads| (heads * s.head_dim) as u64);
        // queries and keys as they are before their heads are normalised
        let normed = match s.architecture.normalises_heads() {
            true => q + kv,
            false => 0,
        };
        let last = s.layers - 1;
        let first = cache_layer.map_or(0, |l| l + 1);
        let halves = match keep {
            GradientCheckpointing::Off => 2 * (q + kv + i) + normed,
            GradientCheckpointing::On => 0,
        };
        let numbers = |layer: usize| match layer == last {
            // keys and values of all rows, the rest of those that are read
            true => {
                counts.rows * (h + 2 * kv)
                    + counts.read * (2 * h + 3 * q + 4 * i)
                    + counts.rows * normed
            }
            // outputs of both halves, and what each keeps
            false => counts.rows * (2 * h + halves),
        };
        let blocks: u64 = (first..=last).map(numbers).sum();
        (blocks + counts.rows * h + 3 * counts.read * s.vocab as u64) * F32
    }

    /// Bytes of gradients in flight in the widest half block.
    fn widest(&self, counts: &Counts) -> u64 {
        let s = self.spec;
        counts.rows * (4 * s.intermediate as u64 + 4 * s.hidden as u64) * F32
    }
}
