use super::*;

/// `MODEL_ARCH_NAMES` of the gguf package 0.19, without `llama`.
const ARCHITECTURES: &str = "afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bert \
    bitnet bloom chameleon chatglm clip codeshell cogvlm cohere2 command-r dbrx deci deepseek \
    deepseek2 deepseek2-ocr dots1 dream ernie4_5 ernie4_5-moe eurobert exaone exaone-moe exaone4 \
    falcon falcon-h1 gemma gemma-embedding gemma2 gemma3 gemma3n gemma4 glm-dsa glm4 glm4moe gpt-oss \
    gpt2 gptj gptneox granite granitehybrid granitemoe grok grovemoe hunyuan-dense hunyuan-moe \
    hunyuan_vl internlm2 jais jais2 jamba jina-bert-v2 jina-bert-v3 kimi-linear lfm2 lfm2moe llada \
    llada-moe llama-embed llama4 maincoder mamba mamba2 mimo2 minicpm minicpm3 minimax-m2 mistral3 \
    mistral4 modern-bert mpt nemotron nemotron_h nemotron_h_moe neo-bert nomic-bert nomic-bert-moe \
    olmo olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3 phimoe plamo plamo2 plamo3 plm \
    qwen qwen2 qwen2moe qwen2vl qwen3 qwen35 qwen35moe qwen3moe qwen3next qwen3vl qwen3vlmoe refact \
    rnd1 rwkv6 rwkv6qwen2 rwkv7 seed_oss smallthinker smollm3 stablelm starcoder starcoder2 step35 t5 \
    t5encoder wavtokenizer-dec xverse";

#[test]
fn architectures_of_llama_cpp_are_no_llama_and_names_say_nothing_certain() {
    for name in ARCHITECTURES.split_whitespace() {
        assert_eq!(
            hinted(name, Architecture::Llama),
            HintedModel::Other,
            "{name}"
        );
    }
    for name in [
        "Qwen2ForCausalLM",
        "gpt_neox",
        "Qwen/Qwen2.5-7B-Instruct",
        "DeepSeek-R1-Distill-Qwen-7B",
        "google/gemma-2-9b-it",
        "mixtral",
        "Llama-4-Scout-17B",
    ] {
        assert_eq!(
            hinted(name, Architecture::Llama),
            HintedModel::Other,
            "{name}"
        );
    }
    for name in ["", "llama", "LLaMA", "LlamaForCausalLM"] {
        assert_eq!(
            hinted(name, Architecture::Llama),
            HintedModel::Same,
            "{name}"
        );
    }
    for name in [
        "unknown",
        "llama-3.1",
        "mistral",
        "MistralForCausalLM",
        "meta-llama/Llama-3.1-8B-Instruct",
        "DeepSeek-R1-Distill-Llama-8B",
        "mistralai/Mistral-7B-Instruct-v0.3",
        "TinyLlama-1.1B",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "dolphin-2.9",
        "my steering run 3",
    ] {
        assert_eq!(
            hinted(name, Architecture::Llama),
            HintedModel::Unclear,
            "{name}"
        );
    }
}

#[test]
fn every_architecture_knows_its_own_names() {
    use Architecture::{Mistral, Qwen2, Qwen3};
    use HintedModel::{Other, Same, Unclear};
    for (model, hint, said) in [
        (Mistral, "llama", Same),
        (Mistral, "mistral", Same),
        (Mistral, "mistral3", Other),
        (Mistral, "mistralai/Mistral-7B-v0.1", Unclear),
        (Mistral, "qwen2", Other),
        (Qwen2, "qwen2", Same),
        (Qwen2, "Qwen2ForCausalLM", Same),
        (Qwen2, "Qwen/Qwen2.5-7B-Instruct", Unclear),
        (Qwen2, "DeepSeek-R1-Distill-Qwen-7B", Unclear),
        (Qwen2, "llama", Other),
        (Qwen2, "Meta-Llama-3-8B", Other),
        (Qwen2, "qwen3", Other),
        (Qwen2, "qwen2moe", Other),
        (Qwen3, "qwen3", Same),
        (Qwen3, "qwen2", Other),
        (Qwen3, "unknown", Unclear),
    ] {
        assert_eq!(hinted(hint, model), said, "{model}: {hint}");
    }
}
