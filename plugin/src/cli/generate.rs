//! `reptune generate`: continuations, plain, steered or tuned.

use super::{bar, flags};
use crate::decoder::Llama;
use crate::model::hub;
use crate::prompts;
use anyhow::{Result, anyhow, bail};
use reptune_adapters::{
    Adapter, DirectionSet, Dose, HookPoint, HookedModel, Intervention, ModelSpec, Operator,
    Positions, lora::peft, open_directions_for,
};
use reptune_recipes::Chat;
use reptune_recipes::generate::{Generation, Sampling, generate as continue_prompts};
use reptune_recipes::probe::{NoEffect, probe};
use serde_json::json;
use std::path::Path;

/// The intervention that was typed, checked against the model.
pub fn steering(a: &flags::Steering, spec: &ModelSpec) -> Result<Option<Intervention>> {
    let (Some(file), Some(layers)) = (&a.directions, &a.layers) else {
        return Ok(None);
    };
    let operator = match a.operator {
        flags::Operator::Add => Operator::Add,
        flags::Operator::Ablate => Operator::Ablate,
        flags::Operator::Turn => Operator::AddNormPreserving,
        flags::Operator::Clamp => Operator::Clamp,
    };
    let set = open_directions_for(file, operator)?;
    set.check_model(file, spec)?;
    let layers = flags::layers(layers, spec.layers)?;
    if a.strength.is_some() && operator != Operator::Add {
        bail!("--strength: expected --operator add, found another; give a coeff instead");
    }
    let point = match a.site {
        flags::Site::Output => HookPoint::ResidPost,
        flags::Site::Middle => HookPoint::ResidMid,
        flags::Site::Input => HookPoint::ResidPre,
        flags::Site::Everywhere => return Ok(Some(everywhere(a, &set, &layers, spec)?)),
    };
    let coeff = match a.fraction {
        Some(fraction) => Some(set.natural_coeff(&layers, fraction)? * layers.len() as f64),
        None => a.coeff,
    };
    let intervention = match (operator, coeff, a.strength) {
        (_, _, Some(strength)) => {
            Intervention::new(&set, &layers, Dose::Strength(strength), Operator::Add)?
        }
        (Operator::Ablate, None, _) => Intervention::new(&set, &layers, Dose::Total(0.), operator)?,
        (Operator::Ablate, Some(_), _) => {
            bail!("--coeff: --operator ablate takes none; leave it out")
        }
        (_, Some(coeff), _) => Intervention::new(&set, &layers, Dose::Total(coeff), operator)?,
        (_, None, _) => bail!(
            "--coeff: expected a number for this operator, found none; for example --coeff 19, or --fraction 0.5"
        ),
    };
    Ok(Some(intervention.at(point).on(a.rows.clone())))
}

/// One direction ablated at every module.
fn everywhere(
    a: &flags::Steering,
    set: &DirectionSet,
    layers: &[usize],
    spec: &ModelSpec,
) -> Result<Intervention> {
    let ablate = a.operator == flags::Operator::Ablate && a.rows == Positions::All;
    let &[layer] = layers else {
        bail!(
            "--module everywhere: expected one layer, whose direction is ablated at every module, found --layers {}",
            a.layers.as_deref().unwrap_or_default()
        );
    };
    if !ablate {
        bail!(
            "--module everywhere: expected --operator ablate on all rows, found something else; an addition would be made anew at every module"
        );
    }
    Ok(Intervention::ablation_everywhere(set, layer, spec.layers)?)
}

/// Prompts on which steering is seen to do something.
const PROBED: usize = 4;

/// Sees that the intervention that was typed changes something on the first of `prompts`.
pub fn check_effect(
    a: &flags::Steering,
    host: &dyn HookedModel,
    interventions: &[Intervention],
    prompts: &[Vec<u32>],
    adapter: Option<&Adapter>,
) -> Result<()> {
    let wanted = match a.allow_no_effect {
        true => NoEffect::Allow,
        false => NoEffect::Refuse,
    };
    let few = &prompts[..prompts.len().min(PROBED)];
    for intervention in interventions {
        probe(host, intervention, few, adapter, 2)?
            .require(wanted)
            .map_err(|e| anyhow!("{e}; --allow-no-effect goes on all the same"))?;
    }
    Ok(())
}

/// The adapter that was typed, checked against the model.
pub fn adapter(directory: Option<&Path>, spec: &ModelSpec) -> Result<Option<Adapter>> {
    Ok(directory.map(|d| peft::load(d, spec)).transpose()?)
}

pub fn generate(a: &flags::Generate) -> Result<()> {
    let directory = hub::resolve(&a.model)?;
    let loading = a.loading.options()?;
    let prompts = match (&a.prompt, &a.prompts) {
        (Some(text), _) => vec![prompts::Prompt::Text(text.clone())],
        (None, Some(file)) => prompts::read(file)?,
        (None, None) => bail!("--prompt or --prompts: expected one of them, found neither"),
    };
    let llama = Llama::load(&directory, loading)?;
    let chat = Chat::load(&directory)?;
    let interventions: Vec<Intervention> =
        steering(&a.steering, llama.spec())?.into_iter().collect();
    let adapter = adapter(a.adapter.as_deref(), llama.spec())?;
    let sampling = match a.temperature {
        None => Sampling::Greedy,
        Some(temperature) => Sampling::Temperature {
            temperature,
            seed: a.seed,
        },
    };
    let how = Generation {
        interventions: &interventions,
        adapter: adapter.as_ref(),
        max_new_tokens: a.max_new_tokens,
        stop: &chat.stop,
        sampling,
        prefilled: None,
    };
    let ids = prompts
        .iter()
        .map(|p| p.ids(&chat))
        .collect::<reptune_recipes::Result<Vec<_>>>()?;
    check_effect(&a.steering, &llama, &interventions, &ids, adapter.as_ref())?;
    let bar = bar(ids.len(), "generate");
    let tokens = continue_prompts(&llama, &ids, &how, &mut |done| {
        bar.set_position(done as u64)
    })?;
    bar.finish_and_clear();
    for (prompt, tokens) in prompts.iter().zip(&tokens) {
        let text = chat.decode(tokens)?;
        if a.json {
            println!(
                "{}",
                json!({"prompt": prompt.json(), "text": text, "tokens": tokens})
            );
        } else {
            println!("{text}");
        }
    }
    Ok(())
}
