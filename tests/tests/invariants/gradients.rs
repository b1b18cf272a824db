//! Gradients of the dual loss in a whole Llama, against central finite differences.

use anyhow::Result;
use candle_core::{Tensor, Var};
use candle_nn::optim::{AdamW, Optimizer, ParamsAdamW};
use reptune::Llama;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{
    Adapter, DirectionSet, Dose, ForwardOptions, HookedModel, Intervention, LoraInit, Operator,
    Positions, PrefixTree,
};
use reptune_recipes::recipe::Mode;
use reptune_tests::{
    ModelFixture, OTHERS, Objective, Oracle, ROUNDING, Walk, bits, flat, logits, random_update,
    whole,
};

struct World {
    llama: Llama,
    prompts: Vec<Vec<u32>>,
    labels: Vec<u32>,
    set: DirectionSet,
}

/// Runs `test` on a model of every architecture, with the prompts and directions of the oracle.
fn in_every_world(test: impl Fn(&World) -> Result<()>) -> Result<()> {
    let oracle = Oracle::read("oracle-llama2.safetensors")?;
    for name in ["llama2"].into_iter().chain(OTHERS) {
        println!("{name}");
        test(&World {
            llama: ModelFixture::of(name)?.load()?,
            prompts: oracle.prompts()?,
            labels: oracle.tokens("labels")?,
            set: oracle.directions()?,
        })?;
    }
    Ok(())
}

/// Step of the differences, by which a loss changes by no more than this.
const STEP: f64 = 1e-2;
/// Allowed error, as a share of the largest element of the gradient; beside it
/// the rounding of an f32 loss, `loss * epsilon / step`.
const ALLOWED: f64 = 2e-3;

/// Checks the gradient of every factor along itself and at some of its elements;
/// returns the largest error.
fn check(w: &World, objective: &Objective, update: &mut Adapter) -> Result<f64> {
    let vars = update.trainable(w.llama.device())?;
    let places: Vec<String> = update
        .modules
        .keys()
        .flat_map(|s| [format!("{s}.lora_A"), format!("{s}.lora_B")])
        .collect();
    let loss = || objective.loss(&w.llama, &w.prompts, &w.labels, Some(update));
    let gradients = loss()?.backward()?;
    let value = || -> Result<f64> { Ok(f64::from(loss()?.to_scalar::<f32>()?)) };
    let loss_now = value()?.abs();
    let mut worst = 0f64;
    for (var, place) in vars.iter().zip(places) {
        let g = gradients
            .get(var)
            .unwrap_or_else(|| panic!("{place}: no gradient"));
        let g = flat(g);
        let largest = g.iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(
            largest > 0. && largest.is_finite(),
            "{place}: gradient is {largest}"
        );
        let norm = g.iter().map(|x| x * x).sum::<f32>().sqrt();
        let peak = g
            .iter()
            .position(|x| x.abs() == largest)
            .expect("the largest is there");
        let unit = |at: usize| (0..g.len()).map(|i| f32::from(u8::from(i == at))).collect();
        let mut ways: Vec<Vec<f32>> = vec![g.iter().map(|x| x / norm).collect(), unit(peak)];
        ways.extend((1..4).map(|i| unit(i * g.len() / 4)));
        for way in ways {
            let ours: f64 = g.iter().zip(&way).map(|(g, w)| f64::from(g * w)).sum();
            let largest = f64::from(largest);
            // where the loss bends too much for one step, a smaller one is right
            let steps = [STEP, STEP / 4.].map(|step| step / f64::from(norm).max(1.));
            let slopes = steps.map(|step| Ok((step, slope(var, &way, step, &value)?)));
            let slopes = slopes.into_iter().collect::<Result<Vec<_>>>()?;
            let off = |(step, slope): &(f64, f64)| {
                (slope - ours).abs() - loss_now * f64::from(f32::EPSILON) / step
            };
            let off = slopes.iter().map(off).fold(f64::INFINITY, f64::min);
            assert!(
                off < ALLOWED * largest,
                "{place}: {slopes:?} by differences, {ours:.4e} by backward (largest {largest:.1e})"
            );
            worst = worst.max(off / largest);
        }
    }
    Ok(worst)
}

/// Derivative of `value` when `var` moves along `way`, by central differences of fourth order.
fn slope(var: &Var, way: &[f32], step: f64, value: &dyn Fn() -> Result<f64>) -> Result<f64> {
    let start = var.as_tensor().copy()?;
    let way = Tensor::from_slice(way, start.dims(), start.device())?;
    let at = |steps: f64| -> Result<f64> {
        var.set(&(&start + (&way * (steps * step))?)?)?;
        value()
    };
    let (near, far) = (at(1.)? - at(-1.)?, at(2.)? - at(-2.)?);
    var.set(&start)?;
    Ok((8. * near - far) / (12. * step))
}

#[test]
fn every_projection_has_the_gradient_of_finite_differences() -> Result<()> {
    in_every_world(|w| {
        // The dual loss reaches layers 1 and 2 strongly; the token loss alone reaches all.
        for mode in [Mode::InPlusTruth, Mode::Out, Mode::Truth, Mode::InMinus] {
            let mut update = random_update(w.llama.spec(), &[0, 2, 3], &ModuleKind::ALL, 5)?;
            let objective = Objective {
                mode,
                directions: &w.set,
                interventions: &[],
            };
            let worst = check(w, &objective, &mut update)?;
            println!("{mode}: largest error {worst:.1e} of the largest element");
        }
        Ok(())
    })
}

#[test]
fn gradients_pass_through_interventions() -> Result<()> {
    in_every_world(|w| {
        let at = |layers: &[usize], operator| {
            Intervention::new(&w.set, layers, Dose::Total(3.), operator)
        };
        let cases = [
            ("add, all", vec![at(&[1], Operator::Add)?]),
            (
                "add, last:3",
                vec![at(&[1, 2], Operator::Add)?.on(Positions::Last(3))],
            ),
            ("ablate, all", vec![at(&[0], Operator::Ablate)?]),
            (
                "ablate, last:3",
                vec![at(&[0], Operator::Ablate)?.on(Positions::Last(3))],
            ),
            (
                "both",
                vec![
                    at(&[0], Operator::Ablate)?,
                    at(&[1], Operator::Add)?.on(Positions::Last(4)),
                ],
            ),
        ];
        for (name, interventions) in cases {
            let mut update = random_update(
                w.llama.spec(),
                &[0, 1],
                &[ModuleKind::VProj, ModuleKind::DownProj],
                6,
            )?;
            let objective = Objective {
                mode: Mode::InPlusTruth,
                directions: &w.set,
                interventions: &interventions,
            };
            let worst = check(w, &objective, &mut update)?;
            println!("{name}: largest error {worst:.1e} of the largest element");
        }
        Ok(())
    })
}

/// By module and letter: the gradients of `prompts` in one tree.
fn gradients(w: &World, mode: Mode, update: &Adapter, of: &[usize]) -> Result<Vec<Tensor>> {
    let objective = Objective {
        mode,
        directions: &w.set,
        interventions: &[],
    };
    let prompts: Vec<_> = of.iter().map(|&i| w.prompts[i % 3].clone()).collect();
    // the same prompt comes with both letters
    let labels: Vec<_> = of
        .iter()
        .map(|&i| 65 + (i as u32 / 3 + i as u32) % 2)
        .collect();
    let g = objective
        .loss(&w.llama, &prompts, &labels, Some(update))?
        .backward()?;
    let factors = update.modules.values().flat_map(|l| [&l.a, &l.b]);
    Ok(factors
        .map(|f| g.get(f).expect("a gradient").clone())
        .collect())
}

#[test]
fn gradients_of_a_forest_are_the_mean_of_those_of_its_prompts() -> Result<()> {
    in_every_world(|w| {
        let mut update = random_update(
            w.llama.spec(),
            &[0, 2],
            &[ModuleKind::VProj, ModuleKind::OProj],
            7,
        )?;
        update.trainable(w.llama.device())?;
        for mode in Mode::ALL {
            let batch = [0, 1, 2, 3, 4, 5];
            let together = gradients(w, mode, &update, &batch)?;
            let alone = batch
                .iter()
                .map(|&i| gradients(w, mode, &update, &[i]))
                .collect::<Result<Vec<_>>>()?;
            let mut walk = Walk::within(ROUNDING);
            for (f, ours) in together.iter().enumerate() {
                let each: Vec<_> = alone.iter().map(|g| &g[f]).collect();
                walk.check(
                    &format!("{mode}: factor {f}"),
                    ours,
                    &Tensor::stack(&each, 0)?.mean(0)?,
                );
            }
            walk.finish(&format!("{mode}: gradients of a tree"));
        }
        Ok(())
    })
}

#[test]
fn frozen_weights_are_the_same_after_training() -> Result<()> {
    in_every_world(|w| {
        let (tree, _) = PrefixTree::pack(&w.prompts);
        let base = |llama: &Llama| whole(llama, &tree, ForwardOptions::default());
        let before = base(&w.llama)?;
        let mut update = Adapter::init(
            w.llama.spec(),
            &LoraInit {
                layers: &[1, 2],
                kinds: &ModuleKind::ALL,
                rank: 4,
                alpha: 8.,
                seed: 3,
            },
        )?;
        let start = update.snapshot()?;
        let mut optimizer = AdamW::new(
            update.trainable(w.llama.device())?,
            ParamsAdamW {
                lr: 1e-2,
                ..ParamsAdamW::default()
            },
        )?;
        let objective = Objective {
            mode: Mode::InPlusTruth,
            directions: &w.set,
            interventions: &[],
        };
        let mut losses = Vec::new();
        for _ in 0..8 {
            let loss = objective.loss(&w.llama, &w.prompts, &w.labels, Some(&update))?;
            losses.push(loss.to_scalar::<f32>()?);
            optimizer.backward_step(&loss)?;
        }
        assert!(losses[7] < losses[0], "training does something: {losses:?}");
        let after = base(&w.llama)?;
        for layer in 0..w.llama.spec().layers {
            assert_eq!(
                bits(&before.residuals[&layer]),
                bits(&after.residuals[&layer]),
                "layer {layer}"
            );
        }
        assert_eq!(bits(logits(&before)), bits(logits(&after)));
        let kept = Adapter::init(
            w.llama.spec(),
            &LoraInit {
                layers: &[1, 2],
                kinds: &ModuleKind::ALL,
                rank: 4,
                alpha: 8.,
                seed: 3,
            },
        )?;
        for (module, adapter) in &start.modules {
            let tuned = &update.modules[module];
            assert_eq!(
                bits(&adapter.a),
                bits(&kept.modules[module].a),
                "{module}: a snapshot stays as it was"
            );
            assert_ne!(bits(&adapter.b), bits(&tuned.b), "{module}: B was tuned");
        }
        Ok(())
    })
}
