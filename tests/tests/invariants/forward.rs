//! Invariants of a forward: interventions, forests, the cache, an update that is zero.

use anyhow::Result;
use candle_core::Tensor;
use reptune::Llama;
use reptune::model::ModelConfig;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{
    Adapter, DirectionSet, Dose, ForwardOptions, ForwardOutput, HookedModel, Intervention,
    KeyValueCache, LoraInit, Operator, Positions, PrefixTree,
};
use reptune_tests::{
    ModelFixture, OTHERS, Oracle, ROUNDING, Walk, bits, flat, llama, logits, marked, pick, whole,
};

pub(super) struct World {
    pub llama: Llama,
    pub prompts: Vec<Vec<u32>>,
    set: DirectionSet,
    /// Tokens that the last block sees.
    window: usize,
}

/// Runs `test` on a model of every architecture, with the prompts and directions of the oracle.
pub(super) fn in_every_world(test: impl Fn(&World) -> Result<()>) -> Result<()> {
    let oracle = Oracle::read("oracle-llama2.safetensors")?;
    for name in ["llama2"].into_iter().chain(OTHERS) {
        println!("{name}");
        let model = ModelFixture::of(name)?;
        let config = ModelConfig::read(&model.path)?;
        let last = config.num_hidden_layers - 1;
        test(&World {
            llama: model.load()?,
            prompts: oracle.prompts()?,
            set: oracle.directions()?,
            window: config.window(last).unwrap_or(usize::MAX),
        })?;
    }
    Ok(())
}

impl World {
    pub(super) fn add(&self, layers: &[usize], coeff: f64) -> Result<Intervention> {
        Ok(Intervention::new(
            &self.set,
            layers,
            Dose::Total(coeff),
            Operator::Add,
        )?)
    }

    pub(super) fn ablate(&self, layers: &[usize]) -> Result<Intervention> {
        Ok(Intervention::new(
            &self.set,
            layers,
            Dose::Total(1.),
            Operator::Ablate,
        )?)
    }

    fn direction(&self, layer: usize) -> Result<Tensor> {
        let unit = self.set.layer(layer)?.unit.as_slice();
        Ok(Tensor::new(unit, self.llama.device())?)
    }

    /// All layers and logits of `prompts` in one tree.
    fn run(
        &self,
        prompts: &[Vec<u32>],
        interventions: &[Intervention],
    ) -> Result<(ForwardOutput, Vec<Vec<u32>>)> {
        let (tree, rows) = marked(prompts, interventions);
        let request = ForwardOptions {
            interventions,
            ..ForwardOptions::default()
        };
        Ok((whole(&self.llama, &tree, request)?, rows))
    }
}

/// Bit for bit the same at all layers and in the logits.
fn assert_same(what: &str, a: &ForwardOutput, b: &ForwardOutput) {
    for (layer, residual) in &a.residuals {
        assert_eq!(
            bits(residual),
            bits(&b.residuals[layer]),
            "{what}: layer {layer}"
        );
    }
    assert_eq!(bits(logits(a)), bits(logits(b)), "{what}: logits");
}

fn assert_differs(what: &str, a: &Tensor, b: &Tensor) {
    assert_ne!(
        bits(a),
        bits(b),
        "{what}: should differ, or the test shows nothing"
    );
}

#[test]
fn coeff_zero_is_the_base() -> Result<()> {
    in_every_world(|w| {
        for rows in ["all", "prompt", "last:3", "at:0,-2"] {
            let prompts = &w.prompts[2..];
            let (base, _) = w.run(prompts, &[])?;
            let (zero, _) = w.run(prompts, &[w.add(&[1, 2], 0.)?.on(rows.parse()?)])?;
            assert_same(rows, &zero, &base);
            let (one, _) = w.run(prompts, &[w.add(&[1, 2], 1.)?.on(rows.parse()?)])?;
            assert_differs(rows, logits(&one), logits(&base));
        }
        Ok(())
    })
}

#[test]
fn an_addition_is_exact_at_its_site_and_leaves_what_comes_before() -> Result<()> {
    in_every_world(|w| {
        let (module, coeff) = (2, -3.5);
        let prompt = &w.prompts[2];
        let (base, _) = w.run(&w.prompts[2..], &[])?;
        for rule in [
            Positions::Last(3),
            Positions::At(vec![7, -2, 20]),
            Positions::All,
        ] {
            let (steered, _) = w.run(
                &w.prompts[2..],
                &[w.add(&[module], coeff)?.on(rule.clone())],
            )?;
            for layer in 0..module {
                let (ours, theirs) = (&steered.residuals[&layer], &base.residuals[&layer]);
                assert_eq!(
                    bits(ours),
                    bits(theirs),
                    "{rule}: layer {layer} lies before the module"
                );
            }
            let dose = (w.direction(module)? * coeff)?;
            let acted = |row: usize| rule.chooses(row, prompt.len());
            assert!((0..prompt.len()).any(acted), "a row is chosen");
            for row in 0..prompt.len() {
                let at = |pass: &ForwardOutput, layer: usize| pass.residuals[&layer].get(row);
                let expected = match acted(row) {
                    true => (at(&base, module)? + &dose)?,
                    false => at(&base, module)?,
                };
                assert_eq!(
                    bits(&at(&steered, module)?),
                    bits(&expected),
                    "{rule}: row {row} at the module"
                );
                let (after, before) = (at(&steered, 3)?, at(&base, 3)?);
                let seen = |from: usize| row - from < w.window;
                if !(0..=row).any(|from| acted(from) && seen(from)) {
                    assert_eq!(
                        bits(&after),
                        bits(&before),
                        "{rule}: row {row} sees none of them"
                    );
                } else {
                    assert_differs(
                        &format!("{rule}: row {row} above the module"),
                        &after,
                        &before,
                    );
                }
            }
        }
        Ok(())
    })
}

#[test]
fn ablating_twice_is_ablating_once() -> Result<()> {
    in_every_world(|w| {
        let layer = 1;
        let d = w.direction(layer)?.unsqueeze(1)?;
        for rule in [Positions::All, Positions::Last(3)] {
            let ablate = w.ablate(&[layer])?.on(rule.clone());
            let (once, _) = w.run(&w.prompts[2..], std::slice::from_ref(&ablate))?;
            let (twice, _) = w.run(&w.prompts[2..], &[ablate.clone(), ablate])?;
            // the first ablation leaves rounding noise along d, which the second removes
            let mut walk = Walk::within(ROUNDING);
            for at in 0..w.llama.spec().layers {
                let place = format!("{rule}: layer {at}");
                walk.check(&place, &twice.residuals[&at], &once.residuals[&at]);
            }
            walk.check(&format!("{rule}: logits"), logits(&twice), logits(&once));
            walk.finish("ablating twice");
            let along = flat(&once.residuals[&layer].matmul(&d)?);
            let norms = flat(&once.residuals[&layer].sqr()?.sum(1)?.sqrt()?);
            for (row, (along, norm)) in along.iter().zip(norms).enumerate() {
                let share = along.abs() / norm;
                let removed = rule.chooses(row, w.prompts[2].len());
                assert_eq!(
                    share < 1e-6,
                    removed,
                    "{rule}: row {row} has {share:.1e} of d left"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn interventions_apply_in_their_order() -> Result<()> {
    in_every_world(|w| {
        let (layer, coeff) = (1, 3.);
        let d = w.direction(layer)?.unsqueeze(1)?;
        let along = |order: &[Intervention]| -> Result<Vec<f32>> {
            let (pass, _) = w.run(&w.prompts, order)?;
            Ok(flat(&pass.residuals[&layer].matmul(&d)?))
        };
        let (add, ablate) = (w.add(&[layer], coeff)?, w.ablate(&[layer])?);
        let added_last = along(&[ablate.clone(), add.clone()])?;
        let ablated_last = along(&[add, ablate])?;
        for (row, (added, ablated)) in added_last.iter().zip(ablated_last).enumerate() {
            assert!(
                (added - coeff as f32).abs() < 1e-5,
                "row {row}: {added} after ablate, add"
            );
            assert!(
                ablated.abs() < 1e-5,
                "row {row}: {ablated} after add, ablate"
            );
        }
        // On rows of their own, two are the one and the other.
        let (first, second) = (Positions::At(vec![0]), Positions::Last(1));
        let (one, two) = (w.add(&[2], 3.)?.on(first), w.add(&[1], -2.)?.on(second));
        let (both, _) = w.run(&w.prompts[2..], &[one.clone(), two.clone()])?;
        let (swapped, _) = w.run(&w.prompts[2..], &[two, one])?;
        assert_same("on different rows the order is free", &both, &swapped);
        Ok(())
    })
}

#[test]
fn last_k_separates_prefixes_that_prompts_share() -> Result<()> {
    in_every_world(|w| {
        // 5 tokens, of which 4 begin the other one too: the last 3 of the first are rows of its own.
        let prompts = &w.prompts[..2];
        let interventions = [w.add(&[1], 3.)?.on(Positions::Last(3))];
        let (plain, shared) = PrefixTree::pack(prompts);
        let (tree, rows) = marked(prompts, &interventions);
        assert_eq!(shared[0][..4], shared[1][..4]);
        assert_eq!(rows[0][..2], rows[1][..2], "unmarked tokens stay shared");
        assert!(
            rows[0][2..].iter().all(|r| !rows[1].contains(r)),
            "{rows:?}"
        );
        assert_eq!(tree.len(), plain.len() + 2);
        let (together, rows) = w.run(prompts, &interventions)?;
        let mut walk = Walk::within(ROUNDING);
        for (i, prompt) in prompts.iter().enumerate() {
            let (alone, _) = w.run(std::slice::from_ref(prompt), &interventions)?;
            for layer in 0..w.llama.spec().layers {
                let ours = pick(&together.residuals[&layer], &rows[i])?;
                walk.check(
                    &format!("prompt {i}: layer {layer}"),
                    &ours,
                    &alone.residuals[&layer],
                );
            }
        }
        walk.finish("last:3 in a tree");
        Ok(())
    })
}

#[test]
fn a_prompt_alone_equals_the_same_prompt_in_any_forest() -> Result<()> {
    in_every_world(|w| {
        let p = &w.prompts;
        let mut fork = p[2][..20].to_vec();
        fork.extend(&p[1]);
        let company = [
            vec![p[0].clone(), p[1].clone(), p[2].clone()],
            vec![p[2].clone(), p[1].clone(), p[0].clone()],
            vec![fork, p[1].clone(), p[2].clone(), p[0].clone(), p[1].clone()],
        ];
        let mut walk = Walk::within(ROUNDING);
        for prompts in &company {
            let (together, rows) = w.run(prompts, &[])?;
            for (prompt, rows) in prompts.iter().zip(&rows) {
                let (alone, _) = w.run(std::slice::from_ref(prompt), &[])?;
                for layer in 0..w.llama.spec().layers {
                    let ours = pick(&together.residuals[&layer], rows)?;
                    walk.check(&format!("layer {layer}"), &ours, &alone.residuals[&layer]);
                }
                walk.check("logits", &pick(logits(&together), rows)?, logits(&alone));
            }
        }
        walk.finish("in a tree");
        Ok(())
    })
}

#[test]
fn rows_do_not_depend_on_what_other_prompts_say() -> Result<()> {
    in_every_world(|w| {
        // Among as many other rows rounding is the same too, so any difference would be a leak.
        let with = |other: Vec<u32>| w.run(&[other, w.prompts[2].clone()], &[]);
        let (a, rows) = with((0..30).collect())?;
        let (b, same_rows) = with((100..130).rev().collect())?;
        assert_eq!(rows, same_rows);
        for layer in 0..w.llama.spec().layers {
            let row = |pass: &ForwardOutput| pick(&pass.residuals[&layer], &rows[1]);
            assert_eq!(bits(&row(&a)?), bits(&row(&b)?), "layer {layer}");
            let other = |pass: &ForwardOutput| pick(&pass.residuals[&layer], &rows[0]);
            assert_differs("the other prompt", &other(&a)?, &other(&b)?);
        }
        assert_eq!(
            bits(&pick(logits(&a), &rows[1])?),
            bits(&pick(logits(&b), &rows[1])?)
        );
        Ok(())
    })
}

#[test]
fn generation_with_the_cache_equals_generation_without() -> Result<()> {
    in_every_world(|w| {
        for rule in [Positions::All, Positions::Generated, Positions::Last(2)] {
            let interventions = [w.add(&[1, 2], 2.)?.on(rule.clone()), w.ablate(&[3])?];
            let (mut tree, rows) = marked(&w.prompts, &interventions);
            let mut last: Vec<u32> = rows.iter().map(|r| r[r.len() - 1]).collect();
            let mut cache = KeyValueCache::keeping(w.llama.spec().layers, 8);
            let mut walk = Walk::within(ROUNDING);
            for step in 0..12 {
                let request = ForwardOptions {
                    interventions: &interventions,
                    logits: &last,
                    ..ForwardOptions::default()
                };
                let kept = w.llama.forward(&tree, &mut cache, &request)?;
                let anew = w
                    .llama
                    .forward(&tree, &mut KeyValueCache::none(), &request)?;
                assert_eq!(cache.rows(), tree.len());
                walk.check(
                    &format!("{rule}: step {step}"),
                    logits(&kept),
                    logits(&anew),
                );
                let tokens = logits(&anew).argmax(1)?.to_vec1::<u32>()?;
                for (i, token) in tokens.into_iter().enumerate() {
                    let prompt = w.prompts[i].len();
                    let mark = reptune_adapters::steering::intervention::token_mask(
                        &interventions,
                        prompt + step,
                        prompt,
                    );
                    last[i] = tree.insert(Some(last[i]), &[token], |_| mark)[0];
                }
            }
            walk.finish(&format!("{rule}: with the cache"));
        }
        Ok(())
    })
}

#[test]
fn an_update_whose_b_is_zero_is_the_identity() -> Result<()> {
    in_every_world(|w| {
        let layers: Vec<usize> = (0..w.llama.spec().layers).collect();
        let update = Adapter::init(
            w.llama.spec(),
            &LoraInit {
                layers: &layers,
                kinds: &ModuleKind::ALL,
                rank: 4,
                alpha: 8.,
                seed: 1,
            },
        )?;
        let (tree, _) = PrefixTree::pack(&w.prompts);
        let base = whole(&w.llama, &tree, ForwardOptions::default())?;
        let request = ForwardOptions {
            adapter: Some(&update),
            ..ForwardOptions::default()
        };
        assert_same("B = 0", &whole(&w.llama, &tree, request)?, &base);
        Ok(())
    })
}

/// What a llama refuses before it computes anything.
#[test]
fn requests_that_do_not_fit_are_refused() -> Result<()> {
    let llama = llama("tiny-llama2")?;
    let (tree, rows) = PrefixTree::pack(&[vec![256u32, 73, 115]]);
    let mut cache = KeyValueCache::keeping(llama.spec().layers, 8);
    let captured = ForwardOptions {
        capture: &[0],
        ..ForwardOptions::default()
    };
    llama.forward(&tree, &mut cache, &captured)?;
    let again = ForwardOptions {
        logits: &rows[0],
        ..ForwardOptions::default()
    };
    let message = |r: reptune_adapters::Result<reptune_adapters::ForwardOutput>| {
        r.err().map(|e| e.to_string()).unwrap_or_default()
    };
    let cached = message(llama.forward(&tree, &mut cache, &again));
    assert!(
        cached.contains("rows of the logits") && cached.contains("not computed again"),
        "{cached}"
    );
    // a forward that only captures still fills the cache of every layer
    let mut longer = tree.clone();
    let next = longer.insert(Some(2), &[32], |_| 0);
    let last = ForwardOptions {
        logits: &next,
        ..ForwardOptions::default()
    };
    let with_cache = llama
        .forward(&longer, &mut cache, &last)?
        .logits
        .expect("asked for");
    let without = llama
        .forward(&longer, &mut KeyValueCache::none(), &last)?
        .logits
        .expect("asked for");
    let difference = (with_cache - without)?
        .abs()?
        .max_all()?
        .to_scalar::<f32>()?;
    assert!(difference < 1e-4, "{difference}");
    let (unknown, rows) = PrefixTree::pack(&[vec![9999u32]]);
    let beyond = ForwardOptions {
        logits: &rows[0],
        ..ForwardOptions::default()
    };
    let beyond = message(llama.forward(&unknown, &mut KeyValueCache::none(), &beyond));
    assert!(
        beyond.contains("token id") && beyond.contains("9999"),
        "{beyond}"
    );
    Ok(())
}
