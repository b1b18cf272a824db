//! What a tuning takes, counted from sizes alone: trained parameters, positions after sharing
//! prefixes, bytes by part, floating-point operations. [`rate`](TuningSize::rate) measures how
//! many operations a second this machine does.

use crate::error::Result;
use crate::tune::memory::{Counts, TuningMemory, TuningSize};
use crate::tune::{TuningPrompt, VALIDATION, batches};
use candle_core::{DType, Device, Tensor, Var};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::ops::{
    FrozenAttention, FrozenMatrix, FrozenMlp, Rotation, attention_half, in_pool, mlp_half,
};
use reptune_adapters::{GradientCheckpointing, ModelSpec, PrefixTree};
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Widest block and longest table that are tried; beyond them the rate hardly changes.
const WIDEST: usize = 2048;
const MOST_ROWS: usize = 1024;

/// Bytes of weights that are gone through, more than caches hold.
const WEIGHTS: usize = 96 << 20;

/// What a tuning of one mode takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TuningPlan {
    /// Parameters that are trained.
    pub trained: u64,
    /// Steps of the optimizer.
    pub steps: u64,
    /// Tokens of the prompts of all steps: positions without sharing.
    pub tokens: u64,
    /// Positions of all steps, where prompts of a forward share their prefixes.
    pub positions: u64,
    /// Positions of the largest forward.
    pub largest: u64,
    /// Distinct positions of all prompts: those of the activation cache.
    pub distinct: u64,
    /// The block whose output is cached; none where block 0 is trained.
    pub cache_layer: Option<usize>,
    /// Most memory in addition to the weights, in bytes, by part.
    pub memory: TuningMemory,
    /// Floating-point operations, a multiplication and an addition counted as two.
    pub work: Work,
}

/// Floating-point operations.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Work {
    /// The activation cache, once.
    pub cache: f64,
    /// All steps, forward and backward.
    pub steps: f64,
    /// All validations.
    pub validation: f64,
}

impl Work {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.cache + self.steps + self.validation
    }
}

impl TuningPlan {
    /// Counts what `of` takes.
    pub fn of(of: &TuningSize) -> Self {
        let t = of.tuning;
        let cache_layer = of.cache_layer();
        let mut sums = Counts::default();
        let mut steps_work = 0.;
        for counts in of.forwards() {
            sums.rows += counts.rows;
            sums.tokens += counts.tokens;
            steps_work += of.forward(&counts, cache_layer) + of.backward(&counts);
        }
        let every = t.steps_to_validation(of.train.len().div_ceil(t.batch.max(1)));
        let validations = of.steps().div_ceil(every.max(1)) as f64;
        let counts = |some: &[TuningPrompt]| Counts::of(&some.iter().collect::<Vec<_>>());
        let validation = of.validation.chunks(VALIDATION).map(counts);
        let once: f64 = validation
            .map(|counts| of.forward(&counts, cache_layer))
            .sum();
        let distinct = of.distinct();
        let cache_work = cache_layer.map_or(0., |layer| {
            let blocks = 0..=layer;
            blocks.map(|_| of.block(&distinct, distinct.rows)).sum()
        });
        Self {
            trained: of.trained(),
            steps: of.steps() as u64,
            tokens: sums.tokens,
            positions: sums.rows,
            largest: of.largest().rows,
            distinct: distinct.rows,
            cache_layer,
            memory: of.memory(of.within_budget()),
            work: Work {
                cache: cache_work,
                steps: steps_work,
                validation: validations * once,
            },
        }
    }
}

impl TuningSize<'_> {
    fn size(&self, p: ModuleKind) -> f64 {
        let (o, i) = p.shape(self.spec);
        o as f64 * i as f64
    }

    fn sizes(&self, of: &[ModuleKind]) -> f64 {
        of.iter().map(|p| self.size(*p)).sum()
    }

    /// Operations of LoRA products at `layer` over `rows`.
    fn adapter(&self, layer: usize, rows: u64) -> f64 {
        let t = self.tuning;
        if !t.layers.contains(&layer) {
            return 0.;
        }
        let module = |p: &ModuleKind| {
            let (o, i) = p.shape(self.spec);
            2. * (t.rank * (o + i)) as f64
        };
        rows as f64 * t.target_modules.iter().map(module).sum::<f64>()
    }

    /// Operations of a block, of which `read` rows are computed after keys and values.
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

    /// Rows of a block that are computed after keys and values.
    fn read(&self, counts: &Counts, layer: usize) -> u64 {
        match layer + 1 == self.spec.layers {
            true => counts.read,
            false => counts.rows,
        }
    }

    /// Operations of a forward above the activation cache.
    fn forward(&self, counts: &Counts, cache_layer: Option<usize>) -> f64 {
        let first = cache_layer.map_or(0, |l| l + 1);
        let blocks = (first..self.spec.layers).map(|layer| {
            let read = self.read(counts, layer);
            self.block(counts, read) + self.adapter(layer, counts.rows)
        });
        blocks.sum::<f64>() + self.head(counts)
    }

    /// Operations of its backward: down to the lowest trained weights.
    fn backward(&self, counts: &Counts) -> f64 {
        use ModuleKind::{DownProj, GateProj, KProj, OProj, QProj, UpProj, VProj};
        let Some(lowest) = self.tuning.layers.iter().copied().min() else {
            return 0.;
        };
        let trained = |p: &[ModuleKind]| p.iter().any(|p| self.tuning.target_modules.contains(p));
        let blocks = (lowest..self.spec.layers).map(|layer| {
            let read = self.read(counts, layer);
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
    /// Floating-point operations a second, measured here: frozen blocks of this model's shape
    /// with random weights, forward and backward, over the rows of the first step.
    pub fn rate(&self) -> Result<f64> {
        let spec = narrowed(self.spec);
        let t = self.tuning;
        let mut prompts: Vec<&TuningPrompt> = Vec::new();
        let first = batches(self.seed, self.train.len(), t.batch, 1);
        for i in first.iter().flatten().take(t.per_forward()) {
            prompts.push(&self.train[*i]);
            if Counts::of(&prompts).rows as usize > MOST_ROWS {
                break;
            }
        }
        let counts = Counts::of(&prompts);
        let ids: Vec<&[u32]> = prompts.iter().map(|p| p.ids.as_slice()).collect();
        let (tree, _) = PrefixTree::pack(&ids);
        let attended = Arc::new(tree.ancestors(0..tree.len()));
        let half = spec.head_dim / 2;
        let still = |value: f32| vec![value; tree.len() * half];
        let rotation = Rotation::new(still(1.), still(0.), half);

        let spec = &spec;
        let of = TuningSize { spec, ..*self };
        let parameters = of.sizes(&ModuleKind::ALL) as usize;
        let blocks = (WEIGHTS / (4 * parameters)).clamp(1, 16);
        let blocks = (0..blocks).map(|_| random_block(spec));
        let blocks = blocks.collect::<candle_core::Result<Vec<_>>>()?;
        let x = Var::rand(-1f32, 1f32, (tree.len(), spec.hidden), &Device::Cpu)?;
        let pass = || -> candle_core::Result<()> {
            let mut y = x.as_tensor().clone();
            for (attention, mlp) in &blocks {
                let rows = (&rotation, &attended);
                y = attention_half(&y, attention, [None; 4], rows, GradientCheckpointing::Off)?;
                y = mlp_half(&y, mlp, [None; 3], GradientCheckpointing::Off)?;
            }
            y.sum_all()?.backward()?;
            Ok(())
        };
        in_pool(pass)?;
        let (begun, mut passes) = (Instant::now(), 0.);
        while begun.elapsed() < Duration::from_millis(500) {
            in_pool(pass)?;
            passes += 1.;
        }
        let once = 2. * of.block(&counts, counts.rows) + 1.5 * of.attention(&counts, counts.rows);
        Ok(passes * blocks.len() as f64 * once / begun.elapsed().as_secs_f64())
    }
}

/// The same proportions, no wider than [`WIDEST`].
fn narrowed(spec: &ModelSpec) -> ModelSpec {
    let hidden = spec.hidden.min(WIDEST);
    let group = (spec.heads / spec.kv_heads.max(1)).max(1);
    let kv_heads = (spec.kv_heads * hidden / spec.hidden).max(1);
    ModelSpec {
        hidden,
        intermediate: (spec.intermediate * hidden / spec.hidden).max(1),
        kv_heads,
        heads: kv_heads * group,
        ..spec.clone()
    }
}

/// A frozen block of random weights.
fn random_block(spec: &ModelSpec) -> candle_core::Result<(Arc<FrozenAttention>, Arc<FrozenMlp>)> {
    let matrix = |p: ModuleKind| -> candle_core::Result<Arc<dyn FrozenMatrix>> {
        let (o, i) = p.shape(spec);
        let bound = 1. / (i as f32).sqrt();
        Ok(Arc::new(Tensor::rand(-bound, bound, (o, i), &Device::Cpu)?))
    };
    let norm = Tensor::ones(spec.hidden, DType::F32, &Device::Cpu)?;
    let eps = 1e-5;
    let attention = FrozenAttention {
        norm: norm.clone(),
        eps,
        head_dim: spec.head_dim,
        head_norms: None,
        q: matrix(ModuleKind::QProj)?,
        k: matrix(ModuleKind::KProj)?,
        v: matrix(ModuleKind::VProj)?,
        o: matrix(ModuleKind::OProj)?,
    };
    let mlp = FrozenMlp {
        norm,
        eps,
        gate: matrix(ModuleKind::GateProj)?,
        up: matrix(ModuleKind::UpProj)?,
        down: matrix(ModuleKind::DownProj)?,
    };
    Ok((Arc::new(attention), Arc::new(mlp)))
}
