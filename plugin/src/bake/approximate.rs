//! Approximate bakes: the change that an intervention makes, which weights cannot express
//! where it differs between tokens, replaced by its mean over the tokens of some prompts,
//! with the error of that.
//!
//! `b_l = mean over tokens t of change_l(h_t)`, and
//! `spread = sqrt(sum_lt |change_l(h_t) - b_l|^2 / sum_lt |change_l(h_t)|^2)`.

use crate::error::Result;
use candle_core::{D, Tensor};
use reptune_adapters::steering::direction::{Direction, DirectionSet};
use reptune_adapters::steering::intervention::token_mask;
use reptune_adapters::{
    Dose, ForwardOptions, HookPoint, HookedModel, Intervention, KeyValueCache, Operator, PrefixTree,
};
use reptune_recipes::score::{ModelVariant, TextKind, divergence};

/// Additions that replace an intervention, and how much they differ from it.
#[derive(Debug, Clone)]
pub struct Approximation {
    /// For every layer the addition of the mean change to every token.
    pub additions: Vec<Intervention>,
    /// Norm of the changes without their mean, as a share of the norm of the changes: 0 where
    /// all tokens change alike.
    pub spread: f64,
    /// Mean KL divergence of the next token, in nats, from the model under the intervention
    /// to the model under the additions.
    pub divergence: f64,
    /// The same from the model under the intervention to the model without it.
    pub effect: f64,
}

/// Replaces `intervention` by its mean changes over the tokens of `prompts` that it acts on:
/// layer by layer from the first, each with the means of the layers before in place.
///
/// # Errors
/// When it acts on no token of the prompts or changes nothing there, or the model fails.
pub fn approximate(
    model: &dyn HookedModel,
    intervention: &Intervention,
    prompts: &[Vec<u32>],
) -> Result<Approximation> {
    let mut additions: Vec<Intervention> = Vec::new();
    let (mut around, mut whole) = (0., 0.);
    for layer in intervention.layers() {
        let changes = changes(model, intervention, layer, &additions, prompts)?; // (M, H)
        let mean = changes.mean(0)?;
        around += squares(&changes.broadcast_sub(&mean)?)?;
        whole += squares(&changes)?;
        let mean: Vec<f64> = mean.to_vec1::<f32>()?.into_iter().map(f64::from).collect();
        let direction = Direction::new(&mean)?;
        let dose = Dose::Coeff(direction.norm);
        additions.push(addition(direction, layer, dose)?.at(intervention.point()));
    }
    let under = |interventions| ModelVariant {
        interventions,
        ..ModelVariant::base(model)
    };
    let online = under(std::slice::from_ref(intervention));
    let kl = |other: &ModelVariant| -> Result<f64> {
        Ok(divergence(&online, other, prompts, TextKind::Prompt)?)
    };
    Ok(Approximation {
        divergence: kl(&under(&additions))?,
        effect: kl(&under(&[]))?,
        additions,
        spread: (around / f64::max(whole, f64::MIN_POSITIVE)).sqrt(),
    })
}

/// The changes (M, H) that `intervention` makes at `layer` to the tokens it acts on, while
/// `below` act before it.
fn changes(
    model: &dyn HookedModel,
    intervention: &Intervention,
    layer: usize,
    below: &[Intervention],
    prompts: &[Vec<u32>],
) -> Result<Tensor> {
    // An addition of zero leaves the stream as it is before the change, on the same tokens.
    let unit = intervention.direction(layer).map(Tensor::to_vec1);
    let unit = unit.transpose()?.unwrap_or_default();
    let zero = addition(Direction { unit, norm: 1. }, layer, Dose::Coeff(0.))?;
    let point = intervention.point();
    let zero = zero.at(point).on(intervention.rows().clone());
    let all = [below, &[zero]].concat();
    let mut batch = PrefixTree::new();
    for ids in prompts {
        batch.insert(None, ids, |p| token_mask(&all, p, ids.len()));
    }
    let capture = match point {
        HookPoint::ResidPre => layer.checked_sub(1),
        _ => Some(layer),
    };
    let refused = |found: &str| {
        let what = format!("a mean change at {point} of layer {layer}");
        let expected = "resid_pre of layers from 1 on or resid_post, and prompts that are steered";
        let hint = "steer at another hook point, or without baking";
        reptune_adapters::Error::value(what, expected, found, hint)
    };
    let (Some(capture), false) = (capture, point == HookPoint::ResidMid) else {
        return Err(refused("another hook point").into());
    };
    let request = ForwardOptions {
        interventions: &all,
        capture: &[capture],
        ..ForwardOptions::default()
    };
    let pass = model.forward(&batch, &mut KeyValueCache::none(), &request)?;
    let rows = batch.masked(below.len(), 0..batch.len());
    if rows.is_empty() {
        return Err(refused("no token of the prompts that it acts on").into());
    }
    let index = Tensor::new(rows.as_slice(), model.device())?;
    let h = pass.residuals[&capture].index_select(&index, 0)?; // (M, H)
    let all: Vec<u32> = (0..rows.len() as u32).collect();
    Ok((intervention.apply(&h, layer, &all)? - &h)?)
}

/// An addition of `direction` at `layer`.
fn addition(direction: Direction, layer: usize, dose: Dose) -> Result<Intervention> {
    let set = DirectionSet {
        layers: [(layer, direction)].into(),
        provenance: Default::default(),
    };
    Ok(Intervention::new(&set, &[layer], dose, Operator::Add)?)
}

fn squares(t: &Tensor) -> Result<f64> {
    let rows = t.sqr()?.sum(D::Minus1)?.to_vec1::<f32>()?;
    Ok(rows.into_iter().map(f64::from).sum())
}
