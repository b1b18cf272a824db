//! Variants of the toy model, and its logits one text at a time.

use super::ModelVariant;
use candle_core::{Device, Tensor};
use reptune_adapters::lora::WeightDelta;
use reptune_adapters::model::{ModuleKind, TargetModule};
use reptune_adapters::steering::direction::Provenance;
use reptune_adapters::steering::intervention::token_mask;
use reptune_adapters::{
    Adapter, Direction, DirectionSet, Dose, ForwardOptions, Intervention, KeyValueCache, Operator,
    Positions, PrefixTree,
};
use std::collections::BTreeMap;

/// A steep addition at the output of block 1.
pub fn steering() -> Vec<Intervention> {
    let direction: Vec<f64> = (0..32).map(|i| f64::from(i * 7 % 11) - 5.).collect();
    let set = DirectionSet {
        layers: BTreeMap::from([(1, Direction::new(&direction).expect("a direction"))]),
        provenance: Provenance::default(),
    };
    vec![Intervention::new(&set, &[1], Dose::Total(3.), Operator::Add).expect("an intervention")]
}

/// The same on other tokens.
pub fn steering_on(positions: &str) -> Vec<Intervention> {
    let rule: Positions = positions.parse().expect("positions");
    steering().into_iter().map(|x| x.on(rule.clone())).collect()
}

/// An update of one weight of block 2, of rank 1.
pub fn adapter() -> Adapter {
    let column = |n: u32| (0..n).map(|i| (i * 5 % 7) as f32 / 7. - 0.4);
    let factor = |n: u32| Tensor::from_iter(column(n), &Device::Cpu).expect("a tensor");
    let a = factor(32).reshape((1, 32)).expect("A");
    let b = factor(32).reshape((32, 1)).expect("B");
    let module = TargetModule {
        layer: 2,
        kind: ModuleKind::OProj,
    };
    let modules = BTreeMap::from([(
        module,
        WeightDelta {
            a,
            b,
            scale: 2.,
            full: None,
        },
    )]);
    Adapter { modules }
}

/// Log-probabilities (V,) of the token after `ids`, from a forward of its own.
pub fn next(variant: &ModelVariant, ids: &[u32]) -> Vec<f64> {
    next_at(variant, ids, |i| (i, ids.len()))
}

/// [`next`], where `place` gives the position of a token and the length of its prompt.
pub fn next_at(
    variant: &ModelVariant,
    ids: &[u32],
    place: impl Fn(usize) -> (usize, usize),
) -> Vec<f64> {
    let mut tree = PrefixTree::new();
    let rows = tree.insert(None, ids, |i| {
        let (position, prompt) = place(i);
        token_mask(variant.interventions, position, prompt)
    });
    let options = ForwardOptions {
        interventions: variant.interventions,
        logits: &rows[ids.len() - 1..],
        adapter: variant.adapter,
        ..ForwardOptions::default()
    };
    let output = variant
        .model
        .forward(&tree, &mut KeyValueCache::none(), &options);
    let logits = output.expect("a forward").logits.expect("logits");
    let logits = logits.flatten_all().expect("one row");
    let logits: Vec<f32> = logits.to_vec1().expect("numbers");
    let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
    logits
        .iter()
        .map(|l| (f64::from(*l).exp() / total).ln())
        .collect()
}

/// Byte tokens that no one wrote.
pub fn text(length: u32, seed: u32) -> Vec<u32> {
    (0..length)
        .map(|i| (i * i * 31 + seed * 97 + i) % 251)
        .collect()
}
