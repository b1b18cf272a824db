//! The server as its clients meet it, over real connections.

mod answers;
mod chats;
mod client;
mod command;
mod hostile;

use client::Running;
use reptune::model::{ModelConfig, model_spec};
use reptune::serve::{Limits, Models, Server};
use reptune::steered::Variant;
use reptune::store::Store;
use reptune::{Llama, LoadOptions, Steering};
use reptune_adapters::steering::direction::{Direction, DirectionSet, Provenance};
use reptune_adapters::{
    Adapter, Dose, HookedModel, Intervention, LoraInit, ModuleKind, Operator, lora::peft,
};
use reptune_recipes::generate::{Generation, generate};
use reptune_recipes::{Chat, Message};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const LAYERS: [usize; 2] = [1, 2];
const COEFF: f64 = 60.;

fn mini() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/honest-mini")
}

/// A direction file for the mini-Llama: any direction changes what it says.
fn directions(room: &Path) -> PathBuf {
    let spec = model_spec(&ModelConfig::read(&mini()).expect("a Llama"), &mini()).expect("a spec");
    let wave = |l: usize| -> Vec<f64> {
        let at = |i: usize| ((i * (7 + l)) as f64 * 0.37).sin();
        (0..spec.hidden).map(at).collect()
    };
    let layers = (0..spec.layers).map(|l| (l, Direction::new(&wave(l)).expect("not zero")));
    let set = DirectionSet {
        layers: layers.collect(),
        provenance: Provenance {
            model: "honest-mini".into(),
            model_fingerprint: spec.fingerprint.clone(),
            model_layers: spec.layers,
            ..Provenance::default()
        },
    };
    let file = room.join("waves.safetensors");
    set.save(&file).expect("saved");
    file
}

/// An adapter that changes what the mini-Llama says.
fn adapter(room: &Path) -> PathBuf {
    let spec = model_spec(&ModelConfig::read(&mini()).expect("a Llama"), &mini()).expect("a spec");
    let mut update = Adapter::init(
        &spec,
        &LoraInit {
            layers: &[2, 3],
            kinds: &ModuleKind::ALL,
            rank: 4,
            alpha: 8.,
            seed: 1,
        },
    )
    .expect("fits");
    for adapter in update.modules.values_mut() {
        let (o, r) = adapter.b.dims2().expect("a matrix");
        let b: Vec<f32> = (0..o * r).map(|i| 1.5 * (i as f32 * 1.7).sin()).collect();
        adapter.b = candle_core::Tensor::from_vec(b, (o, r), &candle_core::Device::Cpu).expect("b");
    }
    let directory = room.join("adapter");
    peft::save(&directory, &update, "honest-mini").expect("saved");
    directory
}

/// A server with `base`, the steered `waves`, the `tuned`, and `both`.
fn running(limits: Limits) -> (TempDir, Running) {
    let room = tempfile::tempdir().expect("a room");
    let (file, adapter) = (directions(room.path()), adapter(room.path()));
    let steering = Steering::from_file(&file).expect("directions");
    let steering = steering.layers(LAYERS).total(COEFF);
    let steered = Variant {
        steering: Some(steering),
        ..Variant::default()
    };
    let tuned = Variant {
        adapter: Some(adapter),
        ..Variant::default()
    };
    let both = Variant {
        adapter: tuned.adapter.clone(),
        ..steered.clone()
    };
    let variants = vec![
        ("base".to_owned(), Variant::default()),
        ("waves".to_owned(), steered),
        ("tuned".to_owned(), tuned),
        ("both".to_owned(), both),
    ];
    let cache = Store::at(room.path().join("cache")).expect("a cache");
    let running = Running::start(async move {
        let models = Models::load(mini(), variants, cache, |_, _| {}).await;
        Server::new(models.expect("loaded"), limits)
    });
    (room, running)
}

fn quick() -> Limits {
    Limits {
        body: 10_000,
        patience: Duration::from_millis(300),
        drain: Duration::from_secs(1),
    }
}

/// What our own forward says, by model of [`running`].
struct Ours {
    llama: Llama,
    chat: Chat,
    update: Adapter,
    set: DirectionSet,
}

impl Ours {
    fn of(room: &TempDir) -> Self {
        let llama = Llama::load(&mini(), LoadOptions::default()).expect("loads");
        let update = peft::load(&room.path().join("adapter"), llama.spec()).expect("an adapter");
        Self {
            chat: Chat::load(&mini()).expect("a template"),
            set: DirectionSet::load(&room.path().join("waves.safetensors")).expect("directions"),
            update,
            llama,
        }
    }

    fn say(&self, model: &str, coeff: f64, ids: Vec<u32>, tokens: usize) -> String {
        let steered =
            Intervention::new(&self.set, &LAYERS, Dose::Total(coeff), Operator::Add).expect("fits");
        let steered = [steered];
        let how = Generation {
            interventions: if matches!(model, "waves" | "both") {
                &steered
            } else {
                &[]
            },
            adapter: matches!(model, "tuned" | "both").then_some(&self.update),
            max_new_tokens: tokens,
            stop: &self.chat.stop,
            ..Generation::default()
        };
        let tokens = generate(&self.llama, &[ids], &how, &mut |_| {}).expect("generates");
        // mistral.rs leaves out a blank at the beginning
        let text = self.chat.decode(&tokens[0]).expect("text");
        text.trim_start().to_owned()
    }

    fn answer(&self, model: &str, coeff: f64, question: &str, tokens: usize) -> String {
        let messages = Message::conversation("", question);
        let ids = self.chat.prompt(&messages).expect("ids");
        self.say(model, coeff, ids, tokens)
    }

    fn complete(&self, model: &str, coeff: f64, text: &str, tokens: usize) -> String {
        self.say(model, coeff, self.chat.encode(text).expect("ids"), tokens)
    }
}
