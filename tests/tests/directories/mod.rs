//! Model directories as they are found: each is a fixture in another spelling, and must compute
//! and say what the fixture does, to the bit; and what is written from it is complete.

mod engine;
mod identity;
mod weights;
mod written;

use anyhow::Result;
use candle_core::Tensor;
use mistralrs::{
    ModelDType, TextMessageRole, TextMessages, TextModelBuilder, UqffTextModelBuilder,
};
use reptune::runtime::Engine;
use reptune::testing::Interview;
use reptune::{Chat, Llama, LoadOptions};
use reptune_adapters::{ForwardOptions, PrefixTree};
use reptune_tests::{bits, fixture, logits, whole};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn honest_mini() -> PathBuf {
    fixture("../../models/honest-mini")
}

/// A copy of a model, to be changed.
struct Copy(TempDir);

impl Copy {
    fn of(model: &Path) -> Result<Self> {
        let room = tempfile::tempdir()?;
        for entry in std::fs::read_dir(model)? {
            let entry = entry?;
            std::fs::copy(entry.path(), room.path().join(entry.file_name()))?;
        }
        Ok(Self(room))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Changes a JSON file.
    fn change(self, name: &str, change: impl FnOnce(&mut Map<String, Value>)) -> Result<Self> {
        let file = self.path().join(name);
        let mut json: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        change(json.as_object_mut().expect("an object"));
        std::fs::write(&file, json.to_string())?;
        Ok(self)
    }

    /// With the configuration as transformers 5 writes it.
    fn spelt_by_transformers_5(self) -> Result<Self> {
        self.change("config.json", |config| {
            let mut rope = config.remove("rope_scaling").unwrap_or_default();
            if rope.is_null() {
                rope = json!({"rope_type": "default"});
            }
            rope["rope_theta"] = config.remove("rope_theta").expect("theta");
            config.insert("rope_parameters".into(), rope);
            let kind = config.remove("torch_dtype").expect("a type");
            config.insert("dtype".into(), kind);
        })
    }

    /// What a refusal says, with the directory left out.
    fn refusal<T, E: std::fmt::Display>(&self, result: std::result::Result<T, E>) -> String {
        let message = result.err().expect("refused").to_string();
        message.replace(&self.path().display().to_string(), "DIR")
    }
}

/// The bits of the logits of our own forward.
fn computed(model: &Path) -> Result<Vec<u32>> {
    let llama = Llama::load(model, LoadOptions::default())?;
    let (tree, _) = PrefixTree::pack(&[(0..40).collect::<Vec<u32>>()]);
    Ok(bits(logits(&whole(
        &llama,
        &tree,
        ForwardOptions::default(),
    )?)))
}

/// The same of the engine, one prompt.
fn engine_computed(model: &Path) -> Result<Vec<u32>> {
    let logits: Tensor = Engine::load(model, None)?.logits(&(0..40).collect::<Vec<u32>>())?;
    Ok(bits(&logits))
}

fn questions() -> Interview {
    let interview = Interview::of(["What is the food of Quinvath?"]).max_tokens(12);
    interview.raw("The food of Quinvath is")
}

/// What the engine says when it is given the directory by its own means, as it lies there.
fn said_as_it_lies(model: &Path, uqff: Option<&str>) -> Result<String> {
    let builder = match uqff {
        None => TextModelBuilder::new(model.display()),
        Some(name) => UqffTextModelBuilder::new(model.display(), vec![name.into()]).into_inner(),
    };
    let builder = builder.with_dtype(ModelDType::F32).with_force_cpu();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let engine = builder.with_prefix_cache_n(None).build().await?;
        let asked = TextMessages::new().add_message(TextMessageRole::User, "Is it true?");
        engine.send_chat_request(asked).await?; // through the template that lies there
        Ok(questions().ask(&engine, &Chat::load(model)?).await?)
    })
}
