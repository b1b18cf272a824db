//! Gates decide alike in any tree, with and without a cache, and to the end.

use super::{prompts, set};
use crate::error::Result;
use crate::generate::{Generation, generate};
use crate::open_gates::open_gates;
use crate::toy::{Toy, tiny};
use candle_core::Tensor;
use reptune_adapters::steering::intervention::token_mask_gated;
use reptune_adapters::{
    Decide, Dose, ForwardOptions, Gate, HookedModel, Intervention, KeyValueCache, Operator,
    Positions, PrefixTree, Side,
};

const OPERATORS: [Operator; 4] = [
    Operator::Add,
    Operator::Ablate,
    Operator::AddNormPreserving,
    Operator::Clamp,
];

/// A gate read at layer 2 with its threshold in the middle of what the prompts show,
/// and which of them it opens to.
fn split(toy: &Toy) -> Result<(Gate, Vec<bool>)> {
    let set = set(toy, 3);
    let unit = Tensor::new(set.layer(2)?.unit.as_slice(), toy.device())?;
    let mut projections = Vec::new();
    for prompt in prompts() {
        let (tree, rows) = PrefixTree::pack(&[prompt]);
        let request = ForwardOptions {
            capture: &[2],
            ..ForwardOptions::default()
        };
        let h = toy
            .forward(&tree, &mut KeyValueCache::none(), &request)?
            .residuals[&2]
            .clone();
        let row = h.get(rows[0][rows[0].len() - 1] as usize)?;
        projections.push(f64::from((row * &unit)?.sum_all()?.to_scalar::<f32>()?));
    }
    let mut sorted = projections.clone();
    sorted.sort_by(f64::total_cmp);
    let threshold = (sorted[1] + sorted[2]) / 2.;
    let decide = Decide::OncePerPrompt { layer: 2 };
    let open = projections.iter().map(|p| *p > threshold).collect();
    Ok((Gate::new(&set, decide, Side::Above, threshold)?, open))
}

/// Greedy tokens without a cache: every step computes the whole sequence anew.
fn uncached(
    toy: &Toy,
    prompt: &[u32],
    interventions: &[Intervention],
    steps: usize,
) -> Result<Vec<u32>> {
    let open = open_gates(toy, &[prompt], interventions, None)?[0];
    let mut ids = prompt.to_vec();
    for _ in 0..steps {
        let mut tree = PrefixTree::new();
        let mark = |i| token_mask_gated(interventions, open, i, prompt.len());
        let rows = tree.insert(None, &ids, mark);
        let request = ForwardOptions {
            interventions,
            logits: &rows[rows.len() - 1..],
            ..ForwardOptions::default()
        };
        let pass = toy.forward(&tree, &mut KeyValueCache::none(), &request)?;
        let best = pass.logits.expect("logits").argmax(1)?;
        ids.push(best.to_vec1::<u32>()?[0]);
    }
    Ok(ids.split_off(prompt.len()))
}

fn cached(toy: &Toy, interventions: &[Intervention], steps: usize) -> Result<Vec<Vec<u32>>> {
    let how = Generation {
        interventions,
        max_new_tokens: steps,
        ..Generation::default()
    };
    generate(toy, &prompts(), &how, &mut |_| {})
}

#[test]
fn generation_with_the_cache_is_that_without_for_every_operator_rule_and_gate() -> Result<()> {
    let toy = tiny();
    let (once, _) = split(&toy)?;
    let every = Gate::new(&set(&toy, 3), Decide::EveryToken, Side::Above, 0.)?;
    for operator in OPERATORS {
        for rows in ["all", "window:-1..2", "generated"] {
            let plain = Intervention::new(&set(&toy, 1), &[1, 2], Dose::Total(8.), operator)?;
            let plain = plain.on(rows.parse()?);
            for steering in [
                plain.clone(),
                plain.clone().when(once.clone())?,
                plain.when(every.clone())?,
            ] {
                let steering = [steering];
                let ours = cached(&toy, &steering, 5)?;
                for (prompt, ours) in prompts().iter().zip(ours) {
                    let whole = uncached(&toy, prompt, &steering, 5)?;
                    assert_eq!(ours, whole, "{operator} on {rows} after {prompt:?}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_gate_decided_once_is_the_base_or_the_plain_intervention_to_the_end() -> Result<()> {
    let toy = tiny();
    let (gate, open) = split(&toy)?;
    assert!(open.contains(&true) && open.contains(&false));
    // From the last prompt token on, which is where the decision holds.
    let plain = Intervention::new(&set(&toy, 1), &[1], Dose::Total(40.), Operator::Add)?
        .on("window:0..99".parse()?);
    let base = cached(&toy, &[], 8)?;
    let steered = cached(&toy, std::slice::from_ref(&plain), 8)?;
    let gated = cached(
        &toy,
        &[plain.clone().on(Positions::All).when(gate.clone())?],
        8,
    )?;
    for (i, open) in open.iter().enumerate() {
        assert_ne!(base[i], steered[i], "a dose that shows");
        let expected = if *open { &steered[i] } else { &base[i] };
        assert_eq!(&gated[i], expected, "prompt {i}, gate open: {open}");
    }
    // Logits too, to the bit, of prompts that the gate leaves alone.
    let gated = [plain.on(Positions::All).when(gate)?];
    let decided = open_gates(&toy, &prompts(), &gated, None)?;
    for (i, prompt) in prompts().iter().enumerate() {
        let logits = |interventions: &[Intervention]| -> Result<Vec<u32>> {
            let mut tree = PrefixTree::new();
            let mark = |p| token_mask_gated(&gated, decided[i], p, prompt.len());
            let rows = tree.insert(None, prompt, mark);
            let request = ForwardOptions {
                interventions,
                logits: &rows,
                ..ForwardOptions::default()
            };
            let pass = toy.forward(&tree, &mut KeyValueCache::none(), &request)?;
            let flat = pass.logits.expect("logits").flatten_all()?;
            Ok(flat.to_vec1::<f32>()?.iter().map(|x| x.to_bits()).collect())
        };
        assert_eq!(logits(&gated)? == logits(&[])?, !open[i], "prompt {i}");
    }
    Ok(())
}

#[test]
fn a_decision_does_not_depend_on_the_prompts_beside_it_nor_on_other_gates() -> Result<()> {
    let toy = tiny();
    let (gate, open) = split(&toy)?;
    let add = Intervention::new(&set(&toy, 1), &[0], Dose::Total(30.), Operator::Add)?;
    let gated = add.clone().when(gate)?;
    let together = open_gates(&toy, &prompts(), &[add.clone(), gated.clone()], None)?;
    for (i, prompt) in prompts().iter().enumerate() {
        assert_eq!(together[i] >> 1 & 1 == 1, open[i]);
        assert_eq!(together[i] & 1, 1, "no gate, no bit cleared");
        let alone = open_gates(&toy, &[prompt], std::slice::from_ref(&gated), None)?;
        assert_eq!(alone[0] & 1 == 1, open[i]);
    }
    let message =
        open_gates(&toy, &[vec![1], vec![]], &[gated], None).expect_err("an empty prompt");
    assert!(message.to_string().contains("prompt 1"), "{message}");
    Ok(())
}
