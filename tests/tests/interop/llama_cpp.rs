//! llama.cpp steers and tunes as we do: `tests/interop/llama_cpp_logits.py` asked it.
//!
//! llama.cpp steers the outputs of blocks 1 and up. Its `direction.N` is our layer N.

use super::{interop, ours, prompts, same, tensors};
use anyhow::Result;
use candle_core::Tensor;
use reptune_adapters::{Host, Intervention, LowRankUpdate, Operator, peft};
use reptune_tests::{Oracle, llama};
use std::collections::HashMap;

/// The prompts whose logits llama.cpp wrote.
const PROMPTS: usize = 2;
const STRENGTH: f64 = 3.;

fn theirs() -> Result<HashMap<String, Tensor>> {
    tensors(&interop("llama_cpp/logits.safetensors"))
}

fn check(case: &str, steering: &[Intervention], tuning: Option<&LowRankUpdate>) -> Result<()> {
    let host = llama("tiny-llama2")?;
    let logits = ours(&host, &prompts()?[..PROMPTS], steering, tuning)?;
    same(case, &logits, &theirs()?)
}

fn add(layers: &[usize], coeff: f64) -> Result<Intervention> {
    let set = Oracle::read("oracle-llama2.safetensors")?.directions()?;
    Ok(Intervention::new(&set, layers, coeff, Operator::Add)?)
}

#[test]
fn the_base_model_in_llama_cpp_computes_our_logits() -> Result<()> {
    check("base", &[], None)
}

#[test]
fn a_control_vector_in_llama_cpp_is_our_steering() -> Result<()> {
    // `Intervention` shares its coeff among the layers; llama.cpp adds to each.
    let each: Vec<_> = (1..4).map(|l| add(&[l], STRENGTH)).collect::<Result<_>>()?;
    check("control_vector", &each, None)?;
    check("control_vector_2", &[add(&[2], STRENGTH)?], None)
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
    let host = llama("tiny-llama2")?;
    same(
        "repeng",
        &ours(&host, &prompts()?[..PROMPTS], &each, None)?,
        &tensors(&interop("llama_cpp/repeng.safetensors"))?,
    )
}

#[test]
fn a_lora_in_llama_cpp_is_our_update() -> Result<()> {
    let host = llama("tiny-llama2")?;
    let mut update = peft::load(&interop("peft/plain"), host.spec())?;
    assert_eq!(update.sites.len(), 14, "all seven weights of two blocks");
    check("lora", &[], Some(&update))?;
    for low_rank in update.sites.values_mut() {
        low_rank.scale *= -0.5;
    }
    check("lora_half", &[], Some(&update))
}
