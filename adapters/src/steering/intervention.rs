//! Interventions: rules that change the residual stream while a model runs.

use crate::error::{Error, Result};
use crate::model::prefix_tree::TokenMask;
use crate::steering::direction::DirectionSet;
use crate::steering::dose::Dose;
use crate::steering::gate::{Decide, Gate, check_width};
use crate::steering::operator::{Operator, named};
use crate::steering::positions::Positions;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Where in a block the residual stream is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookPoint {
    /// The output of the block.
    #[default]
    #[serde(rename = "resid_post", alias = "output")]
    ResidPost,
    /// Between attention and MLP.
    #[serde(rename = "resid_mid", alias = "middle")]
    ResidMid,
    /// The input of the block: the output of the block below, or the embeddings.
    #[serde(rename = "resid_pre", alias = "input")]
    ResidPre,
    /// After every write to the stream: the embeddings, and `resid_mid` and `resid_post` of
    /// every block.
    Everywhere,
}

impl HookPoint {
    /// All.
    pub const ALL: [Self; 4] = [
        Self::ResidPre,
        Self::ResidMid,
        Self::ResidPost,
        Self::Everywhere,
    ];

    /// As it is written in recipes and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ResidPost => "resid_post",
            Self::ResidMid => "resid_mid",
            Self::ResidPre => "resid_pre",
            Self::Everywhere => "everywhere",
        }
    }

    /// Whether an intervention at this point acts at `place` of `layer`.
    fn acts_at(self, place: Self, layer: usize) -> bool {
        match self {
            Self::Everywhere => place != Self::ResidPre || layer == 0,
            point => point == place,
        }
    }
}

impl FromStr for HookPoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        named("hook", &Self::ALL, text)
    }
}

impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One operator on chosen tokens at some layers, with a direction and a coefficient for each.
#[derive(Debug, Clone)]
pub struct Intervention {
    operator: Operator,
    point: HookPoint,
    rows: Positions,
    gate: Option<Gate>,
    dose: Dose,
    layers: BTreeMap<usize, Steered>,
}

/// What one layer gets.
#[derive(Debug, Clone)]
struct Steered {
    /// The unit direction (H,).
    unit: Tensor,
    /// Its coefficient.
    coeff: f64,
}

impl Intervention {
    /// An intervention with the directions of `set` at `layers`; `dose` says what
    /// coefficient each of them gets. [`Operator::Ablate`] has no use for a dose.
    ///
    /// # Errors
    /// When no layer is named, the set lacks one of them, or the dose is not finite or a
    /// fraction of a norm that the set does not know.
    pub fn new(
        set: &DirectionSet,
        layers: &[usize],
        dose: Dose,
        operator: Operator,
    ) -> Result<Self> {
        let mut steered = BTreeMap::new();
        for (layer, coeff) in dose.per_layer(set, layers, operator)? {
            let unit = Tensor::new(&*set.layer(layer)?.unit, &Device::Cpu)?;
            steered.insert(layer, Steered { unit, coeff });
        }
        Ok(Self {
            operator,
            point: HookPoint::ResidPost,
            rows: Positions::All,
            gate: None,
            dose,
            layers: steered,
        })
    }

    /// The ablation of one direction, that of `layer` in `set`, after every write to the
    /// residual stream of a model of `layers` blocks.
    ///
    /// # Errors
    /// When the set has no such layer.
    pub fn ablation_everywhere(set: &DirectionSet, layer: usize, layers: usize) -> Result<Self> {
        let one = Self::new(set, &[layer], Dose::Coeff(0.), Operator::Ablate)?;
        let steered = one.layers[&layer].clone();
        Ok(Self {
            layers: (0..layers).map(|l| (l, steered.clone())).collect(),
            ..one.at(HookPoint::Everywhere)
        })
    }

    /// The same at another point of the blocks.
    pub fn at(self, point: HookPoint) -> Self {
        Self { point, ..self }
    }

    /// The same on other tokens.
    pub fn on(self, rows: Positions) -> Self {
        Self { rows, ..self }
    }

    /// The same, only where `gate` is open.
    ///
    /// # Errors
    /// When the gate decides at every token and has no direction for one of the layers.
    pub fn when(self, gate: Gate) -> Result<Self> {
        if gate.decide() == Decide::EveryToken {
            for &layer in self.layers.keys() {
                gate.direction(layer)?;
            }
        }
        let gate = Some(gate);
        Ok(Self { gate, ..self })
    }

    /// The operator.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The point.
    pub fn point(&self) -> HookPoint {
        self.point
    }

    /// The tokens.
    pub fn rows(&self) -> &Positions {
        &self.rows
    }

    /// The gate, if there is one.
    pub fn gate(&self) -> Option<&Gate> {
        self.gate.as_ref()
    }

    /// The unit direction (H,) at `layer`, if it acts there.
    pub fn direction(&self, layer: usize) -> Option<&Tensor> {
        Some(&self.layers.get(&layer)?.unit)
    }

    /// The coefficient that `layer` gets, if it acts there.
    pub fn coeff(&self, layer: usize) -> Option<f64> {
        Some(self.layers.get(&layer)?.coeff)
    }

    /// The dose as it was given.
    pub fn dose(&self) -> Dose {
        self.dose
    }

    /// The layers.
    pub fn layers(&self) -> impl Iterator<Item = usize> + '_ {
        self.layers.keys().copied()
    }

    /// The last block whose output this intervention leaves unchanged or changes itself, so
    /// that a forward can resume there from unsteered rows; none if it changes the input of
    /// block 0.
    pub fn lowest(&self) -> Option<usize> {
        let first = *self.layers.keys().next()?;
        match self.point {
            HookPoint::ResidPost => Some(first),
            HookPoint::ResidMid | HookPoint::ResidPre => first.checked_sub(1),
            HookPoint::Everywhere => None,
        }
    }

    /// What is added to every chosen token at `layer`: `coeff * d` (H,); none at layers that
    /// it does not steer.
    ///
    /// # Errors
    /// When the change depends on the token: another operator than addition, or a gate.
    pub fn addition(&self, layer: usize) -> Result<Option<Tensor>> {
        let Some(Steered { unit: d, coeff }) = self.layers.get(&layer) else {
            return Ok(None);
        };
        if !self.operator.is_constant() || self.gate.is_some() {
            let gated = match self.gate {
                Some(_) => " with a gate",
                None => "",
            };
            let operator = self.operator;
            let what = format!("operator {operator}{gated} at layer {layer} as a constant");
            let reason = "what it adds depends on the token; use an addition without a gate";
            return Err(Error::unsupported(what, reason));
        }
        Ok(Some((d * *coeff)?))
    }

    /// Applies this intervention to the rows `rows` of `h`, where a gate that decides at
    /// every token is open; differentiable except for the gate.
    ///
    /// Shapes: `h` (N, H), result (N, H).
    ///
    /// # Errors
    /// When the width differs.
    pub fn apply(&self, h: &Tensor, layer: usize, rows: &[u32]) -> Result<Tensor> {
        let Some(Steered { unit: d, coeff }) = self.layers.get(&layer) else {
            return Ok(h.clone());
        };
        if rows.is_empty() || self.operator.is_identity(*coeff) {
            return Ok(h.clone());
        }
        check_width(format!("direction at layer {layer}"), d, h)?;
        let open = match &self.gate {
            Some(gate) if gate.decide() == Decide::EveryToken => gate.rows(h, layer, rows)?,
            _ => rows.to_vec(),
        };
        if open.is_empty() {
            return Ok(h.clone());
        }
        let d = d.to_device(h.device())?;
        if open.len() == h.dims()[0] {
            return Ok((h + self.operator.change(h, &d, *coeff)?)?);
        }
        let index = Tensor::new(open.as_slice(), h.device())?;
        let picked = h.index_select(&index, 0)?; // (rows, H)
        let change = self.operator.change(&picked, &d, *coeff)?;
        Ok(h.index_add(&index, &change.contiguous()?, 0)?)
    }
}

/// Applies, in order, all of `interventions` that act at `point` of `layer`; `rows(i)` gives
/// the rows of `h` on which intervention i acts.
///
/// Shapes: `h` (N, H), result (N, H).
///
/// # Errors
/// When the width differs.
pub fn apply_all(
    interventions: &[Intervention],
    h: &Tensor,
    point: HookPoint,
    layer: usize,
    rows: impl Fn(usize) -> Vec<u32>,
) -> Result<Tensor> {
    let mut h = h.clone();
    for (i, intervention) in interventions.iter().enumerate() {
        if intervention.point.acts_at(point, layer) && intervention.layers.contains_key(&layer) {
            h = intervention.apply(&h, layer, &rows(i))?;
        }
    }
    Ok(h)
}

/// The mask of the token at `position` of a sequence with `prompt` prompt tokens: bit i is
/// set where intervention i acts. Gates that decide once per prompt count as closed; see
/// [`token_mask_gated`].
pub fn token_mask(interventions: &[Intervention], position: usize, prompt: usize) -> TokenMask {
    token_mask_gated(interventions, 0, position, prompt)
}

/// [`token_mask`] where bit i of `open` says whether the gate of intervention i is open for
/// this prompt. That holds from the prompt's last token on. The bit is ignored for
/// interventions without a gate that decides once per prompt.
pub fn token_mask_gated(
    interventions: &[Intervention],
    open: TokenMask,
    position: usize,
    prompt: usize,
) -> TokenMask {
    let lets = |i: usize, x: &Intervention| match x.gate.as_ref().map(Gate::decide) {
        Some(Decide::OncePerPrompt { .. }) => open >> i & 1 == 1 && position + 1 >= prompt,
        Some(Decide::EveryToken) | None => true,
    };
    let all = interventions.iter().enumerate();
    all.take(TokenMask::BITS as usize)
        .filter(|(i, x)| x.rows.chooses(position, prompt) && lets(*i, x))
        .fold(0, |mask, (i, _)| mask | 1 << i)
}

#[cfg(test)]
mod tests;
