//! Steering on the command line.

use super::{DoseArgs, layers};
use crate::progress;
use anyhow::{Result, anyhow, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args};
use reptune_adapters::{
    Adapter, DirectionSet, Dose, HookPoint, HookedModel, Intervention, ModelSpec, Operator,
    Positions, open_directions_for,
};
use reptune_recipes::effect_check::check_effect;
use std::path::PathBuf;

/// Prompts on which the effect of steering is checked.
const CHECKED: usize = 4;

/// What is added where.
#[derive(Args, Clone)]
#[command(next_help_heading = "Steering")]
#[command(group = ArgGroup::new("dosed")
    .args(["coeff", "total", "fraction", "strength"]).multiple(true).requires("directions"))]
pub struct SteeringArgs {
    /// Direction file: .safetensors, a GGUF control vector or .svec
    #[arg(long, value_name = "FILE", requires = "layers")]
    pub directions: Option<PathBuf>,
    /// Layers to steer, such as 1-3,5 or all
    #[arg(long, requires = "directions")]
    pub layers: Option<String>,
    #[command(flatten)]
    pub dose: DoseArgs,
    /// What is done to a residual h with the unit direction d and the coefficient c:
    /// add: h + c d; ablate: h - (h.d) d; add-norm-preserving: as add, rescaled to the norm
    /// of h; clamp: h + (c - h.d) d
    #[arg(long, default_value_t = Operator::Add, value_parser = operators(), hide_possible_values = true)]
    pub operator: Operator,
    /// Where in each layer: resid_pre (input of the block), resid_mid (between attention and
    /// MLP), resid_post (output); everywhere ablates the direction of one layer in the
    /// whole model
    #[arg(long, default_value_t = HookPoint::ResidPost, value_parser = hooks(), hide_possible_values = true)]
    pub hook: HookPoint,
    /// Which tokens: all, prompt, generated, last:K, at:P,Q,.., window:A..B or answer
    #[arg(long, default_value_t = Positions::All, allow_hyphen_values = true, value_parser = Positions::for_steering)]
    pub positions: Positions,
    /// Continue although the steering changes nothing, which is an error otherwise
    #[arg(long, requires = "directions")]
    pub allow_no_effect: bool,
}

fn operators() -> impl TypedValueParser<Value = Operator> {
    let names = Operator::ALL.map(Operator::name);
    PossibleValuesParser::new(names).try_map(|text| text.parse::<Operator>())
}

fn hooks() -> impl TypedValueParser<Value = HookPoint> {
    let names = HookPoint::ALL.map(HookPoint::name);
    PossibleValuesParser::new(names).try_map(|text| text.parse::<HookPoint>())
}

impl SteeringArgs {
    /// The intervention, checked against a model; none without `--directions`.
    pub fn intervention(&self, spec: &ModelSpec) -> Result<Option<Intervention>> {
        let (Some(file), Some(text)) = (&self.directions, &self.layers) else {
            return Ok(None);
        };
        let operator = self.operator;
        let set = open_directions_for(file, operator)?;
        set.check_model(file, spec)?;
        let layers = layers(text, spec.layers)?;
        if self.hook == HookPoint::Everywhere {
            return Ok(Some(self.everywhere(&set, &layers, spec)?));
        }
        let dose = match (operator, self.dose.dose()) {
            (Operator::Ablate, None) => Dose::Coeff(0.),
            (Operator::Ablate, Some(_)) => bail!("--operator ablate takes no dose; remove it"),
            (Operator::AddNormPreserving | Operator::Clamp, Some(Dose::Strength(_))) => {
                bail!("--strength requires --operator add; give --coeff instead")
            }
            (_, Some(dose)) => dose,
            (_, None) => bail!(
                "--operator {operator} needs a dose, for example --coeff 19 or --fraction 0.5"
            ),
        };
        let intervention = Intervention::new(&set, &layers, dose, operator)?;
        Ok(Some(intervention.at(self.hook).on(self.positions.clone())))
    }

    /// The direction of one layer, ablated in the whole model.
    fn everywhere(
        &self,
        set: &DirectionSet,
        layers: &[usize],
        spec: &ModelSpec,
    ) -> Result<Intervention> {
        let &[layer] = layers else {
            bail!(
                "--hook everywhere: expected one layer, whose direction is ablated in the whole model, found --layers {}",
                self.layers.as_deref().unwrap_or_default()
            );
        };
        if self.operator != Operator::Ablate || self.positions != Positions::All {
            bail!("--hook everywhere requires --operator ablate and --positions all");
        }
        Ok(Intervention::ablation_everywhere(set, layer, spec.layers)?)
    }

    /// Fails if one of `interventions` changes nothing on the first of `prompts`, unless
    /// that is allowed.
    pub fn check_effect(
        &self,
        model: &dyn HookedModel,
        interventions: &[Intervention],
        prompts: &[Vec<u32>],
        adapter: Option<&Adapter>,
    ) -> Result<()> {
        let few = &prompts[..prompts.len().min(CHECKED)];
        for intervention in interventions {
            progress::note("checking that the steering has an effect");
            let effect = check_effect(model, intervention, few, adapter, 2)?;
            if !self.allow_no_effect {
                let refused = |e| anyhow!("{e}; --allow-no-effect continues anyway");
                effect.require().map_err(refused)?;
            }
        }
        Ok(())
    }
}
