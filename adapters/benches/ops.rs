//! Every op of a block, as it is and composed of candle's own: forward and backward.
//!
//! Sizes are those of `reptune-bench make-model`: width 768, 12 heads of 64, MLP 2048; 114
//! rows, a batch of 4 prompts that share 30 tokens.

use candle_core::{Device, Result, Tensor, Var};
use criterion::{Criterion, criterion_group, criterion_main};
use reptune_adapters::lora::loss::{
    Label, LabelRow, Representation, representation_loss, token_loss,
};
use reptune_adapters::ops::{
    FrozenAttention, FrozenMatrix, FrozenMlp, Rotation, attention, attention_composed,
    attention_half, attention_half_composed, frozen_linear, frozen_linear_composed, lora_linear,
    lora_linear_composed, mlp_half, mlp_half_composed, rms_norm, rms_norm_composed, rotary,
    rotary_composed, swiglu, swiglu_composed,
};
use reptune_adapters::{GradientCheckpointing, PrefixTree};
use std::hint::black_box;
use std::sync::Arc;

const HIDDEN: usize = 768;
const INTERMEDIATE: usize = 2048;
const HEAD_DIM: usize = 64;

fn random(rows: usize, columns: usize) -> Tensor {
    let scale = 1. / (columns as f32).sqrt();
    Tensor::rand(-scale, scale, (rows, columns), &Device::Cpu).expect("memory")
}

/// Two prompts of 72 tokens of which 30 are shared.
fn tree() -> PrefixTree {
    let prompt = |i: u32| {
        (0..72)
            .map(|t| if t < 30 { t } else { 100 * i + t })
            .collect()
    };
    PrefixTree::pack(&[prompt(1), prompt(2)] as &[Vec<u32>]).0
}

type Op<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// Forward and backward of `op` over variables of `shapes`.
fn measure(c: &mut Criterion, name: &str, shapes: &[(usize, usize)], arms: &[(&str, Op)]) {
    let vars: Vec<Var> = shapes
        .iter()
        .map(|(rows, columns)| Var::from_tensor(&random(*rows, *columns)).expect("memory"))
        .collect();
    let inputs: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let mut group = c.benchmark_group(name);
    group.sample_size(20);
    for (arm, op) in arms {
        group.bench_function(format!("{arm}, forward"), |b| {
            b.iter(|| black_box(op(&inputs).expect("the op")));
        });
        group.bench_function(format!("{arm}, forward and backward"), |b| {
            b.iter(|| {
                let y = op(&inputs).and_then(|y| y.sum_all()).expect("the op");
                black_box(y.backward().expect("its backward"));
            });
        });
    }
    group.finish();
}

fn ops(c: &mut Criterion) {
    let tree = tree();
    let n = tree.len();
    let ancestors = Arc::new(tree.ancestors(0..n));
    let angles: Vec<f32> = (0..n * HEAD_DIM / 2).map(|i| i as f32 * 0.01).collect();
    let cos = angles.iter().map(|a| a.cos()).collect();
    let sin = angles.iter().map(|a| a.sin()).collect();
    let rotation = Rotation::new(cos, sin, HEAD_DIM / 2);
    let norm = Tensor::ones(HIDDEN, candle_core::DType::F32, &Device::Cpu).expect("memory");
    let (rows, wide) = ((n, HIDDEN), (n, INTERMEDIATE));

    measure(
        c,
        "norm",
        &[rows],
        &[
            ("op", &|x| rms_norm(&x[0], &norm, 1e-5)),
            ("candle", &|x| rms_norm_composed(&x[0], &norm, 1e-5)),
        ],
    );
    measure(
        c,
        "rotary",
        &[rows],
        &[
            ("op", &|x| rotary(&x[0], &rotation)),
            ("candle", &|x| rotary_composed(&x[0], &rotation)),
        ],
    );
    measure(
        c,
        "swiglu",
        &[wide, wide],
        &[
            ("op", &|x| swiglu(&x[0], &x[1])),
            ("candle", &|x| swiglu_composed(&x[0], &x[1])),
        ],
    );
    measure(
        c,
        "attention on a tree",
        &[rows, rows, rows],
        &[
            ("op", &|x| {
                attention(&x[0], &x[1], &x[2], &ancestors, HEAD_DIM)
            }),
            ("candle", &|x| {
                attention_composed(&x[0], &x[1], &x[2], &ancestors, HEAD_DIM)
            }),
        ],
    );

    let weight = random(INTERMEDIATE, HIDDEN);
    let frozen: Arc<dyn FrozenMatrix> = Arc::new(weight.clone());
    let tracked = Var::from_tensor(&weight).expect("memory");
    measure(
        c,
        "frozen linear",
        &[rows],
        &[
            ("op", &|x| frozen_linear(&x[0], &frozen)),
            ("candle", &|x| frozen_linear_composed(&x[0], &weight)),
            ("candle, weight tracked", &|x| {
                frozen_linear_composed(&x[0], tracked.as_tensor())
            }),
        ],
    );
    let factors = [(16, HIDDEN), (INTERMEDIATE, 16)];
    measure(
        c,
        "low-rank linear",
        &[rows, factors[0], factors[1]],
        &[
            ("op", &|x| lora_linear(&x[0], &frozen, (&x[1], &x[2]), 2.)),
            ("candle", &|x| {
                lora_linear_composed(&x[0], &frozen, (&x[1], &x[2]), 2.)
            }),
        ],
    );

    let matrix = |o, i| -> Arc<dyn FrozenMatrix> { Arc::new(random(o, i)) };
    let mlp = Arc::new(FrozenMlp {
        norm: norm.clone(),
        eps: 1e-5,
        gate: matrix(INTERMEDIATE, HIDDEN),
        up: matrix(INTERMEDIATE, HIDDEN),
        down: matrix(HIDDEN, INTERMEDIATE),
    });
    measure(
        c,
        "MLP half",
        &[rows],
        &[
            ("op", &|x| {
                mlp_half(&x[0], &mlp, [None; 3], GradientCheckpointing::Off)
            }),
            ("op, computed again", &|x| {
                mlp_half(&x[0], &mlp, [None; 3], GradientCheckpointing::On)
            }),
            ("single ops", &|x| mlp_half_composed(&x[0], &mlp, [None; 3])),
        ],
    );
    let half = Arc::new(FrozenAttention {
        norm: norm.clone(),
        eps: 1e-5,
        head_dim: HEAD_DIM,
        head_norms: None,
        q: matrix(HIDDEN, HIDDEN),
        k: matrix(HIDDEN, HIDDEN),
        v: matrix(HIDDEN, HIDDEN),
        o: matrix(HIDDEN, HIDDEN),
    });
    measure(
        c,
        "attention half",
        &[rows],
        &[
            ("op", &|x| {
                attention_half(
                    &x[0],
                    &half,
                    [None; 4],
                    (&rotation, &ancestors),
                    GradientCheckpointing::Off,
                )
            }),
            ("single ops", &|x| {
                attention_half_composed(&x[0], &half, [None; 4], (&rotation, &ancestors))
            }),
        ],
    );

    let d = Tensor::ones(HIDDEN, candle_core::DType::F32, &Device::Cpu).expect("memory");
    let label = LabelRow {
        row: 0,
        right: 5,
        wrong: 6,
    };
    measure(
        c,
        "dual loss",
        &[(2, HIDDEN), (2, 8192)],
        &[
            ("op", &|x| {
                let wrap = candle_core::Error::wrap;
                let rows = representation_loss(&x[0], &d, Representation::In, 1.).map_err(wrap)?;
                rows + (token_loss(&x[1], &[label], Label::Soft).map_err(wrap)? * 0.01)?
            }),
            ("candle", &|x| {
                let dots = x[0].matmul(&d.unsqueeze(1)?)?.squeeze(1)?;
                let norms = (x[0].sqr()?.sum(1)?.sqrt()? * (HIDDEN as f64).sqrt())?;
                let rows = ((1. - (dots / norms)?)?.mean_all()? / 2.)?;
                let logp = candle_nn::ops::log_softmax(&x[1].narrow(0, 0, 1)?, 1)?;
                let both = (logp.narrow(1, 5, 1)? + logp.narrow(1, 6, 1)?)?;
                rows - (both.sum_all()? * 0.005)?
            }),
        ],
    );
}

criterion_group!(benches, ops);
criterion_main!(benches);
