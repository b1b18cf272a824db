//! Every fused op against its composed reference and against finite differences.

use super::*;
use crate::{GradientCheckpointing, PrefixTree};
use candle_core::{Device, Result, Tensor, Var};
use rand::{Rng, SeedableRng};
use std::sync::Arc;

/// The device in the environment variable `REPTUNE_TEST_DEVICE`, the CPU if there is none.
fn device() -> Device {
    match std::env::var("REPTUNE_TEST_DEVICE").as_deref() {
        Ok("cuda") => Device::new_cuda(0).expect("a CUDA device"),
        Ok("metal") => Device::new_metal(0).expect("a Metal device"),
        _ => Device::Cpu,
    }
}

fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let n = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|_| rng.random_range(-1.5..1.5)).collect();
    Tensor::from_vec(data, shape, &device()).expect("shape and data agree")
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().and_then(|t| t.to_vec1()).expect("f32")
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let (a, b) = (flat(a), flat(b));
    a.iter()
        .zip(&b)
        .map(|(a, b)| (a - b).abs())
        .fold(0., f32::max)
}

/// Checks that `fused` and `composed` give the same result and gradients, and that
/// the gradients are those of finite differences of a random weighting of the result.
fn check(
    inputs: &[Tensor],
    fused: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    composed: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let vars: Vec<Var> = inputs.iter().map(Var::from_tensor).collect::<Result<_>>()?;
    let args: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let (y, reference) = (fused(&args)?, composed(&args)?);
    assert!(largest_difference(&y, &reference) < 1e-5, "forward differs");
    let weighting = random(99, y.dims());
    let gradients = |y: &Tensor| (y * &weighting)?.sum_all()?.backward();
    let (ours, theirs) = (gradients(&y)?, gradients(&reference)?);
    let value = |args: &[Tensor]| -> Result<f64> {
        let y = flat(&fused(args)?);
        Ok(y.iter()
            .zip(flat(&weighting))
            .map(|(y, w)| f64::from(y * w))
            .sum())
    };
    for (i, var) in vars.iter().enumerate() {
        let ours = ours.get(var).expect("a gradient of the fused op");
        let theirs = theirs.get(var).expect("a gradient of the composed op");
        assert!(
            largest_difference(ours, theirs) < 2e-5,
            "gradient {i} differs from the composed op"
        );
        let ours = flat(ours);
        let plain = flat(&inputs[i]);
        for at in (0..plain.len()).step_by(plain.len() / 7 + 1) {
            let nudged = |by: f32| -> Result<f64> {
                let mut data = plain.clone();
                data[at] += by;
                let mut args = inputs.to_vec();
                args[i] = Tensor::from_vec(data, inputs[i].dims(), &device())?;
                value(&args)
            };
            let step = 1e-2;
            let numeric = (nudged(step)? - nudged(-step)?) / f64::from(2. * step);
            assert!(
                (numeric - f64::from(ours[at])).abs() < 2e-3 * (1. + numeric.abs()),
                "gradient {i}[{at}]: {numeric} by differences, {} by backward",
                ours[at]
            );
        }
    }
    Ok(())
}

#[test]
fn rms_norm_has_its_gradient() -> Result<()> {
    let inputs = [random(1, &[5, 12]), random(2, &[12])];
    check(&inputs, &|x| rms_norm(&x[0], &x[1], 1e-5), &|x| {
        rms_norm_composed(&x[0], &x[1], 1e-5)
    })
}

#[test]
fn rotary_has_its_gradient() -> Result<()> {
    let angles = flat(&random(3, &[5 * 4]));
    let rotation = Rotation::new(
        angles.iter().map(|a| a.cos()).collect(),
        angles.iter().map(|a| a.sin()).collect(),
        4,
    );
    check(
        &[random(4, &[5, 24])],
        &|x| rotary(&x[0], &rotation),
        &|x| rotary_composed(&x[0], &rotation),
    )
}

#[test]
fn swiglu_has_its_gradient() -> Result<()> {
    let inputs = [random(5, &[5, 12]), random(6, &[5, 12])];
    check(&inputs, &|x| swiglu(&x[0], &x[1]), &|x| {
        swiglu_composed(&x[0], &x[1])
    })
}

#[test]
fn attention_on_a_forest_has_its_gradient() -> Result<()> {
    let short = [
        vec![1, 2, 3, 4],
        vec![1, 2, 5],
        vec![6, 1],
        vec![1, 2, 3, 7],
    ];
    let long: Vec<u32> = (0..57).collect(); // two rows more than a group has directory for
    // computed row by row, as tables, and both
    for prompts in [&short[..], &[long[..12].to_vec()], &[long]] {
        let (tree, _) = PrefixTree::pack(prompts);
        let n = tree.len();
        let ancestors = Arc::new(tree.ancestors(0..n));
        let inputs = [
            random(7, &[n, 4 * 8]),
            random(8, &[n, 2 * 8]),
            random(9, &[n, 2 * 8]),
        ];
        check(
            &inputs,
            &|x| attention(&x[0], &x[1], &x[2], &ancestors, 8),
            &|x| attention_composed(&x[0], &x[1], &x[2], &ancestors, 8),
        )?;
        check(
            &inputs,
            &|x| super::attention::in_pieces(&x[0], &x[1], &x[2], (&ancestors, 3), 8),
            &|x| attention_composed(&x[0], &x[1], &x[2], &ancestors, 8),
        )?;
    }
    Ok(())
}

#[test]
fn target_loss_has_its_gradient() -> Result<()> {
    let target = |row, token, weight| Target { row, token, weight };
    let targets = [target(0, 3, 0.5), target(0, 1, 0.5), target(3, 6, 2.)];
    check(
        &[random(10, &[4, 7])],
        &|x| target_loss(&x[0], &targets),
        &|x| target_loss_composed(&x[0], &targets),
    )
}

#[test]
fn frozen_linear_has_its_gradient() -> Result<()> {
    let weight = random(11, &[6, 12]);
    let frozen: Arc<dyn FrozenMatrix> = Arc::new(weight.clone());
    check(
        &[random(12, &[5, 12])],
        &|x| frozen_linear(&x[0], &frozen),
        &|x| x[0].matmul(&weight.t()?),
    )
}

#[test]
fn low_rank_linear_has_its_gradients() -> Result<()> {
    let matrix = frozen(13, 6, 12);
    let inputs = [
        random(14, &[5, 12]),
        random(15, &[3, 12]),
        random(16, &[6, 3]),
    ];
    check(
        &inputs,
        &|x| lora_linear(&x[0], &matrix, (&x[1], &x[2]), 0.5),
        &|x| lora_linear_composed(&x[0], &matrix, (&x[1], &x[2]), 0.5),
    )
}

fn tree_of_four() -> (PrefixTree, Arc<crate::model::Ancestors>, Rotation) {
    let (tree, _) = PrefixTree::pack(&[vec![1, 2, 3, 4], vec![1, 2, 5], vec![6, 1]]);
    let n = tree.len();
    let ancestors = Arc::new(tree.ancestors(0..n));
    let angles = flat(&random(30, &[n * 4]));
    let cos = angles.iter().map(|a| a.cos()).collect();
    let sin = angles.iter().map(|a| a.sin()).collect();
    (tree, ancestors, Rotation::new(cos, sin, 4))
}

fn frozen(seed: u64, outputs: usize, inputs: usize) -> Arc<dyn FrozenMatrix> {
    Arc::new((random(seed, &[outputs, inputs]) * 0.3).expect("numbers"))
}

fn of<'a>(a: &'a Tensor, b: &'a Tensor) -> Option<Factors<'a>> {
    Some((a, b, 0.5))
}

/// What is kept and what is computed again gives the same gradients, bit for bit.
#[test]
fn halves_of_a_block_have_their_gradient() -> Result<()> {
    halves_have_their_gradient(None)
}

#[test]
fn halves_of_a_block_with_normalised_heads_have_their_gradient() -> Result<()> {
    halves_have_their_gradient(Some([random(37, &[8]), random(38, &[8])]))
}

fn halves_have_their_gradient(head_norms: Option<[Tensor; 2]>) -> Result<()> {
    let (tree, ancestors, rotation) = tree_of_four();
    let rows = (&rotation, &ancestors);
    let x = random(20, &[tree.len(), 12]);
    let mlp = Arc::new(FrozenMlp {
        norm: random(21, &[12]),
        eps: 1e-5,
        gate: frozen(22, 20, 12),
        up: frozen(23, 20, 12),
        down: frozen(24, 12, 20),
    });
    let attention = Arc::new(FrozenAttention {
        norm: random(21, &[12]),
        eps: 1e-5,
        head_dim: 8,
        head_norms,
        q: frozen(25, 32, 12),
        k: frozen(26, 16, 12),
        v: frozen(27, 16, 12),
        o: frozen(28, 12, 32),
    });
    for keep in [GradientCheckpointing::Off, GradientCheckpointing::On] {
        check(
            std::slice::from_ref(&x),
            &|x| mlp_half(&x[0], &mlp, [None; 3], keep),
            &|x| mlp_half_composed(&x[0], &mlp, [None; 3]),
        )?;
        check(
            std::slice::from_ref(&x),
            &|x| attention_half(&x[0], &attention, [None; 4], rows, keep),
            &|x| attention_half_composed(&x[0], &attention, [None; 4], rows),
        )?;
    }
    // factors of v and o, of gate and down; below are rows that nothing trains, or others
    let factors = [(3, 12), (16, 3), (3, 32), (12, 3)].map(|(i, j)| random(34, &[i, j]));
    fn attended(f: &[Tensor]) -> [Option<Factors<'_>>; 4] {
        [None, None, of(&f[0], &f[1]), of(&f[2], &f[3])]
    }
    check(
        &factors,
        &|f| {
            attention_half(
                &x,
                &attention,
                attended(f),
                rows,
                GradientCheckpointing::Off,
            )
        },
        &|f| attention_half_composed(&x, &attention, attended(f), rows),
    )?;
    let all = [std::slice::from_ref(&x), factors.as_slice()].concat();
    check(
        &all,
        &|f| {
            attention_half(
                &f[0],
                &attention,
                attended(&f[1..]),
                rows,
                GradientCheckpointing::On,
            )
        },
        &|f| attention_half_composed(&f[0], &attention, attended(&f[1..]), rows),
    )?;
    let factors = [(3, 12), (32, 3), (3, 12), (16, 3)].map(|(i, j)| random(39, &[i, j]));
    fn scored(f: &[Tensor]) -> [Option<Factors<'_>>; 4] {
        [of(&f[0], &f[1]), of(&f[2], &f[3]), None, None]
    }
    check(
        &factors,
        &|f| attention_half(&x, &attention, scored(f), rows, GradientCheckpointing::Off),
        &|f| attention_half_composed(&x, &attention, scored(f), rows),
    )?;
    let factors = [(3, 12), (20, 3), (3, 20), (12, 3)].map(|(i, j)| random(35, &[i, j]));
    fn gated(f: &[Tensor]) -> [Option<Factors<'_>>; 3] {
        [of(&f[0], &f[1]), None, of(&f[2], &f[3])]
    }
    let all = [std::slice::from_ref(&x), factors.as_slice()].concat();
    check(
        &all,
        &|f| mlp_half(&f[0], &mlp, gated(&f[1..]), GradientCheckpointing::Off),
        &|f| mlp_half_composed(&f[0], &mlp, gated(&f[1..])),
    )?;
    // nothing but the last layer of a half, over rows that nothing trains
    check(
        &factors[2..],
        &|f| {
            let updates = [None, None, of(&f[0], &f[1])];
            mlp_half(&x, &mlp, updates, GradientCheckpointing::Off)
        },
        &|f| mlp_half_composed(&x, &mlp, [None, None, of(&f[0], &f[1])]),
    )?;
    let factors = [(3, 32), (12, 3)].map(|(i, j)| random(36, &[i, j]));
    check(
        &factors,
        &|f| {
            let updates = [None, None, None, of(&f[0], &f[1])];
            attention_half(&x, &attention, updates, rows, GradientCheckpointing::Off)
        },
        &|f| attention_half_composed(&x, &attention, [None, None, None, of(&f[0], &f[1])], rows),
    )?;
    let gradient = |keep| -> Result<Vec<f32>> {
        let x = Var::from_tensor(&x)?;
        let y = attention_half(x.as_tensor(), &attention, [None; 4], rows, keep)?;
        let y = mlp_half(&y, &mlp, [None; 3], keep)?;
        let store = (y * random(29, &[tree.len(), 12]))?.sum_all()?.backward()?;
        Ok(flat(store.get(&x).expect("a gradient")))
    };
    assert_eq!(
        gradient(GradientCheckpointing::Off)?,
        gradient(GradientCheckpointing::On)?
    );
    Ok(())
}
