//! What a tuning takes, counted from sizes alone: trained parameters, rows after sharing,
//! memory by part, floating-point work.
//!
//! The same counts decide where a tuning with a budget keeps its trunk, and whether it
//! computes blocks again in the backward.

mod rate;

use crate::activation_cache::CacheStorage;
use crate::recipe::{Tuning, UpdateKind};
use crate::tune::{Prompt, VALIDATION, batches};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{GradientCheckpointing, ModelSpec, PrefixTree};
use serde::Serialize;
use std::collections::BTreeSet;

/// Bytes of an f32.
const F32: u64 = 4;

/// Bytes of the program with next to no model: its code as far as it is used, its libraries
/// and threads. Measured: `reptune-bench tune` on a Llama of 3 MB holds 64 MiB.
const PROGRAM: u64 = 61 << 20;

/// Bytes that the allocator holds beside those in use, for each that a step uses: freed and
/// not yet given back. Measured in steps of 4, of 16 and of 16 unrelated prompts.
const HELD: f64 = 0.3;

/// What a tuning of one mode takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Parameters of the model.
    pub parameters: u64,
    /// Parameters that are trained.
    pub trained: u64,
    /// Steps of the optimizer.
    pub steps: u64,
    /// Tokens of the prompts of all steps: rows without sharing.
    pub tokens: u64,
    /// Rows of all steps, after sharing.
    pub rows: u64,
    /// Rows of the largest step, or part of a step.
    pub largest: u64,
    /// Distinct rows of all prompts: those of the trunk.
    pub distinct: u64,
    /// The block whose output the trunk holds; none where block 0 is trained.
    pub trunk_layer: Option<usize>,
    /// Most memory, in bytes, by part.
    pub memory: Memory,
    /// Floating-point operations, a multiplication and an addition counted as two.
    pub work: Work,
}

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The program itself.
    pub program: u64,
    /// Weights as they are held.
    pub weights: u64,
    /// What the largest tensor was read through, which the allocator keeps.
    pub reading: u64,
    /// Rows of the trunk; 0 on disk.
    pub trunk: u64,
    /// What the backward of the largest step reads.
    pub activations: u64,
    /// What the backward takes on top of it at its widest.
    pub backward: u64,
    /// Trained parameters, their gradients and moments.
    pub optimizer: u64,
    /// What the allocator holds beside them.
    pub held: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        let model = self.program + self.weights + self.reading;
        model + self.trunk + self.step() + self.optimizer + self.held
    }

    /// What a step takes and gives back.
    fn step(&self) -> u64 {
        self.activations + self.backward
    }
}

/// Floating-point operations.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Work {
    /// The trunk, once.
    pub trunk: f64,
    /// All steps, forward and backward.
    pub steps: f64,
    /// All validations.
    pub validation: f64,
}

impl Work {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.trunk + self.steps + self.validation
    }
}

/// What a tuning is made of.
#[derive(Clone, Copy)]
pub struct Tuned<'a> {
    /// The model.
    pub spec: &'a ModelSpec,
    /// Its parameters.
    pub parameters: u64,
    /// Bytes of its weights as they are held.
    pub weights: u64,
    /// How it is tuned.
    pub tuning: &'a Tuning,
    /// Whether rows are read by a representation loss.
    pub representation: bool,
    /// Prompts that are trained on.
    pub train: &'a [Prompt],
    /// Prompts for validation.
    pub validation: &'a [Prompt],
    /// Seed of their order.
    pub seed: u64,
}

/// Rows of a forest, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    rows: u64,
    /// Rows whose logits are read.
    read: u64,
    /// Ancestors of all rows: the pairs of which attention takes the product.
    pairs: u64,
    tokens: u64,
}

impl Counts {
    fn of(prompts: &[&Prompt]) -> Self {
        let ids: Vec<&[u32]> = prompts.iter().map(|p| p.ids.as_slice()).collect();
        let (forest, paths) = PrefixTree::pack(&ids);
        let last: BTreeSet<u32> = paths.iter().filter_map(|p| p.last().copied()).collect();
        Self {
            rows: forest.len() as u64,
            read: last.len() as u64,
            pairs: forest.positions().iter().map(|p| u64::from(*p) + 1).sum(),
            tokens: ids.iter().map(|p| p.len() as u64).sum(),
        }
    }
}

impl Plan {
    /// Counts what `of` takes.
    pub fn of(of: &Tuned) -> Self {
        let t = of.tuning;
        let trained_layers = t.layers.iter().copied().min();
        let below = trained_layers.unwrap_or(of.spec.layers).checked_sub(1);
        let read = t.all_representation_layers().iter().copied().min();
        let read = read.filter(|_| of.representation);
        let trunk_layer = below.map(|below| read.map_or(below, |read| read.min(below)));

        let epoch = of.train.len().div_ceil(t.batch.max(1)) * t.epochs;
        let mut sums = Counts::default();
        let mut largest = Counts::default();
        let mut steps_work = 0.;
        for batch in batches(of.seed, of.train.len(), t.batch, epoch) {
            let prompts: Vec<&Prompt> = batch.iter().map(|i| &of.train[*i]).collect();
            let together = match t.micro_batch {
                0 => prompts.len().max(1),
                some => some,
            };
            for some in prompts.chunks(together) {
                let counts = Counts::of(some);
                sums.rows += counts.rows;
                sums.tokens += counts.tokens;
                if counts.rows > largest.rows {
                    largest = counts;
                }
                steps_work += of.forward(&counts, trunk_layer) + of.backward(&counts);
            }
        }
        let every = match t.validate_every {
            0 => of.train.len().div_ceil(t.batch.max(1)),
            some => some,
        };
        let validations = epoch.div_ceil(every.max(1)) as f64;
        let once: f64 = (of.validation.chunks(VALIDATION))
            .map(|some| Counts::of(&some.iter().collect::<Vec<_>>()))
            .map(|counts| of.forward(&counts, trunk_layer))
            .sum();
        let everything: Vec<&Prompt> = of.train.iter().chain(of.validation).collect();
        let whole = Counts::of(&everything);
        let trunk_work = trunk_layer.map_or(0., |layer| {
            let blocks = 0..=layer;
            blocks.map(|_| of.block(&whole, whole.rows)).sum::<f64>()
        });
        let trained = of.trained();
        let mut memory = Memory {
            program: PROGRAM,
            weights: of.weights,
            reading: of.spec.hidden as u64 * of.spec.vocab.max(of.spec.intermediate) as u64 * F32,
            trunk: trunk_layer.map_or(0, |_| whole.rows * of.spec.hidden as u64 * F32),
            activations: of.activations(&largest, trunk_layer, GradientCheckpointing::Off),
            backward: of.widest(&largest),
            // value, gradient, two moments, and what a step computes on the way
            optimizer: trained * 6 * F32,
            held: 0,
        };
        let settings = of.settings(&memory);
        if settings.trunk == CacheStorage::Disk {
            memory.trunk = 0;
        }
        memory.activations = of.activations(&largest, trunk_layer, settings.activations);
        memory.held = (memory.step() as f64 * HELD) as u64;
        Self {
            parameters: of.parameters,
            trained,
            steps: epoch as u64,
            tokens: sums.tokens,
            rows: sums.rows,
            largest: largest.rows,
            distinct: whole.rows,
            trunk_layer,
            memory,
            work: Work {
                trunk: trunk_work,
                steps: steps_work,
                validation: validations * once,
            },
        }
    }
}

/// How a tuning keeps within its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// Where the trunk is.
    pub trunk: CacheStorage,
    /// What blocks keep for the backward.
    pub activations: GradientCheckpointing,
}

impl Tuned<'_> {
    /// How the tuning keeps within `tuning.memory`, if it has such a budget: the trunk goes
    /// to disk where it takes more than half of it, and blocks are computed again where
    /// what they keep does not fit into the rest.
    fn settings(&self, needed: &Memory) -> Settings {
        let mut settings = Settings::default();
        let Some(budget) = self.tuning.memory.map(|mib| (mib as u64) << 20) else {
            return settings;
        };
        let mut left = budget.saturating_sub(needed.optimizer);
        match needed.trunk > left / 2 {
            true => settings.trunk = CacheStorage::Disk,
            false => left -= needed.trunk,
        }
        if needed.step() > left {
            settings.activations = GradientCheckpointing::On;
        }
        settings
    }

    /// The settings of [`Plan::of`].
    pub fn within_budget(&self) -> Settings {
        match self.tuning.memory {
            None => Settings::default(),
            Some(_) => {
                let unlimited = Tuning {
                    memory: None,
                    ..self.tuning.clone()
                };
                let plan = Plan::of(&Tuned {
                    spec: self.spec,
                    parameters: self.parameters,
                    weights: self.weights,
                    tuning: &unlimited,
                    representation: self.representation,
                    train: self.train,
                    validation: self.validation,
                    seed: self.seed,
                });
                self.settings(&plan.memory)
            }
        }
    }

    fn size(&self, p: ModuleKind) -> f64 {
        let (o, i) = p.shape(self.spec);
        o as f64 * i as f64
    }

    fn sizes(&self, of: &[ModuleKind]) -> f64 {
        of.iter().map(|p| self.size(*p)).sum()
    }

    fn trained(&self) -> u64 {
        let t = self.tuning;
        let module = |layer: usize, p: ModuleKind| {
            let (o, i) = p.shape(self.spec);
            let kind = t.group_of(layer, p).and_then(|g| t.groups[g].update);
            match kind.unwrap_or(t.update) {
                UpdateKind::Direct => (o * i) as u64,
                UpdateKind::WeightDelta => (t.rank * (o + i)) as u64,
            }
        };
        let layers = t.layers.iter();
        layers
            .flat_map(|l| t.projections.iter().map(move |p| module(*l, *p)))
            .sum()
    }

    /// Operations of low-rank products at `layer` over `rows`.
    fn adapter(&self, layer: usize, rows: u64) -> f64 {
        let t = self.tuning;
        if !t.layers.contains(&layer) {
            return 0.;
        }
        let module = |p: &ModuleKind| {
            let (o, i) = p.shape(self.spec);
            2. * (t.rank * (o + i)) as f64
        };
        rows as f64 * t.projections.iter().map(module).sum::<f64>()
    }

    /// Operations of a block, of which `read` rows are computed behind keys and values.
    fn block(&self, counts: &Counts, read: u64) -> f64 {
        let all = self.sizes(&[ModuleKind::KProj, ModuleKind::VProj]);
        let rest = self.sizes(&ModuleKind::ALL) - all;
        2. * (counts.rows as f64 * all + read as f64 * rest) + self.attention(counts, read)
    }

    fn attention(&self, counts: &Counts, read: u64) -> f64 {
        let share = read as f64 / counts.rows.max(1) as f64;
        4. * (self.spec.heads * self.spec.head_dim) as f64 * counts.pairs as f64 * share
    }

    fn head(&self, counts: &Counts) -> f64 {
        2. * counts.read as f64 * (self.spec.hidden * self.spec.vocab) as f64
    }

    /// Operations of a forward above the trunk.
    fn forward(&self, counts: &Counts, trunk: Option<usize>) -> f64 {
        let last = self.spec.layers - 1;
        let first = trunk.map_or(0, |l| l + 1);
        let blocks = (first..=last).map(|layer| {
            let read = if layer == last {
                counts.read
            } else {
                counts.rows
            };
            self.block(counts, read) + self.adapter(layer, counts.rows)
        });
        blocks.sum::<f64>() + self.head(counts)
    }

    /// Operations of its backward: down to the lowest trained weights.
    fn backward(&self, counts: &Counts) -> f64 {
        use ModuleKind::{DownProj, GateProj, KProj, OProj, QProj, UpProj, VProj};
        let last = self.spec.layers - 1;
        let Some(lowest) = self.tuning.layers.iter().copied().min() else {
            return 0.;
        };
        let trained = |p: &[ModuleKind]| p.iter().any(|p| self.tuning.projections.contains(p));
        let blocks = (lowest..=last).map(|layer| {
            let read = if layer == last {
                counts.read
            } else {
                counts.rows
            };
            let adapter = 2. * self.adapter(layer, counts.rows);
            // attention's backward takes five products where its forward takes two
            let attention = 2.5 * self.attention(counts, read);
            if layer > lowest {
                return self.block(counts, read) + 1.5 * self.attention(counts, read) + adapter;
            }
            // In the lowest trained block gradients end at what is trained.
            let rows = read as f64;
            let (from_attention, from_o) = (trained(&[QProj, KProj, VProj]), trained(&[OProj]));
            let mlp = match (from_attention || from_o, trained(&[GateProj, UpProj])) {
                (true, _) => self.sizes(&[GateProj, UpProj, DownProj]),
                (false, true) => self.size(DownProj),
                (false, false) => 0.,
            };
            let o = if from_attention { self.size(OProj) } else { 0. };
            let attention = if from_attention { attention } else { 0. };
            2. * rows * (mlp + o) + attention + adapter
        });
        blocks.sum::<f64>() + self.head(counts)
    }

    /// Bytes that a backward over `counts` reads.
    fn activations(
        &self,
        counts: &Counts,
        trunk: Option<usize>,
        keep: GradientCheckpointing,
    ) -> u64 {
        let s = self.spec;
        let (h, i) = (s.hidden as u64, s.intermediate as u64);
        let (q, kv) = (
            (s.heads * s.head_dim) as u64,
            (s.kv_heads * s.head_dim) as u64,
        );
        let last = s.layers - 1;
        let first = trunk.map_or(0, |l| l + 1);
        let halves = match keep {
            GradientCheckpointing::Off => 2 * (q + kv + i),
            GradientCheckpointing::On => 0,
        };
        let numbers = |layer: usize| match layer == last {
            // keys and values of all rows, the rest of those that are read
            true => counts.rows * (h + 2 * kv) + counts.read * (2 * h + 3 * q + 4 * i),
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
