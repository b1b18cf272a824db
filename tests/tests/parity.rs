//! Parity with torch, transformers and peft on the honest mini-Llama: a whole
//! extraction, a steered forward and twenty steps of every mode.
//!
//! `tests/parity/make` wrote what is expected. Each side goes its own way from claims
//! to numbers; ours gives the other only what comes of its random numbers, the claims,
//! the order of the batches and the first factors.

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use reptune::LoadOptions;
use reptune::session::Session;
use reptune_adapters::files;
use reptune_adapters::formats::tables::{self, Table};
use reptune_adapters::{
    Adapter, Dose, ForwardOptions, HookedModel, Intervention, KeyValueCache, LoraInit, Operator,
    lora::peft,
};
use reptune_recipes::extract::{self, Extracted};
use reptune_recipes::recipe::Mode;
use reptune_recipes::tune::{Metrics, Tuner};
use reptune_recipes::{Message, data::claim_question};
use reptune_tests::{Walk, device, logits, marked, tolerance};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const MODEL: &str = "models/honest-mini/model.safetensors";

/// Claims that are tuned on: twenty steps of four.
const TUNED: usize = 80;
const STEPS: usize = 20;
/// Of these, prompts that are steered.
const STEERED: usize = 4;

/// Least cosine of a direction.
const DIRECTION: f64 = 0.99999;
/// Largest difference of a step's loss, as a share of it.
const LOSS: f64 = 1e-3;
/// Least cosine of a final delta.
const DELTA: f64 = 0.999;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn directory() -> PathBuf {
    root().join("tests/parity")
}

fn session() -> Result<Session> {
    let recipe = directory().join("recipe.toml");
    let options = LoadOptions {
        device: device()?,
        ..LoadOptions::default()
    };
    Ok(Session::open(&recipe, None, options)?)
}

fn extracted(session: &Session) -> Result<Extracted> {
    let claims = &session.items.train;
    Ok(extract::extract(
        &session.llama,
        &session.chat,
        &session.recipe,
        claims,
        &mut |_, _| {},
    )?)
}

/// Token ids of the persona-free prompts that are tuned on.
fn prompts(session: &Session) -> Result<Vec<Vec<u32>>> {
    let conversations = conversations(session);
    let ids = conversations.iter().map(|c| session.chat.prompt(c));
    Ok(ids.collect::<reptune_recipes::Result<_>>()?)
}

fn conversations(session: &Session) -> Vec<Vec<Message>> {
    let recipe = &session.recipe;
    let claims = session.items.train[..TUNED].iter();
    claims
        .map(|c| Message::conversation(&recipe.prompt.system, &claim_question(recipe, c).text))
        .collect()
}

/// What the script cannot know by itself; and the ids of prompts, for it to compare.
fn inputs(session: &Session) -> Result<Value> {
    let claims = session.items.train.iter().map(|c| json!([c.text, c.label]));
    let conversations = conversations(session);
    let letters = session.recipe.prompt.labels.iter();
    let letters = letters.map(|l| session.chat.label_token(&conversations[0], l));
    let mut order: Vec<usize> = (0..TUNED).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(session.recipe.seed));
    Ok(json!({
        "claims": claims.collect::<Vec<_>>(),
        "batches": order.chunks(session.recipe.tuning.batch).collect::<Vec<_>>(),
        "letters": letters.collect::<reptune_recipes::Result<Vec<_>>>()?,
        "prompts": prompts(session)?,
    }))
}

#[test]
#[ignore = "writes tests/parity/inputs.json and tests/parity/adapter; tests/parity/make calls it"]
fn write_inputs() -> Result<()> {
    let session = session()?;
    let path = directory().join("inputs.json");
    let text = inputs(&session)?.to_string();
    files::write_atomically(&path, |w| writeln!(w, "{text}"))?;
    let t = &session.recipe.tuning;
    let spec = session.llama.spec();
    let seed = session.recipe.seed;
    let update = Adapter::init(
        spec,
        &LoraInit {
            layers: &t.layers,
            kinds: &t.target_modules,
            rank: t.rank,
            alpha: t.alpha,
            seed,
        },
    )?;
    peft::save(&directory().join("adapter"), &update, "honest-mini")?;
    Ok(())
}

/// What torch says.
struct Expected {
    /// By path from the root: the SHA-256 of every file it was made from.
    made_from: BTreeMap<String, String>,
    tables: BTreeMap<String, Table>,
}

impl Expected {
    /// Reads `parity.safetensors`, and refuses it if it is not of today's files.
    fn read() -> Result<Self> {
        let path = directory().join("parity.safetensors");
        let (tables, metadata) = tables::read_tables(&path)?;
        let made_from = metadata.get("made_from").context("made_from")?;
        let made_from: Value = serde_json::from_str(made_from)?;
        let expected = Self {
            made_from: serde_json::from_value(made_from["files"].clone())?,
            tables,
        };
        expected.is_of(&root())?;
        Ok(expected)
    }

    fn is_of(&self, root: &Path) -> Result<()> {
        ensure!(
            self.made_from.contains_key(MODEL),
            "parity.safetensors does not say of which {MODEL} it was made; run tests/parity/make"
        );
        for (file, then) in &self.made_from {
            let now = files::sha256([files::read(&root.join(file))?.as_slice()]);
            ensure!(
                *then == now,
                "tests/parity/parity.safetensors was made from another {file}: its SHA-256 was \
                 {then}, is {now}; run tests/parity/make and commit what it writes"
            );
        }
        Ok(())
    }

    fn get(&self, name: &str) -> Result<&Table> {
        let table = self.tables.get(name);
        table.with_context(|| format!("parity.safetensors has no {name}"))
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let table = self.get(name)?;
        Ok(Tensor::from_vec(
            table.data.clone(),
            table.shape.as_slice(),
            &Device::Cpu,
        )?)
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let products = a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y));
    products.sum()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// How far `ours` is from `expected`, as a share of it.
fn relative(ours: f64, expected: f64) -> f64 {
    (ours - expected).abs() / expected.abs()
}

#[test]
fn what_torch_says_is_of_these_inputs() -> Result<()> {
    let mut expected = Expected::read()?;
    let written = files::read(&directory().join("inputs.json"))?;
    let written: Value = serde_json::from_slice(&written)?;
    assert!(
        written == inputs(&session()?)?,
        "claims, batches or prompts are no longer those of tests/parity/inputs.json; \
         run tests/parity/make and commit what it writes"
    );
    expected.made_from.insert(MODEL.into(), "another".into());
    let message = expected.is_of(&root()).expect_err("another").to_string();
    assert!(
        message.contains(MODEL) && message.contains("another,") && message.contains("parity/make"),
        "{message}"
    );
    Ok(())
}

#[test]
fn directions_of_all_layers_are_those_of_torch() -> Result<()> {
    let (expected, session) = (Expected::read()?, session()?);
    let Extracted { directions, .. } = extracted(&session)?;
    let provenance = &directions.provenance;
    let pairs = [provenance.pairs_captured, provenance.pairs].map(|n| n as f32);
    assert_eq!(expected.get("pairs")?.data, pairs, "pairs asked and kept");
    let (mut worst, mut furthest) = (1f64, 0f64);
    assert_eq!(directions.layers.len(), session.llama.spec().layers);
    for (layer, direction) in &directions.layers {
        let found = cosine(
            &direction.unit,
            &expected.get(&format!("direction.{layer}"))?.data,
        );
        assert!(
            found >= DIRECTION,
            "direction of layer {layer}: cosine {found}"
        );
        worst = worst.min(found);
        let norms = [
            ("norm", direction.norm),
            ("residual_norm", provenance.residual_norms[layer]),
        ];
        for (name, norm) in norms {
            let theirs = f64::from(expected.get(&format!("{name}.{layer}"))?.data[0]);
            let off = relative(norm, theirs);
            let allowed = f64::from(tolerance(DType::F32));
            assert!(
                off <= allowed,
                "{name} of layer {layer}: {norm}, expected {theirs}"
            );
            furthest = furthest.max(off);
        }
    }
    println!(
        "directions: {} of {} pairs, least cosine 1 - {:.1e}, norms off by {furthest:.1e} at most",
        pairs[1],
        pairs[0],
        1. - worst
    );
    Ok(())
}

#[test]
fn logits_of_a_steered_forward_are_those_of_a_hook() -> Result<()> {
    let (expected, session) = (Expected::read()?, session()?);
    let directions = extracted(&session)?.directions;
    let steering = &session.recipe.steering;
    let coeff = directions.natural_coeff(&steering.layers, steering.fractions[0])?;
    let steer = Intervention::new(
        &directions,
        &steering.layers,
        Dose::Total(coeff),
        Operator::Add,
    )?;
    let mut walk = Walk::default();
    for (name, interventions) in [("base", vec![]), ("steered", vec![steer])] {
        let (tree, rows) = marked(&prompts(&session)?[..STEERED], &interventions);
        let last: Vec<u32> = rows.iter().map(|r| r[r.len() - 1]).collect();
        let request = ForwardOptions {
            interventions: &interventions,
            logits: &last,
            ..ForwardOptions::default()
        };
        let pass = session
            .llama
            .forward(&tree, &mut KeyValueCache::none(), &request)?;
        walk.check(
            name,
            logits(&pass),
            &expected.tensor(&format!("{name}.logits"))?,
        );
    }
    walk.finish(&format!("steered by {coeff:.3}"));
    Ok(())
}

#[test]
fn twenty_steps_of_every_mode_are_those_of_torch_and_peft() -> Result<()> {
    let (expected, session) = (Expected::read()?, session()?);
    let directions = extracted(&session)?.directions;
    let items = &session.items;
    let start = peft::load(&directory().join("adapter"), session.llama.spec())?;
    for mode in Mode::ALL {
        let tuner = Tuner::new(
            &session.llama,
            &session.chat,
            &session.recipe,
            mode,
            &directions,
            &items.train[..TUNED],
            &items.validation[..1],
        )?;
        assert_eq!(tuner.steps(), STEPS);
        let scratch = tempfile::tempdir()?;
        let mut steps: Vec<Metrics> = Vec::new();
        let metrics = scratch.path().join("metrics.jsonl");
        let tuned = tuner.tune(start.clone(), &metrics, &mut |m| steps.push(m.clone()))?;
        let token: Vec<f64> = steps
            .iter()
            .map(|m| m.loss("token").unwrap_or(f64::NAN))
            .collect();
        let mut losses = vec![("token", token)];
        if mode.losses().0.is_some() {
            let of_rows = steps.iter().filter_map(|m| m.loss("representation"));
            losses.push(("representation", of_rows.collect()));
        }
        let mut report = format!("{mode}:");
        for (name, ours) in losses {
            let theirs = &expected.get(&format!("{mode}.{name}_loss"))?.data;
            assert_eq!(
                (ours.len(), theirs.len()),
                (STEPS, STEPS),
                "{mode}: {name} losses"
            );
            let mut worst = 0f64;
            for (step, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                let off = relative(*ours, f64::from(*theirs));
                assert!(
                    off <= LOSS,
                    "{mode}, step {}: {name} loss {ours}, expected {theirs}",
                    step + 1
                );
                worst = worst.max(off);
            }
            report += &format!(" {name} loss off by {worst:.1e},");
        }
        let (mut worst, mut longer) = (1f64, 0f64);
        for (module, adapter) in &tuned.modules {
            let factor = |letter| expected.tensor(&format!("{mode}.{module}.lora_{letter}"));
            let theirs = (factor("B")?.matmul(&factor("A")?)? * adapter.scale)?;
            let values = |t: Tensor| t.flatten_all()?.to_vec1::<f32>();
            let (ours, theirs) = (values(adapter.delta()?)?, values(theirs)?);
            let found = cosine(&ours, &theirs);
            assert!(found >= DELTA, "{mode}: delta of {module}: cosine {found}");
            // A cosine does not see a length.
            let off = relative(dot(&ours, &ours).sqrt(), dot(&theirs, &theirs).sqrt());
            assert!(
                off <= LOSS,
                "{mode}: delta of {module}: length off by {off}"
            );
            (worst, longer) = (worst.min(found), longer.max(off));
        }
        assert_eq!(tuned.modules.len(), start.modules.len());
        println!(
            "{report} deltas: least cosine 1 - {:.1e}, length off by {longer:.1e}",
            1. - worst
        );
    }
    Ok(())
}
