//! The whole method on a tiny model of every architecture: extract, steer, tune, cut off and resumed.

use anyhow::Result;
use candle_core::Device;
use reptune::session::Session;
use reptune::{Llama, LoadOptions};
use reptune_adapters::lora::peft;
use reptune_adapters::{
    DirectionSet, Dose, ForwardOptions, ForwardOutput, HookedModel, Intervention, KeyValueCache,
    ModelSpec, Operator, PrefixTree,
};
use reptune_recipes::extract::extract;
use reptune_recipes::generate::{Generation, generate};
use reptune_recipes::recipe::Mode;
use reptune_recipes::tune::Tuner;
use reptune_tests::{ModelFixture, OTHERS};
use std::cell::Cell;
use std::path::Path;

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

/// A recipe and a model with a template after which an answer is one token.
fn session(name: &str, room: &Path) -> Result<Session> {
    let model = room.join("model");
    std::fs::create_dir(&model)?;
    for entry in std::fs::read_dir(ModelFixture::of(name)?.path)? {
        let entry = entry?;
        std::fs::copy(entry.path(), model.join(entry.file_name()))?;
    }
    std::fs::write(model.join("chat_template.jinja"), TEMPLATE)?;
    let claims = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/honest-mini/claims.jsonl");
    let recipe = format!(
        r#"
        name = "whole way"
        model = {model:?}
        [behaviour]
        name = "honesty"
        positive = ["Be honest."]
        negative = ["Lie."]
        [prompt]
        system = "Say it."
        claim = "{{claim}}? A) True B) False"
        [data]
        claims = {{ file = {claims:?}, group = "fact" }}
        [extraction]
        keep = "all"
        pairs = 8
        [steering]
        layers = [1]
        coeff = 1.0
        [tuning]
        modes = ["in- & lie"]
        layers = [1, 2]
        rank = 2
        batch = 4
        epochs = 1
        learning_rate = 1e-2
        checkpoint_every = 2
        "#
    );
    let path = room.join("recipe.toml");
    std::fs::write(&path, recipe)?;
    let mut session = Session::open(&path, None, LoadOptions::default())?;
    session.items.train.truncate(16);
    session.items.validation.truncate(4);
    Ok(session)
}

/// A model that answers so many forwards and then fails.
struct Failing<'a> {
    model: &'a Llama,
    left: Cell<usize>,
}

impl HookedModel for Failing<'_> {
    fn spec(&self) -> &ModelSpec {
        self.model.spec()
    }

    fn device(&self) -> &Device {
        self.model.device()
    }

    fn forward(
        &self,
        tree: &PrefixTree,
        cache: &mut KeyValueCache,
        options: &ForwardOptions,
    ) -> reptune_adapters::Result<ForwardOutput> {
        let Some(left) = self.left.get().checked_sub(1) else {
            let off = std::io::Error::other("the lights are out");
            return Err(reptune_adapters::Error::read("model", off));
        };
        self.left.set(left);
        self.model.forward(tree, cache, options)
    }
}

fn tuner<'a>(
    session: &'a Session,
    model: &'a dyn HookedModel,
    set: &DirectionSet,
) -> Result<Tuner<'a>> {
    let (chat, recipe, mode) = (&session.chat, &session.recipe, Mode::InMinusLie);
    let (train, validation) = (&session.items.train, &session.items.validation);
    Ok(Tuner::new(
        model, chat, recipe, mode, set, train, validation,
    )?)
}

#[test]
fn every_architecture_goes_the_whole_way() -> Result<()> {
    for name in OTHERS {
        let room = tempfile::tempdir()?;
        let session = session(name, room.path())?;
        let (chat, recipe, train) = (&session.chat, &session.recipe, &session.items.train);
        let found = extract(&session.llama, chat, recipe, train, &mut |_, _| {})?;
        let set = found.directions;
        assert_eq!(set.layers.len(), 4, "{name}: a direction of every layer");

        let prompts = [chat.prompt(&reptune_recipes::Message::conversation("", "Is it?"))?];
        let dose = Dose::Total(set.natural_coeff(&[1], 2.)?);
        let steering = [Intervention::new(&set, &[1], dose, Operator::Add)?];
        let said = |interventions: &[Intervention]| {
            let how = Generation {
                interventions,
                max_new_tokens: 24,
                ..Generation::default()
            };
            generate(&session.llama, &prompts, &how, &mut |_| {})
        };
        assert_ne!(
            said(&[])?,
            said(&steering)?,
            "{name}: steering has an effect"
        );

        let bytes = |at: &str, cut: Option<usize>| -> Result<Vec<u8>> {
            let directory = room.path().join(at);
            std::fs::create_dir(&directory)?;
            let metrics = directory.join("metrics.jsonl");
            let whole = tuner(&session, &session.llama, &set)?;
            let update = match cut {
                None => whole.tune(whole.fresh()?, &metrics, &mut |_| {})?,
                Some(forwards) => {
                    let left = Cell::new(forwards);
                    let model = &session.llama;
                    let failing = Failing { model, left };
                    let cut = tuner(&session, &failing, &set)?;
                    let cut = cut.tune(cut.fresh()?, &metrics, &mut |_| {});
                    assert!(cut.is_err(), "{name}: it was not cut off");
                    whole.resume(&metrics, &mut |_| {})?
                }
            };
            peft::save(&directory.join("adapter"), &update, name)?;
            Ok(std::fs::read(
                directory.join("adapter/adapter_model.safetensors"),
            )?)
        };
        let (whole, resumed) = (bytes("whole", None)?, bytes("resumed", Some(5))?);
        assert!(whole == resumed, "{name}: resumed is another adapter");
    }
    Ok(())
}
