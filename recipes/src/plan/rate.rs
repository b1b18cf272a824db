//! How many operations a second this machine does in a step.

use crate::error::Result;
use crate::tune::memory::{Counts, TuningSize};
use crate::tune::{TuningPrompt, batches};
use candle_core::{Device, Tensor, Var};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::ops::{
    FrozenAttention, FrozenMatrix, FrozenMlp, Rotation, attention_half, in_pool, mlp_half,
};
use reptune_adapters::{GradientCheckpointing, ModelSpec, PrefixTree};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Widest block and longest table that are tried; beyond them the rate hardly changes.
const WIDEST: usize = 2048;
const MOST_ROWS: usize = 1024;

/// Bytes of weights that are gone through, more than caches hold.
const WEIGHTS: usize = 96 << 20;

impl TuningSize<'_> {
    /// Floating-point operations a second, measured here: frozen blocks of this model's shape
    /// with random weights, forward and backward, over the rows of the first step.
    ///
    /// # Errors
    /// When there is no memory for them.
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
        let attended = Arc::new(tree.ancestry(0..tree.len()));
        let half = spec.head_dim / 2;
        let still = |value: f32| vec![value; tree.len() * half];
        let rotation = Rotation::new(still(1.), still(0.), half);

        let spec = &spec;
        let of = TuningSize { spec, ..*self };
        let parameters = of.sizes(&ModuleKind::ALL) as usize;
        let blocks = (WEIGHTS / (4 * parameters)).clamp(1, 16);
        let blocks = (0..blocks).map(|_| block(spec));
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

fn block(spec: &ModelSpec) -> candle_core::Result<(Arc<FrozenAttention>, Arc<FrozenMlp>)> {
    let matrix = |p: ModuleKind| -> candle_core::Result<Arc<dyn FrozenMatrix>> {
        let (o, i) = p.shape(spec);
        let bound = 1. / (i as f32).sqrt();
        Ok(Arc::new(Tensor::rand(-bound, bound, (o, i), &Device::Cpu)?))
    };
    let norm = Tensor::ones(spec.hidden, candle_core::DType::F32, &Device::Cpu)?;
    let eps = 1e-5;
    let attention = FrozenAttention {
        norm: norm.clone(),
        eps,
        head_dim: spec.head_dim,
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
