//! Flags that several commands share.

use crate::decoder::{LoadOptions, parse_device, parse_dtype, parse_isq};
use crate::session::{CHECKED, Session};
use crate::{pipeline::Run, progress};
use anyhow::{Result, anyhow, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args};
use reptune_adapters::{
    Adapter, Dose, Error as Fault, HookPoint, HookedModel, Intervention, ModelSpec, Operator,
    Positions, lora::peft, open_directions_for,
};
use reptune_recipes::effect_check::check_effect;
use reptune_recipes::recipe::Mode;
use std::path::{Path, PathBuf};

/// What commands on a recipe start from.
#[derive(Args)]
pub struct RecipeArgs {
    /// Recipe file
    #[arg(value_name = "RECIPE.toml")]
    pub recipe: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Model directory, .uqff or .gguf file, or Hugging Face id, instead of the recipe's
    #[arg(short, long, help_heading = "Model")]
    pub model: Option<String>,
    #[command(flatten)]
    pub loading: LoadingArgs,
}

impl RecipeArgs {
    pub fn session(&self) -> crate::Result<Session> {
        Session::open(&self.recipe, self.model.as_deref(), self.loading.options()?)
    }
}

/// What commands that work in the directory of a run start from.
#[derive(Args)]
pub struct RunArgs {
    /// Directory of the run [default: runs/NAME, with the name of the recipe]
    #[arg(short, long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub recipe: RecipeArgs,
}

impl RunArgs {
    pub fn open(&self) -> crate::Result<Run> {
        let (of, out) = (&self.recipe, self.out.as_deref());
        Run::open(&of.recipe, of.model.as_deref(), of.loading.options()?, out)
    }
}

/// How a model is loaded.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub struct LoadingArgs {
    /// Quantize the weights in memory, for example q8_0 or q4k
    #[arg(long, value_name = "TYPE")]
    pub quantize: Option<String>,
    /// Device that computes: cpu, or cuda, cuda:1, .. or metal in a build with that feature
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Type of the weights and the residual stream: f32, or f16; on a GPU also bf16
    #[arg(long, default_value = "f32")]
    pub dtype: String,
}

impl LoadingArgs {
    pub fn options(&self) -> crate::Result<LoadOptions> {
        Ok(LoadOptions {
            isq: self.quantize.as_deref().map(parse_isq).transpose()?,
            device: parse_device(&self.device)?,
            dtype: parse_dtype(&self.dtype)?,
        })
    }
}

/// One of four ways to give a dose.
#[derive(Args, Clone, Debug, Default)]
#[group(id = "dose", multiple = false)]
pub struct DoseArgs {
    /// Coefficient of the unit direction that each layer gets
    #[arg(long, value_name = "C", allow_negative_numbers = true)]
    pub coeff: Option<f64>,
    /// Coefficient that is divided by the number of layers, as in the paper
    #[arg(long, value_name = "C", allow_negative_numbers = true)]
    pub total: Option<f64>,
    /// Coefficient relative to the mean norm of the residual stream at these layers
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub fraction: Option<f64>,
    /// Multiple of the stored, unnormalised vectors, as llama.cpp scales control vectors
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub strength: Option<f64>,
}

impl DoseArgs {
    pub fn dose(&self) -> Option<Dose> {
        let coeff = self.coeff.map(Dose::Coeff).or(self.total.map(Dose::Total));
        let fraction = self.fraction.map(Dose::Fraction);
        coeff.or(fraction).or(self.strength.map(Dose::Strength))
    }
}

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
        let (set, notes) = set.for_model(file, spec)?;
        notes.iter().for_each(progress::line);
        let layers = layers(text, spec.layers)?;
        if self.hook == HookPoint::Everywhere {
            let &[layer] = layers.as_slice() else {
                bail!(
                    "--hook everywhere: expected one layer, whose direction is ablated in the whole model, found --layers {text}"
                );
            };
            if operator != Operator::Ablate || self.positions != Positions::All {
                bail!("--hook everywhere requires --operator ablate and --positions all");
            }
            let ablation = Intervention::ablation_everywhere(&set, layer, spec.layers);
            return Ok(Some(ablation?));
        }
        let dose = match (operator.takes_dose(), self.dose.dose()) {
            (false, None) => Dose::Coeff(0.),
            (false, Some(_)) => bail!("--operator {operator} takes no dose; remove it"),
            (true, Some(Dose::Strength(_))) if !operator.is_constant() => {
                bail!("--strength requires --operator add; give --coeff instead")
            }
            (true, Some(dose)) => dose,
            (true, None) => bail!(
                "--operator {operator} needs a dose, for example --coeff 19 or --fraction 0.5"
            ),
        };
        let intervention = Intervention::new(&set, &layers, dose, operator)?;
        Ok(Some(intervention.at(self.hook).on(self.positions.clone())))
    }

    /// The intervention, and the adapter in the directory `adapter`, checked against `model`.
    /// Fails if the intervention changes nothing on the first of `prompts`, unless that is
    /// allowed.
    pub fn with_adapter(
        &self,
        adapter: Option<&Path>,
        model: &dyn HookedModel,
        prompts: &[Vec<u32>],
    ) -> Result<(Vec<Intervention>, Option<Adapter>)> {
        let interventions = Vec::from_iter(self.intervention(model.spec())?);
        let adapter = adapter.map(|directory| peft::load_noted(directory, model.spec()));
        let adapter = adapter.transpose()?.map(|(adapter, notes)| {
            notes.iter().for_each(progress::line);
            adapter
        });
        let few = &prompts[..prompts.len().min(CHECKED)];
        for intervention in &interventions {
            progress::note("checking that the steering has an effect");
            let effect = check_effect(model, intervention, few, adapter.as_ref(), 2)?;
            if !self.allow_no_effect {
                let refused = |e| anyhow!("{e}; --allow-no-effect continues anyway");
                effect.require().map_err(refused)?;
            }
        }
        Ok((interventions, adapter))
    }
}

/// Parses layers such as `1-3,5`, for a model with `count` layers; `all` is every layer.
pub fn layers(text: &str, count: usize) -> crate::Result<Vec<usize>> {
    if text == "all" {
        return Ok((0..count).collect());
    }
    let wrong = || {
        let (expected, found) = ("layers such as 1-3,5 or all", format!("`{text}`"));
        let hint = format!("this model has layers 0 to {}", count - 1);
        crate::Error::from(Fault::value("--layers", expected, found, hint))
    };
    let number = |text: &str| {
        let number = text.trim().parse::<usize>().ok();
        number.filter(|layer| *layer < count).ok_or_else(wrong)
    };
    let mut layers = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (number(from)?, number(to)?);
        if from > to {
            return Err(wrong());
        }
        layers.extend(from..=to);
    }
    layers.sort_unstable();
    layers.dedup();
    Ok(layers)
}

/// Parses a tuning mode by its name in recipes or in file names.
pub fn mode(text: &str) -> Result<Mode, String> {
    let names = || Mode::ALL.map(|m| m.file_name()).join(", ");
    Mode::named(text).ok_or_else(|| format!("expected one of {}", names()))
}

/// Parses a number that `fits`; `expected` describes it.
pub fn number(text: &str, fits: fn(&f64) -> bool, expected: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok().filter(fits);
    number.ok_or_else(|| format!("expected {expected}"))
}

#[cfg(test)]
mod tests;
