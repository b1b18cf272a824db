//! llama.cpp steers and tunes as we do: `tests/interop/llama_cpp_logits.py` asked it.
//!
//! llama.cpp steers the outputs of blocks 1 and up. Its `direction.N` is our layer N.

use super::{interop, ours, prompts, same, tensors};
use anyhow::Result;
use candle_core::Tensor;
use reptune::model::gguf;
use reptune::{Llama, LoadOptions};
use reptune_adapters::lora::gguf as lora;
use reptune_adapters::steering::exchange::control_vector::{self, Length};
use reptune_adapters::{
    Adapter, Dose, HookedModel, Intervention, Operator, lora::peft, open_directions,
};
use reptune_recipes::{Chat, Message};
use reptune_tests::{Oracle, bits, fixture, llama};
use std::collections::HashMap;
use std::path::Path;

/// The prompts whose logits llama.cpp wrote.
const PROMPTS: usize = 2;
const STRENGTH: f64 = 3.;

fn theirs() -> Result<HashMap<String, Tensor>> {
    tensors(&interop("llama_cpp/logits.safetensors"))
}

fn check(case: &str, steering: &[Intervention], tuning: Option<&Adapter>) -> Result<()> {
    let llama = llama("tiny-llama2")?;
    let logits = ours(&llama, &prompts()?[..PROMPTS], steering, tuning)?;
    same(case, &logits, &theirs()?)
}

fn add(layers: &[usize], coeff: f64) -> Result<Intervention> {
    let set = Oracle::read("oracle-llama2.safetensors")?.directions()?;
    Ok(Intervention::new(
        &set,
        layers,
        Dose::Total(coeff),
        Operator::Add,
    )?)
}

#[test]
fn the_base_model_in_llama_cpp_computes_our_logits() -> Result<()> {
    check("base", &[], None)
}

/// Files that llama.cpp read are ours: what is written now must be them, byte for byte.
/// `REPTUNE_INTEROP=write` writes them anew, for llama.cpp to be asked again.
fn written(name: &str, write: impl Fn(&Path) -> reptune_adapters::Result<()>) -> Result<()> {
    let kept = interop("llama_cpp").join(name);
    if std::env::var("REPTUNE_INTEROP").is_ok_and(|v| v == "write") {
        write(&kept)?;
    }
    let room = tempfile::tempdir()?;
    let now = room.path().join(name);
    write(&now)?;
    assert!(
        std::fs::read(&now)? == std::fs::read(&kept)?,
        "{name} is not what llama.cpp read"
    );
    Ok(())
}

#[test]
fn the_files_that_llama_cpp_read_are_ours() -> Result<()> {
    let set = Oracle::read("oracle-llama2.safetensors")?.directions()?;
    let write = |p: &Path, layers: &[usize], length| control_vector::write(p, &set, layers, length);
    written("control-vector.gguf", |p| {
        write(p, &[1, 2, 3], Length::Unit)
    })?;
    // at strength 3 this is coeff 3 * 2 on layers 1 and 3
    written("dose.gguf", |p| {
        write(p, &[1, 3], Length::Dose(reptune_adapters::Dose::Total(2.)))
    })?;
    let spec = llama("tiny-llama2")?.spec().clone();
    let update = peft::load(&interop("peft/plain"), &spec)?;
    written("lora.gguf", |p| lora::write(p, &update, &spec))
}

#[test]
fn what_is_read_back_is_what_was_written() -> Result<()> {
    let llama = llama("tiny-llama2")?;
    let set = open_directions(&interop("llama_cpp/control-vector.gguf"))?;
    check(
        "control_vector",
        &[Intervention::new(
            &set,
            &[1, 2, 3],
            Dose::Total(3. * STRENGTH),
            Operator::Add,
        )?],
        None,
    )?;
    let set = open_directions(&interop("llama_cpp/dose.gguf"))?;
    check(
        "dose",
        &[Intervention::new(
            &set,
            &[1, 3],
            Dose::Strength(STRENGTH),
            Operator::Add,
        )?],
        None,
    )?;
    let set = open_directions(&interop("llama_cpp/repeng.gguf"))?;
    let layers: Vec<usize> = set.layers.keys().copied().collect();
    check(
        "repeng",
        &[Intervention::new(
            &set,
            &layers,
            Dose::Strength(STRENGTH),
            Operator::Add,
        )?],
        None,
    )?;
    let update = lora::read(&interop("llama_cpp/lora.gguf"), llama.spec())?;
    check("lora", &[], Some(&update))
}

/// The very file that llama.cpp ran, as a model of ours.
#[test]
fn the_gguf_that_llama_cpp_ran_is_the_model_that_it_was_written_from() -> Result<()> {
    let room = tempfile::tempdir()?;
    let imported = room.path().join("imported");
    let file = interop("llama_cpp/tiny-llama2.gguf");
    gguf::import(&file, &imported, &mut |_, _| {})?;
    let loaded = Llama::load(&imported, LoadOptions::default())?;
    let logits = ours(&loaded, &prompts()?[..PROMPTS], &[], None)?;
    same("base", &logits, &theirs()?)?;
    let original = ours(&llama("tiny-llama2")?, &prompts()?[..PROMPTS], &[], None)?;
    for (imported, original) in logits.iter().zip(&original) {
        assert!(bits(imported) == bits(original), "logits differ in bits");
    }
    let (original, imported) = (Chat::load(&fixture("tiny-llama2"))?, Chat::load(&imported)?);
    for text in ["[INST] Is it true? [/INST]", "ö\n\n 12</s>"] {
        assert_eq!(imported.encode(text)?, original.encode(text)?, "{text:?}");
    }
    let messages = Message::conversation("Be honest.", "Is it true?");
    assert_eq!(imported.prompt(&messages)?, original.prompt(&messages)?);
    Ok(())
}

#[test]
fn a_control_vector_in_llama_cpp_is_our_steering() -> Result<()> {
    // `Intervention` shares its coeff among the layers; llama.cpp adds to each.
    let each: Vec<_> = (1..4).map(|l| add(&[l], STRENGTH)).collect::<Result<_>>()?;
    check("control_vector", &each, None)?;
    check("control_vector_2", &[add(&[2], STRENGTH)?], None)?;
    check("dose", &[add(&[1, 3], 2. * STRENGTH)?], None)
}

/// A file of repeng's, in llama.cpp and in repeng's own way of steering.
#[test]
fn a_control_vector_of_repeng_is_our_steering() -> Result<()> {
    let norms = [(1, 1.), (2, 0.5), (3, 2.)];
    let each: Vec<_> = norms
        .iter()
        .map(|&(layer, norm)| add(&[layer], STRENGTH * norm))
        .collect::<Result<_>>()?;
    check("repeng", &each, None)?;
    let llama = llama("tiny-llama2")?;
    same(
        "repeng",
        &ours(&llama, &prompts()?[..PROMPTS], &each, None)?,
        &tensors(&interop("llama_cpp/repeng.safetensors"))?,
    )
}

#[test]
fn a_lora_in_llama_cpp_is_our_update() -> Result<()> {
    let llama = llama("tiny-llama2")?;
    let mut update = peft::load(&interop("peft/plain"), llama.spec())?;
    assert_eq!(update.modules.len(), 14, "all seven weights of two blocks");
    check("lora", &[], Some(&update))?;
    for adapter in update.modules.values_mut() {
        adapter.scale *= -0.5;
    }
    check("lora_half", &[], Some(&update))
}
