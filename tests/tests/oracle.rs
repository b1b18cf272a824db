//! Parity with torch, transformers and peft: from layer 0 up to five steps of AdamW.
//!
//! `tests/oracle/make_fixtures.py` wrote what is expected, in f32, each prompt alone.

use anyhow::Result;
use candle_core::Tensor;
use candle_nn::optim::{AdamW, Optimizer, ParamsAdamW};
use reptune_adapters::lora::loss::{Label, Representation, representation_loss, token_loss};
use reptune_adapters::{
    Adapter, Dose, ForwardOptions, HookPoint, HookedModel, Intervention, KeyValueCache, Operator,
    Positions, PrefixTree, lora::peft,
};
use reptune_recipes::recipe::Mode;
use reptune_tests::{
    LAYERS, Objective, Oracle, Walk, fixture, label_rows, llama, logits, marked, pick, whole,
};

/// Models, and how far from transformers their tensors may be, as a share of the largest value.
/// `tests/oracle/make_architectures.py` wrote what is expected of the last four.
const MODELS: [(&str, f32); 6] = [
    ("llama2", 1e-4),
    ("llama32", 1e-4),
    ("mistral", 2e-5),
    ("qwen2", 2e-5),
    ("qwen3", 2e-5),
    ("llama-bias", 2e-5),
];

#[test]
fn residuals_and_logits_are_those_of_transformers() -> Result<()> {
    for (name, allowed) in MODELS {
        let oracle = Oracle::read(&format!("oracle-{name}.safetensors"))?;
        let model = llama(&format!("tiny-{name}"))?;
        let prompts = oracle.prompts()?;
        for (how, batches) in [
            ("alone", (0..3).map(|i| vec![i]).collect::<Vec<_>>()),
            ("packed", vec![vec![0, 1, 2]]),
        ] {
            let mut walk = Walk::within(allowed);
            for batch in batches {
                let chosen: Vec<_> = batch.iter().map(|&i| &prompts[i]).collect();
                let (tree, rows) = PrefixTree::pack(&chosen);
                let pass = whole(&model, &tree, ForwardOptions::default())?;
                for layer in 0..model.spec().layers {
                    for (&i, rows) in batch.iter().zip(&rows) {
                        let place = format!("prompt.{i}.layer.{layer}");
                        let ours = pick(&pass.residuals[&layer], rows)?;
                        walk.check(
                            &format!("{name}, {how}: {place}"),
                            &ours,
                            oracle.get(&place)?,
                        );
                    }
                }
                for (&i, rows) in batch.iter().zip(&rows) {
                    let place = format!("prompt.{i}.logits");
                    let ours = pick(logits(&pass), rows)?;
                    walk.check(
                        &format!("{name}, {how}: {place}"),
                        &ours,
                        oracle.get(&place)?,
                    );
                }
            }
            walk.finish(&format!("{name}, {how}"));
        }
    }
    Ok(())
}

#[test]
fn greedy_tokens_are_those_of_generate() -> Result<()> {
    for (name, _) in MODELS {
        let oracle = Oracle::read(&format!("oracle-{name}.safetensors"))?;
        let model = llama(&format!("tiny-{name}"))?;
        for (i, prompt) in oracle.prompts()?.iter().enumerate() {
            let expected = oracle.tokens(&format!("prompt.{i}.greedy"))?;
            let (mut tree, rows) = PrefixTree::pack(&[prompt]);
            let mut last = *rows[0].last().expect("a prompt has tokens");
            let mut cache = KeyValueCache::keeping(model.spec().layers, 16);
            let mut new = Vec::new();
            while new.len() < expected.len() {
                let request = ForwardOptions {
                    logits: &[last],
                    ..ForwardOptions::default()
                };
                let pass = model.forward(&tree, &mut cache, &request)?;
                let token = logits(&pass).argmax(1)?.to_vec1::<u32>()?[0];
                new.push(token);
                last = tree.insert(Some(last), &[token], |_| 0)[0];
            }
            assert_eq!(new, expected, "{name}: greedy tokens of prompt {i}");
        }
    }
    Ok(())
}

#[test]
fn steered_logits_are_those_of_hooks() -> Result<()> {
    let oracle = Oracle::read("oracle-llama2.safetensors")?;
    let model = llama("tiny-llama2")?;
    let set = oracle.directions()?;
    let add = |layers: &[usize]| Intervention::new(&set, layers, Dose::Total(3.), Operator::Add);
    let cases = [
        ("add", add(&[2])?),
        ("add2", add(&[1, 2])?),
        (
            "ablate",
            Intervention::new(&set, &[1], Dose::Total(1.), Operator::Ablate)?,
        ),
        ("last3", add(&[2])?.on(Positions::Last(3))),
        ("input", add(&[2])?.at(HookPoint::ResidPre)),
    ];
    let prompts = oracle.prompts()?;
    let mut walk = Walk::default();
    for (name, intervention) in cases {
        let interventions = [intervention];
        let expected = oracle.get(&format!("steered.{name}.logits"))?;
        for (how, prompts) in [("alone", &prompts[2..]), ("packed", &prompts[..])] {
            let (tree, rows) = marked(prompts, &interventions);
            let request = ForwardOptions {
                interventions: &interventions,
                ..ForwardOptions::default()
            };
            let pass = whole(&model, &tree, request)?;
            let ours = pick(logits(&pass), rows.last().expect("prompt 2 is the last"))?;
            walk.check(&format!("steered.{name}, {how}"), &ours, expected);
        }
    }
    walk.finish("steered");
    Ok(())
}

/// PEFT's own adapter, as `peft::load` reads it.
fn adapter(model: &dyn HookedModel) -> Result<Adapter> {
    Ok(peft::load(&fixture("peft-adapter"), model.spec())?)
}

#[test]
fn tuned_residuals_and_logits_are_those_of_peft() -> Result<()> {
    let oracle = Oracle::read("oracle-llama2.safetensors")?;
    let model = llama("tiny-llama2")?;
    let update = adapter(&model)?;
    let (tree, rows) = PrefixTree::pack(&oracle.prompts()?);
    let request = ForwardOptions {
        adapter: Some(&update),
        ..ForwardOptions::default()
    };
    let pass = whole(&model, &tree, request)?;
    let mut walk = Walk::default();
    for layer in 0..model.spec().layers {
        for (i, rows) in rows.iter().enumerate() {
            let place = format!("tuned.{i}.layer.{layer}");
            walk.check(
                &place,
                &pick(&pass.residuals[&layer], rows)?,
                oracle.get(&place)?,
            );
        }
    }
    for (i, rows) in rows.iter().enumerate() {
        let place = format!("tuned.{i}.logits");
        walk.check(&place, &pick(logits(&pass), rows)?, oracle.get(&place)?);
    }
    walk.finish("tuned");
    Ok(())
}

#[test]
fn each_loss_is_that_of_torch() -> Result<()> {
    let oracle = Oracle::read("oracle-llama2.safetensors")?;
    let model = llama("tiny-llama2")?;
    let update = adapter(&model)?;
    let directions = oracle.directions()?;
    let objective = Objective {
        mode: Mode::Truth,
        directions: &directions,
        interventions: &[],
    };
    let measured = objective.measure(&model, &oracle.prompts()?, Some(&update))?;
    let mut walk = Walk::default();
    // cos = 1 - 2 * the loss of tuning in
    let mut columns = Vec::new();
    for (h, d) in &measured.rows {
        let cosine = |row: usize| -> Result<Tensor> {
            let loss = representation_loss(&h.narrow(0, row, 1)?, d, Representation::In, 1.)?;
            Ok(((loss * -2.)? + 1.)?)
        };
        columns.push(Tensor::stack(
            &(0..3).map(cosine).collect::<Result<Vec<_>>>()?,
            0,
        )?);
    }
    let place = "representation.cosines";
    walk.check(place, &Tensor::stack(&columns, 1)?, oracle.get(place)?);
    for (place, kind) in [
        ("representation.in", Representation::In),
        ("representation.in_negative", Representation::InNegative),
        ("representation.out", Representation::Out),
    ] {
        let by_layer = measured
            .rows
            .iter()
            .map(|(h, d)| representation_loss(h, d, kind, 1.))
            .collect::<reptune_adapters::Result<Vec<_>>>()?;
        walk.check(
            place,
            &Tensor::stack(&by_layer, 0)?.mean_all()?,
            oracle.get(place)?,
        );
    }
    let labels = label_rows(&oracle.tokens("labels")?);
    for (place, label) in [
        ("token.hard", Label::Right),
        ("token.hard_lie", Label::Wrong),
        ("token.soft", Label::Soft),
    ] {
        let ours = token_loss(&measured.logits, &labels, label)?;
        walk.check(place, &ours, oracle.get(place)?);
    }
    walk.finish("losses");
    Ok(())
}

#[test]
fn the_loss_and_every_gradient_of_every_mode_are_those_of_torch() -> Result<()> {
    let oracle = Oracle::read("oracle-llama2.safetensors")?;
    let model = llama("tiny-llama2")?;
    let (directions, prompts) = (oracle.directions()?, oracle.prompts()?);
    let labels = oracle.tokens("labels")?;
    let mut update = adapter(&model)?;
    update.trainable(model.device())?;
    assert_eq!(update.modules.len(), 4);
    let mut walk = Walk::default();
    for mode in Mode::ALL {
        let objective = Objective {
            mode,
            directions: &directions,
            interventions: &[],
        };
        let loss = objective.loss(&model, &prompts, &labels, Some(&update))?;
        let place = format!("mode.{mode}.loss");
        walk.check(&place, &loss, oracle.get(&place)?);
        let gradients = loss.backward()?;
        for (module, adapter) in update.modules.iter().rev() {
            for (letter, factor) in [("B", &adapter.b), ("A", &adapter.a)] {
                let place = format!("mode.{mode}.grad.{module}.lora_{letter}");
                let expected = oracle.get(&place)?;
                let ours = gradients
                    .get(factor)
                    .unwrap_or_else(|| panic!("{place}: none"));
                walk.check(&place, ours, expected);
            }
        }
    }
    walk.finish("modes");
    Ok(())
}

#[test]
fn five_steps_of_adamw_are_those_of_torch() -> Result<()> {
    let oracle = Oracle::read("oracle-llama2.safetensors")?;
    let model = llama("tiny-llama2")?;
    let (directions, prompts) = (oracle.directions()?, oracle.prompts()?);
    let labels = oracle.tokens("labels")?;
    let mut update = adapter(&model)?;
    let vars = update.trainable(model.device())?;
    let parameters = ParamsAdamW {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
    };
    let mut optimizer = AdamW::new(vars, parameters)?;
    let objective = Objective {
        mode: Mode::InPlusTruth,
        directions: &directions,
        interventions: &[],
    };
    let mut walk = Walk::default();
    for step in 0..5 {
        let loss = objective.loss(&model, &prompts, &labels, Some(&update))?;
        let place = format!("adamw.{step}.loss");
        walk.check(&place, &loss, oracle.get(&place)?);
        optimizer.backward_step(&loss)?;
    }
    let tuned = update.snapshot()?;
    assert!(
        LAYERS
            .iter()
            .all(|l| tuned.modules.keys().any(|s| s.layer == *l))
    );
    for (module, adapter) in &tuned.modules {
        for (letter, factor) in [("A", &adapter.a), ("B", &adapter.b)] {
            let place = format!("adamw.final.{module}.lora_{letter}");
            walk.check(&place, factor, oracle.get(&place)?);
        }
    }
    walk.finish("adamw");
    Ok(())
}
