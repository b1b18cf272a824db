//! What is no constant, replaced by the constant that comes nearest: its mean over the rows
//! of some prompts, with the error that this makes.

use crate::error::Result;
use candle_core::{D, Tensor};
use reptune_adapters::steering::direction::{Direction, DirectionSet};
use reptune_adapters::steering::intervention::token_mask;
use reptune_adapters::{
    Dose, ForwardOptions, HookPoint, HookedModel, Intervention, KeyValueCache, Operator, PrefixTree,
};
use reptune_recipes::score::{ModelVariant, divergence_from};

/// Additions in place of an intervention, and how far they are from it.
#[derive(Debug, Clone)]
pub struct Approximation {
    /// One addition to every row, for every layer.
    pub additions: Vec<Intervention>,
    /// Root mean square of what is left of the changes once their mean is taken from them, as
    /// a share of the changes themselves: 0 where all rows change alike.
    pub spread: f64,
    /// Mean KL of the next token, in nats, from the model under the intervention to the model
    /// under the additions.
    pub divergence: f64,
    /// The same from the model under the intervention to the model alone: what there
    /// is to be kept.
    pub effect: f64,
}

/// The means of what `intervention` changes in the rows of `prompts` that it acts on, layer
/// after layer from below, each with the means below it in place.
///
/// `b_l = mean over rows r of change(h_r)`, `spread = |change - b| / |change|`
///
/// # Errors
/// When it acts on no row of the prompts or changes nothing there, or the model fails.
pub fn approximate(
    host: &dyn HookedModel,
    intervention: &Intervention,
    prompts: &[Vec<u32>],
) -> Result<Approximation> {
    let mut additions: Vec<Intervention> = Vec::new();
    let (mut around, mut whole) = (0., 0.);
    let layers: Vec<usize> = intervention.layers().collect();
    for layer in layers {
        let changes = changes(host, intervention, layer, &additions, prompts)?; // (M, H)
        let mean = changes.mean(0)?;
        around += squares(&changes.broadcast_sub(&mean)?)?;
        whole += squares(&changes)?;
        let mean: Vec<f64> = mean.to_vec1::<f32>()?.into_iter().map(f64::from).collect();
        let direction = Direction::new(&mean)?;
        let norm = direction.norm;
        let set = DirectionSet {
            layers: [(layer, direction)].into(),
            provenance: Default::default(),
        };
        let addition = Intervention::new(&set, &[layer], Dose::Total(norm), Operator::Add)?;
        additions.push(addition.at(intervention.point()));
    }
    let model = |interventions| ModelVariant {
        interventions,
        ..ModelVariant::base(host)
    };
    let online = model(std::slice::from_ref(intervention));
    let kl = |other: &ModelVariant| -> Result<f64> {
        Ok(divergence_from(&online, other, prompts, &mut |_| {})?.mean)
    };
    Ok(Approximation {
        divergence: kl(&model(&additions))?,
        effect: kl(&model(&[]))?,
        additions,
        spread: (around / f64::max(whole, f64::MIN_POSITIVE)).sqrt(),
    })
}

/// What `intervention` adds to the rows it acts on at `layer`, under `below`.
fn changes(
    host: &dyn HookedModel,
    intervention: &Intervention,
    layer: usize,
    below: &[Intervention],
    prompts: &[Vec<u32>],
) -> Result<Tensor> {
    // The stream before the change is what an addition of nothing leaves.
    let still = Intervention::new(
        &zero(intervention, layer)?,
        &[layer],
        Dose::Total(0.),
        Operator::Add,
    )?
    .at(intervention.point())
    .on(intervention.rows().clone());
    let mut all = below.to_vec();
    all.push(still);
    let mut forest = PrefixTree::new();
    for ids in prompts {
        forest.insert(None, ids, |p| token_mask(&all, p, ids.len()));
    }
    let capture = match intervention.point() {
        HookPoint::ResidPre => layer.checked_sub(1),
        _ => Some(layer),
    };
    let refused = |found: &str| {
        let hint = "steer elsewhere, or without baking";
        let what = format!(
            "a mean change at the {} of layer {layer}",
            intervention.point()
        );
        reptune_adapters::Error::value(what, "a place whose rows can be read", found, hint)
    };
    let (Some(capture), false) = (capture, intervention.point() == HookPoint::ResidMid) else {
        return Err(refused("one that cannot").into());
    };
    let request = ForwardOptions {
        interventions: &all,
        capture: &[capture],
        ..ForwardOptions::default()
    };
    let pass = host.forward(&forest, &mut KeyValueCache::none(), &request)?;
    let rows = forest.masked(below.len(), 0..forest.len());
    if rows.is_empty() {
        return Err(refused("no row of the prompts that it acts on").into());
    }
    let index = Tensor::new(rows.as_slice(), host.device())?;
    let h = pass.residuals[&capture].index_select(&index, 0)?; // (M, H)
    let all: Vec<u32> = (0..rows.len() as u32).collect();
    Ok((intervention.apply(&h, layer, &all)? - &h)?)
}

/// A direction set with that of `layer`.
fn zero(intervention: &Intervention, layer: usize) -> Result<DirectionSet> {
    let unit = match intervention.direction(layer) {
        Some(d) => d.to_vec1()?,
        None => Vec::new(),
    };
    Ok(DirectionSet {
        layers: [(layer, Direction { unit, norm: 1. })].into(),
        provenance: Default::default(),
    })
}

fn squares(t: &Tensor) -> Result<f64> {
    let rows = t.sqr()?.sum(D::Minus1)?.to_vec1::<f32>()?;
    Ok(rows.into_iter().map(f64::from).sum())
}
