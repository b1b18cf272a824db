//! Steering on the toy Llama: gates and generation, the effect check, the sweep, variants that grow together, recipes.

mod effect_check;
mod gates;
mod recipe;
mod sweep;
mod variants;

use crate::toy::Toy;
use reptune_adapters::steering::direction::Provenance;
use reptune_adapters::{Direction, DirectionSet, HookedModel};

/// Made-up directions for all layers, of a different kind for every seed.
pub(crate) fn set(toy: &Toy, seed: usize) -> DirectionSet {
    let spec = toy.spec();
    let wave = |l: usize| -> Vec<f64> {
        let at = |i: usize| ((i + 1) as f64 * (0.7 + seed as f64) + l as f64).sin();
        (0..spec.hidden).map(at).collect()
    };
    let layers = (0..spec.layers).map(|l| (l, Direction::new(&wave(l)).expect("a direction")));
    DirectionSet {
        layers: layers.collect(),
        provenance: Provenance {
            model: spec.name.clone(),
            model_fingerprint: spec.fingerprint.clone(),
            model_layers: spec.layers,
            method: format!("wave {seed}"),
            residual_norms: (0..spec.layers).map(|l| (l, 2. + l as f64)).collect(),
            ..Provenance::default()
        },
    }
}

pub(crate) fn prompts() -> Vec<Vec<u32>> {
    vec![
        vec![1, 72, 101, 108],
        vec![1, 72, 101],
        vec![1, 72, 101, 120, 33, 40],
        vec![1, 90, 14],
    ]
}
