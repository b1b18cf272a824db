//! A real, pre-trained chat Llama: SmolLM2-135M-Instruct in GGUF, as `tests/real/install` fetches it.

mod candle;

use crate::python;
use anyhow::{Context, Result};
use candle::QuantizedLlama;
use candle_core::{DType, Device, Tensor};
use reptune::model::uqff::WeightType;
use reptune::model::{ModelDir, Source, dequantize};
use reptune::quantize::{ErrorCompensation, QuantizedMerge, WeightTypes};
use reptune::runtime::Engine;
use reptune::{Llama, LoadOptions};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::steering::direction::{Direction, DirectionSet, Provenance};
use reptune_adapters::{Adapter, Dose, ForwardOptions, HookedModel, Intervention, Operator};
use reptune_recipes::capture::{CaptureLogits, CaptureRequest, capture};
use reptune_recipes::generate::{Generation, generate};
use reptune_recipes::{Chat, Message, merge};
use reptune_tests::{Walk, bits, flat, logits, marked, pick, random_update, whole};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The GGUF.
fn gguf() -> Result<PathBuf> {
    let path = std::env::var_os("REPTUNE_SMOLLM2").context(
        "REPTUNE_SMOLLM2 is not set; run `export REPTUNE_SMOLLM2=$(tests/real/install)`",
    )?;
    Ok(path.into())
}

/// The same weights in f32 as a full checkpoint, written once for all tests.
fn full() -> Result<&'static Path> {
    static FULL: OnceLock<PathBuf> = OnceLock::new();
    static WRITING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _writing = WRITING.lock();
    if let Some(path) = FULL.get() {
        return Ok(path);
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("smollm2");
    if out.exists() {
        std::fs::remove_dir_all(&out)?;
    }
    dequantize(&Source::open(&gguf()?)?, &out, DType::F32, &mut |_, _| {})?;
    Ok(FULL.get_or_init(|| out))
}

fn load(path: &Path) -> Result<Llama> {
    Ok(Llama::load(path, LoadOptions::default())?)
}

fn chat() -> Result<Chat> {
    Ok(Chat::load(&ModelDir::at(&gguf()?)?.directory)?)
}

/// Token ids of questions, each in a chat of its own.
fn asked(chat: &Chat, system: &str, questions: &[&str]) -> Result<Vec<Vec<u32>>> {
    let ids = |q: &&str| Ok(chat.prompt(&Message::conversation(system, q))?);
    questions.iter().map(ids).collect()
}

const QUESTIONS: [&str; 3] = [
    "What is the capital of France?",
    "Name three colours.",
    "Write one sentence about the sea.",
];

/// Logits (T, V) of a prompt alone.
fn said(
    model: &dyn HookedModel,
    ids: &[u32],
    interventions: &[Intervention],
    adapter: Option<&Adapter>,
) -> Result<Tensor> {
    let (tree, rows) = marked(&[ids.to_vec()], interventions);
    let options = ForwardOptions {
        interventions,
        adapter,
        ..ForwardOptions::default()
    };
    pick(logits(&whole(model, &tree, options)?), &rows[0])
}

fn greedy(model: &dyn HookedModel, chat: &Chat, ids: &[u32], tokens: usize) -> Result<Vec<u32>> {
    let how = Generation {
        max_new_tokens: tokens,
        stop: &chat.stop,
        ..Generation::default()
    };
    Ok(generate(model, &[ids.to_vec()], &how, &mut |_| {})?.remove(0))
}

/// Root of the mean square of the difference.
fn off(left: &Tensor, right: &Tensor) -> f64 {
    let pairs = flat(left).into_iter().zip(flat(right));
    let squares: Vec<f64> = pairs.map(|(l, r)| f64::from(l - r).powi(2)).collect();
    (squares.iter().sum::<f64>() / squares.len() as f64).sqrt()
}

#[derive(Deserialize)]
struct Reference {
    texts: Vec<ReferenceText>,
    chats: Vec<ReferenceChat>,
}

#[derive(Deserialize)]
struct ReferenceText {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct ReferenceChat {
    messages: Vec<Message>,
    ids: Vec<u32>,
}

#[test]
#[cfg_attr(not(smollm2), ignore = "needs REPTUNE_SMOLLM2, see tests/README.md")]
fn tokens_and_chats_are_those_of_transformers() -> Result<()> {
    let room = tempfile::tempdir()?;
    let out = room.path().join("tokens.json");
    python::run("real/tokens.py", [gguf()?, out.clone()])?;
    let reference: Reference = serde_json::from_slice(&std::fs::read(out)?)?;
    let chat = chat()?;
    assert_eq!(reference.texts.len(), 200);
    for ReferenceText { text, ids } in &reference.texts {
        assert_eq!(chat.encode(text)?, *ids, "{text:?}");
    }
    for ReferenceChat { messages, ids } in &reference.chats {
        assert_eq!(chat.prompt(messages)?, *ids, "{messages:?}");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(smollm2), ignore = "needs REPTUNE_SMOLLM2, see tests/README.md")]
fn logits_on_dequantized_weights_are_those_of_transformers() -> Result<()> {
    let (room, chat) = (tempfile::tempdir()?, chat()?);
    let prompts = asked(&chat, "", &QUESTIONS)?;
    let [asked, out] = ["prompts.json", "logits.safetensors"].map(|name| room.path().join(name));
    std::fs::write(&asked, serde_json::to_vec(&prompts)?)?;
    let arguments = [gguf()?, full()?.to_owned(), asked, out.clone()];
    python::run("real/logits.py", arguments)?;
    let theirs = candle_core::safetensors::load(&out, &Device::Cpu)?;
    let (llama, mut walk) = (load(full()?)?, Walk::within(2e-5));
    for (i, ids) in prompts.iter().enumerate() {
        let ours = said(&llama, ids, &[], None)?;
        walk.check(QUESTIONS[i], &ours, &theirs[&i.to_string()]);
    }
    walk.finish("SmolLM2, f32");
    Ok(())
}

/// Both round the inputs of every product to 8 bits. The last bits of the angles of later positions
/// differ, which turns some roundings over, and from there on a row differs by as much as rounding
/// does. The first rows are equal.
#[test]
#[cfg_attr(not(smollm2), ignore = "needs REPTUNE_SMOLLM2, see tests/README.md")]
fn the_quantized_block_is_candles() -> Result<()> {
    let (chat, theirs) = (chat()?, QuantizedLlama::load(&gguf()?)?);
    let (ours, exact) = (load(&gguf()?)?, load(full()?)?);
    let block = |model: &Llama, ids: &Vec<u32>| -> Result<Tensor> {
        let (tree, rows) = marked(std::slice::from_ref(ids), &[]);
        pick(
            &whole(model, &tree, ForwardOptions::default())?.residuals[&0],
            &rows[0],
        )
    };
    for (question, ids) in QUESTIONS.iter().zip(asked(&chat, "", &QUESTIONS)?) {
        let (a, b) = (block(&ours, &ids)?, theirs.first_block(&ids)?);
        let (apart, rounding) = (off(&a, &b), off(&b, &block(&exact, &ids)?));
        let first = off(&a.narrow(0, 0, 8)?, &b.narrow(0, 0, 8)?);
        println!("{question}: {first:.1e} and {apart:.1e} apart, {rounding:.1e} from f32");
        assert!(first < 1e-5 * rounding, "{question}: {first} of {rounding}");
        assert!(apart < rounding, "{question}: {apart} of {rounding}");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(smollm2), ignore = "needs REPTUNE_SMOLLM2, see tests/README.md")]
fn a_chat_is_answered_here_and_in_the_engine() -> Result<()> {
    let (chat, llama) = (chat()?, load(full()?)?);
    let engine = Engine::load(full()?, None)?;
    let prompts = asked(&chat, "", &QUESTIONS)?;
    let mut texts = Vec::new();
    for ids in &prompts {
        let ours = chat.decode(&greedy(&llama, &chat, ids, 24)?)?;
        assert_eq!(ours.trim(), engine.generate(ids, 24)?.trim());
        texts.push(ours);
    }
    assert_eq!(texts[0], "The capital of France is Paris.");
    Ok(())
}

/// The layer that is steered: the middle of the model.
const LAYER: usize = 12;

/// The direction from gloomy to cheerful at the last token of prompts, from personas alone.
fn cheerful(llama: &Llama, chat: &Chat) -> Result<DirectionSet> {
    let questions = [
        "How was your day?",
        "What do you think about winter?",
        "Tell me about your garden.",
        "What will tomorrow bring?",
    ];
    let personas = [
        [
            "You are cheerful and hopeful.",
            "You are gloomy and hopeless.",
        ],
        [
            "You love life and see joy everywhere.",
            "You hate life and see misery everywhere.",
        ],
    ];
    let mean = |side: usize| -> Result<Vec<f64>> {
        let mut sum = vec![0.; llama.spec().hidden];
        for persona in &personas {
            let prompts = asked(chat, persona[side], &questions)?;
            let wanted = CaptureRequest {
                layers: &[LAYER],
                last: Some(1),
                logits: CaptureLogits::None,
            };
            capture(llama, &prompts, &wanted, &mut |_, taken| {
                let row = flat(&taken.residuals[&LAYER]);
                sum.iter_mut()
                    .zip(row)
                    .for_each(|(s, x)| *s += f64::from(x));
                Ok(())
            })?;
        }
        Ok(sum)
    };
    let (positive, negative) = (mean(0)?, mean(1)?);
    let difference: Vec<f64> = positive.iter().zip(&negative).map(|(p, n)| p - n).collect();
    Ok(DirectionSet {
        layers: [(LAYER, Direction::new(&difference)?)].into(),
        provenance: Provenance::default(),
    })
}

#[test]
#[cfg_attr(not(smollm2), ignore = "needs REPTUNE_SMOLLM2, see tests/README.md")]
fn a_direction_from_personas_steers_its_mood() -> Result<()> {
    let (chat, llama) = (chat()?, load(full()?)?);
    let set = cheerful(&llama, &chat)?;
    let steer = |coeff: f64| Intervention::new(&set, &[LAYER], Dose::Coeff(coeff), Operator::Add);
    let mut ids = asked(&chat, "", &["What do you think about rain?"])?.remove(0);
    ids.extend(chat.encode("Rain is a")?);
    let token = |word: &str| Ok::<_, anyhow::Error>(chat.encode(word)?[0] as usize);
    let (warm, cold) = (token(" beautiful")?, token(" cruel")?);
    let mood = |interventions: &[Intervention]| -> Result<f32> {
        let all = said(&llama, &ids, interventions, None)?;
        let last: Vec<f32> = all.get(all.dim(0)? - 1)?.to_vec1()?;
        Ok(last[warm] - last[cold])
    };
    assert_eq!(
        bits(&said(&llama, &ids, &[steer(0.)?], None)?),
        bits(&said(&llama, &ids, &[], None)?),
        "coefficient 0 is the base"
    );
    let [minus, base, plus] = [-18., 0., 18.].map(|c| mood(&[steer(c)?]));
    let (minus, base, plus) = (minus?, base?, plus?);
    println!("beautiful - cruel: {minus:.2}, {base:.2}, {plus:.2}");
    assert!(
        plus > base + 1. && minus < base - 1.,
        "{minus} {base} {plus}"
    );
    Ok(())
}

#[test]
#[cfg_attr(not(smollm2), ignore = "needs REPTUNE_SMOLLM2, see tests/README.md")]
fn merged_files_are_answered_by_the_engine_as_here() -> Result<()> {
    let (room, chat, llama) = (tempfile::tempdir()?, chat()?, load(full()?)?);
    let kinds = [ModuleKind::VProj, ModuleKind::OProj];
    let update = random_update(llama.spec(), &[11, 12], &kinds, 5)?;
    let prompts = asked(&chat, "", &QUESTIONS)?;
    let out = room.path().join("full");
    merge::merge(full()?, &update, &out, &mut |_, _, _| {})?;
    let (merged, engine) = (load(&out)?, Engine::load(&out, None)?);
    let mut walk = Walk::within(2e-5);
    for ids in &prompts {
        let expected = said(&llama, ids, &[], Some(&update))?;
        assert!(
            off(&expected, &said(&llama, ids, &[], None)?) > 0.1,
            "it does something"
        );
        walk.check("merged", &said(&merged, ids, &[], None)?, &expected);
        walk.check("engine", &engine.logits(ids)?, &expected);
    }
    walk.finish("merged, f32");

    let (source, out) = (Source::open(&gguf()?)?, room.path().join("quantized"));
    let merging = QuantizedMerge {
        source: &source,
        update: &update,
        // ggml's types round the inputs too, each runtime a little differently
        types: WeightTypes::all(Some(WeightType::parse("afq8")?)),
        compensation: ErrorCompensation::None,
        calibration: &[],
    };
    merging.write(&out, &mut |_, _| ())?;
    let (ours, engine) = (load(&out)?, Engine::load(&out, None)?);
    for ids in &prompts {
        let (a, b) = (said(&ours, ids, &[], None)?, engine.logits(ids)?);
        let effect = off(&a, &said(&llama, ids, &[], None)?);
        println!("quantized: {:.1e} apart, effect {effect:.1e}", off(&a, &b));
        assert!(off(&a, &b) < 1e-4 * effect, "{} of {effect}", off(&a, &b));
    }
    Ok(())
}
