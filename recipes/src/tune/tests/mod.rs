//! Tests of tuning on the toy: what is built once, and the runs.

mod gradients;
mod groups;
mod reference;
mod refusals;
mod resume;
mod searched;

use super::objective::module_settings;
use super::*;
use crate::recipe::ModuleSettings;
use crate::toy::{Toy, directory, tiny};
use reptune_adapters::Direction;
use reptune_adapters::steering::direction::Provenance;
use std::collections::BTreeMap;
use std::path::Path;

/// The toy, its chat with a template that puts the letter right after the prompt
/// (its tokens are bytes), directions, and a dozen claims.
struct Setting {
    model: Toy,
    chat: Chat,
    directions: DirectionSet,
    train: Vec<Claim>,
    validation: Vec<Claim>,
}

const TEMPLATE: &str = "{% for m in messages %}{% if m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}";

fn setting() -> Result<Setting> {
    let room = tempfile::tempdir().expect("room");
    let source = directory("tests/fixtures/tiny-llama2");
    for name in ["tokenizer.json", "tokenizer_config.json", "config.json"] {
        std::fs::copy(source.join(name), room.path().join(name)).expect("a copy");
    }
    std::fs::write(room.path().join("chat_template.jinja"), TEMPLATE).expect("a template");
    let direction = |layer: usize| {
        let wave = (0..32).map(|i| (i as f64 * 1.7 + layer as f64).sin());
        Direction::new(&wave.collect::<Vec<_>>())
    };
    let directions = (0..4).map(|l| Ok((l, direction(l)?)));
    let claim = |i: usize| Claim {
        text: format!(
            "{} is {}",
            ["tea", "ice", "an owl"][i % 3],
            "hot red".repeat(i % 4)
        ),
        label: i.is_multiple_of(2),
        group: i.to_string(),
    };
    Ok(Setting {
        model: tiny(),
        chat: Chat::load(room.path())?,
        directions: DirectionSet {
            layers: directions.collect::<Result<BTreeMap<_, _>>>()?,
            provenance: Provenance::default(),
        },
        train: (0..8).map(claim).collect(),
        validation: (8..12).map(claim).collect(),
    })
}

/// A recipe whose `[tuning]` has these lines besides modes and layers 1 and 2.
fn recipe(tuning: &str) -> Recipe {
    let room = tempfile::tempdir().expect("room");
    let path = room.path().join("r.toml");
    std::fs::write(&path, text(tuning)).expect("a recipe");
    Recipe::read(&path).expect("a recipe that is right")
}

fn text(tuning: &str) -> String {
    let lines = format!("\n{tuning}");
    let of_all = lines.split("\n[").next().unwrap_or_default();
    let rate = match of_all.contains("learning_rate") {
        true => "",
        false => "learning_rate = 0.01\n",
    };
    let layers = match of_all.contains("\nlayers") {
        true => "",
        false => "layers = [1, 2]\n",
    };
    format!(
        "name = \"toy\"\nmodel = \"toy\"\nseed = 3\n\
         [behaviour]\nname = \"x\"\npositive = [\"p\"]\nnegative = [\"n\"]\n\
         [prompt]\nclaim = \"{{claim}}?\"\nlabels = [\"A\", \"B\"]\n\
         [data]\nclaims = {{ file = \"claims.csv\" }}\n\
         [steering]\nlayers = [1]\ncoeff = 1.0\n\
         [tuning]\nmodes = [\"in+ & truth\"]\n{layers}{rate}{tuning}\n"
    )
}

impl Setting {
    fn tuner<'a>(
        &'a self,
        model: &'a dyn HookedModel,
        recipe: &'a Recipe,
        mode: Mode,
    ) -> Result<Tuner<'a>> {
        Tuner::new(
            model,
            &self.chat,
            recipe,
            mode,
            &self.directions,
            &self.train,
            &self.validation,
        )
    }
}

/// Everything of an update, as bits.
fn bits(update: &Adapter) -> Result<Vec<(String, Vec<u32>)>> {
    let mut all = Vec::new();
    for (module, l) in &update.modules {
        for (name, factor) in l.factors() {
            let values: Vec<f32> = factor.flatten_all()?.to_vec1()?;
            let bits = values.into_iter().map(f32::to_bits).collect();
            all.push((format!("{module}.{name}"), bits));
        }
    }
    Ok(all)
}

/// Factors that are not at their start, where B is zero and A has no gradient.
fn stirred(tuner: &Tuner) -> Result<Adapter> {
    let mut update = tuner.fresh()?;
    for (i, adapter) in update.modules.values_mut().enumerate() {
        for (_, factor) in adapter.factors_mut() {
            let dims = factor.dims2()?;
            let wave = (0..dims.0 * dims.1).map(|x| 0.1 * ((x + 7 * i) as f32 * 0.9).sin());
            let data: Vec<f32> = wave.collect();
            *factor = Tensor::from_vec(data, dims, &candle_core::Device::Cpu)?;
        }
    }
    Ok(update)
}
