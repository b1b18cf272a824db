//! Which model a file of another program is for, by the few words that it says.
//!
//! `controlvector.model_hint` is the architecture in the names of llama.cpp or Hugging Face, the
//! name of a model, or `unknown`. Nothing reads it there, so it is no proof; only the name of
//! another architecture is.

use crate::model::{Architecture, llama_cpp};

/// What a hint says of a model's architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HintedModel {
    /// This one, or nothing.
    Same,
    /// A name that says nothing certain.
    Unclear,
    /// Another architecture.
    Other,
}

/// How the names of architectures other than Llama begin, in small letters and digits alone.
const OTHERS: &str = "afmoe apertus arctic arwkv baichuan bailing bitnet bloom chameleon chatglm \
    codegen codeshell cogvlm cohere commandr dbrx deepseek ernie4 eurobert exaone falcon gemma glm4 \
    gpt2 gptj gptneox gptoss granite grovemoe hunyuan internlm jais jamba jinabert kimilinear lfm2 \
    llada llama4 llamaembed maincoder mamba mimo2 minicpm minimax mixtral modernbert mpt nemotron \
    neobert nomicbert olmo openelm paddleocr pangu persimmon phi2 phi3 phimoe plamo qwen refact rwkv \
    seedoss smallthinker smollm3 stablelm starcoder t5encoder wavtokenizer xverse";

/// Names of other architectures that are the beginnings of other words, too.
const WHOLE: [&str; 25] = [
    "arcee",
    "bert",
    "clip",
    "deci",
    "dots1",
    "dream",
    "glmdsa",
    "grok",
    "mistral3",
    "mistral4",
    "opt",
    "orion",
    "phi",
    "plm",
    "qwen2moe",
    "qwen2vl",
    "qwen3moe",
    "qwen3next",
    "qwen3vl",
    "qwen3vlmoe",
    "qwen35",
    "qwen35moe",
    "rnd1",
    "step35",
    "t5",
];

pub(super) fn hinted(hint: &str, model: Architecture) -> HintedModel {
    use Architecture::{Llama, Mistral, Qwen2, Qwen3};
    let plain = |text: &str| -> String {
        let kept = text.chars().filter(char::is_ascii_alphanumeric);
        kept.map(|c| c.to_ascii_lowercase()).collect()
    };
    let whole = plain(hint);
    // llama.cpp calls a Mistral a Llama.
    let names = [model.model_type(), llama_cpp::architecture(model), ""];
    if names.contains(&whole.as_str()) || whole == model.class().to_lowercase() {
        return HintedModel::Same;
    }
    let begins = |text: &str| {
        let mut others = OTHERS.split_whitespace();
        let llama = matches!(model, Qwen2 | Qwen3) && text.contains("llama");
        llama || others.any(|other| text.starts_with(other))
    };
    // The name of a distilled model may name another, too.
    let has = |name: &str| whole.contains(name);
    let ours = match model {
        Llama | Mistral if whole.starts_with("llama4") || whole.starts_with("llamaembed") => false,
        Llama | Mistral => has("llama") || has("mistral"),
        Qwen2 => has("qwen") && !has("qwen3"),
        Qwen3 => has("qwen") && !has("qwen2"),
    };
    let mut words = hint.split(|c: char| !c.is_ascii_alphanumeric());
    let other = begins(&whole) || words.any(|word| begins(&plain(word)));
    match WHOLE.contains(&whole.as_str()) || other && !ours {
        true => HintedModel::Other,
        false => HintedModel::Unclear,
    }
}

#[cfg(test)]
mod tests;
