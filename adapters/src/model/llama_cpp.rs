//! How llama.cpp names and orders the weights of a model.
//!
//! In a Llama and a Mistral, which it calls a llama too, its rotary embedding pairs neighbouring
//! columns of a head where Hugging Face pairs column i with i + half. So its converter reorders
//! the rows of q and k and of their biases: row (h, k, j) of Hugging Face (head, half, place in
//! the half) is row (h, j, k) there. Only whole rows move, so quantized weights are not rounded
//! either. In a Qwen it pairs as Hugging Face does, and nothing moves.

use super::architecture::Architecture;
use super::spec::{ModelSpec, ModuleKind, TargetModule};

/// The name of an architecture.
pub fn architecture(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Llama | Architecture::Mistral => "llama",
        Architecture::Qwen2 => "qwen2",
        Architecture::Qwen3 => "qwen3",
    }
}

/// Name of the weight of a module, `blk.3.attn_q.weight`.
pub fn name(module: TargetModule) -> String {
    format!("blk.{}.{}.weight", module.layer, short(module.kind))
}

/// Name of the bias of a module, `blk.3.attn_q.bias`.
pub fn bias_name(module: TargetModule) -> String {
    format!("blk.{}.{}.bias", module.layer, short(module.kind))
}

/// The module of the weight called `name`.
pub fn module(name: &str) -> Option<TargetModule> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let weight = rest.strip_suffix(".weight")?;
    let kind = ModuleKind::ALL.into_iter().find(|p| short(*p) == weight)?;
    let layer = layer.parse().ok()?;
    Some(TargetModule { layer, kind }).filter(|module| self::name(*module) == name)
}

fn short(p: ModuleKind) -> &'static str {
    match p {
        ModuleKind::QProj => "attn_q",
        ModuleKind::KProj => "attn_k",
        ModuleKind::VProj => "attn_v",
        ModuleKind::OProj => "attn_output",
        ModuleKind::GateProj => "ffn_gate",
        ModuleKind::UpProj => "ffn_up",
        ModuleKind::DownProj => "ffn_down",
    }
}

/// Heads of a kind whose rows are reordered.
pub fn heads(p: ModuleKind, model: &ModelSpec) -> Option<usize> {
    match p {
        _ if architecture(model.architecture) != "llama" => None,
        ModuleKind::QProj => Some(model.heads),
        ModuleKind::KProj => Some(model.kv_heads),
        _ => None,
    }
}

/// Rows of Hugging Face in llama.cpp's order.
///
/// Shapes: `table` has `rows` rows of equal length, `rows` is a multiple of `2 * heads`.
pub fn to_llama_cpp<T: Copy>(table: &[T], rows: usize, heads: usize) -> Vec<T> {
    moved(table, rows, heads, |r, half| r % 2 * half + r / 2)
}

/// Rows of llama.cpp in Hugging Face's order.
///
/// Shapes: as in [`to_llama_cpp`].
pub fn from_llama_cpp<T: Copy>(table: &[T], rows: usize, heads: usize) -> Vec<T> {
    moved(table, rows, heads, |r, half| 2 * (r % half) + r / half)
}

/// Row r of every head is row `from(r, half)` of it in `table`.
fn moved<T: Copy>(
    table: &[T],
    rows: usize,
    heads: usize,
    from: impl Fn(usize, usize) -> usize,
) -> Vec<T> {
    let (row, width) = (table.len() / rows.max(1), rows / heads.max(1));
    let mut all = Vec::with_capacity(table.len());
    for head in 0..heads {
        for r in 0..width {
            let at = (head * width + from(r, width / 2)) * row;
            all.extend_from_slice(&table[at..at + row]);
        }
    }
    all
}

#[cfg(test)]
mod tests;
