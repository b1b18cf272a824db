//! Rank and scale of each module in `adapter_config.json`; refuses adapters that are not
//! plain LoRA.

use crate::error::{Error, Result};
use crate::files;
use regex::{Regex, RegexBuilder};
use serde_json::Value;
use std::path::Path;

pub(super) const CONFIG: &str = "adapter_config.json";

/// Bytes that one pattern may compile to: a hundred times what a long module path takes.
const PATTERN_SIZE: usize = 1 << 20;

/// Ranks and scales by module path, such as `model.layers.7.self_attn.o_proj`.
#[derive(Debug)]
pub(super) struct Config {
    rank: usize,
    alpha: f64,
    rank_pattern: Vec<(Regex, usize)>,
    alpha_pattern: Vec<(Regex, f64)>,
    stabilised: bool,
}

impl Config {
    /// Reads `path`. A key that is left out has PEFT's default: rank 8, alpha 8.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let config: Value = serde_json::from_slice(&files::read(path)?).map_err(|e| {
            let (place, expected) = (format!("line {}", e.line()), "JSON with finite numbers");
            let hint = "save the adapter again";
            Error::content(path, place, expected, e.to_string(), hint).caused_by(e)
        })?;
        refuse(path, &config)?;
        let eight = Value::from(8);
        let or_eight = |key: &str| config.get(key).unwrap_or(&eight);
        let stabilised = match &config["use_rslora"] {
            Value::Null => false,
            Value::Bool(on) => *on,
            other => return Err(wrong(path, "use_rslora", "true or false", other)),
        };
        Ok(Self {
            rank: rank(path, "r", or_eight("r"))?,
            alpha: alpha(path, "lora_alpha", or_eight("lora_alpha"))?,
            rank_pattern: patterns(path, "rank_pattern", &config, rank)?,
            alpha_pattern: patterns(path, "alpha_pattern", &config, alpha)?,
            stabilised,
        })
    }

    /// The rank of a module.
    pub(super) fn rank(&self, module: &str) -> usize {
        first(&self.rank_pattern, module).unwrap_or(self.rank)
    }

    /// `alpha / rank` of a module, or `alpha / sqrt(rank)` of a rank-stabilised adapter.
    pub(super) fn scale(&self, module: &str) -> f64 {
        let alpha = first(&self.alpha_pattern, module).unwrap_or(self.alpha);
        let rank = self.rank(module) as f64;
        alpha / if self.stabilised { rank.sqrt() } else { rank }
    }
}

/// The value of the first pattern that matches.
fn first<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    let found = patterns.iter().find(|(p, _)| p.is_match(module));
    found.map(|(_, value)| *value)
}

fn wrong(path: &Path, key: &str, expected: &str, found: &Value) -> Error {
    let (place, hint) = (format!("key `{key}`"), "save the adapter again");
    Error::content(path, place, expected, found.to_string(), hint)
}

fn rank(path: &Path, key: &str, value: &Value) -> Result<usize> {
    let rank = value.as_u64().and_then(|r| usize::try_from(r).ok());
    rank.filter(|r| *r > 0)
        .ok_or_else(|| wrong(path, key, "a positive whole number", value))
}

fn alpha(path: &Path, key: &str, value: &Value) -> Result<f64> {
    let alpha = value.as_f64().filter(|a| a.is_finite());
    alpha.ok_or_else(|| wrong(path, key, "a finite number", value))
}

/// The patterns of `key`, in their order, with their values as `take` reads them.
fn patterns<T>(
    path: &Path,
    key: &str,
    config: &Value,
    take: impl Fn(&Path, &str, &Value) -> Result<T>,
) -> Result<Vec<(Regex, T)>> {
    let entries = match &config[key] {
        Value::Null => return Ok(Vec::new()),
        Value::Object(entries) => entries,
        other => return Err(wrong(path, key, "patterns and numbers", other)),
    };
    let read = |(pattern, value): (&String, &Value)| {
        let value = take(path, &format!("{key}.{pattern}"), value)?;
        Ok((compile(path, key, pattern)?, value))
    };
    entries.iter().map(read).collect()
}

/// A pattern as PEFT matches it: against a whole module path, or its end after a dot.
///
/// PEFT uses Python's. What only Python has (look-around, back references) does not compile
/// here; a set inside a set compiles in both, but means something else.
fn compile(path: &Path, key: &str, pattern: &str) -> Result<Regex> {
    let unsupported = |reason: &str| {
        let what = format!("{}: the pattern `{pattern}` of `{key}`", path.display());
        let reason = format!("{reason}; name the modules by their paths instead");
        Error::unsupported(what, reason)
    };
    if nests(pattern) {
        return Err(unsupported("it has a set inside a set"));
    }
    let build = |text: &str| RegexBuilder::new(text).size_limit(PATTERN_SIZE).build();
    // Alone first: `a)|(b` must not close our own bracket.
    let alone = build(pattern);
    let whole = alone.and_then(|_| build(&format!(r"^(?:(?:.*\.)?(?:{pattern}))$")));
    whole.map_err(|e| {
        let reason = e.to_string();
        // The last line says what is wrong, the lines before it show where.
        let last = reason.lines().last().unwrap_or_default();
        unsupported(last.trim_start_matches("error: "))
    })
}

/// Whether a `[set]` has something in it that Rust reads as another set or as an operation
/// on sets, and Python as plain characters.
fn nests(pattern: &str) -> bool {
    let (mut inside, mut escaped, mut last) = (false, false, ' ');
    for c in pattern.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' if inside => return true,
            '[' => inside = true,
            ']' => inside = false,
            '&' | '-' | '~' if inside && last == c => return true,
            _ => {}
        }
        last = c;
    }
    false
}

/// Refuses every kind of adapter whose delta is not `scale * B A` on linear weights.
fn refuse(path: &Path, config: &Value) -> Result<()> {
    let kind = &config["peft_type"];
    if kind != "LORA" {
        let (found, hint) = (kind.to_string(), "only LoRA adapters are supported");
        let place = "key `peft_type`";
        return Err(Error::content(path, place, "\"LORA\"", found, hint));
    }
    let refused = |what: String, reason: String| {
        let what = format!("{}: adapter with {what}", path.display());
        Err(Error::unsupported(what, reason))
    };
    let set = |key: &str| match &config[key] {
        Value::Null | Value::Bool(false) => false,
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
        _ => true,
    };
    let kinds = [
        ("use_dora", "DoRA scales the rows of the merged weight"),
        ("lora_bias", "it also trains biases"),
        ("modules_to_save", "it replaces whole modules"),
        ("layer_replication", "it changes the number of blocks"),
        ("use_qalora", "it pools its inputs"),
        ("use_bdlora", "its factors are block-diagonal"),
        ("target_parameters", "it tunes bare parameters"),
        ("trainable_token_indices", "it tunes embeddings"),
        ("alora_invocation_tokens", "it is switched on by tokens"),
        ("arrow_config", "it chooses among adapters by token"),
        ("kasa_config", "it also has singular values"),
        ("monteclora_config", "it samples its factors"),
    ];
    let only = "only plain LoRA on linear layers is supported";
    if let Some((key, reason)) = kinds.iter().find(|(key, _)| set(key)) {
        return refused(format!("`{key}`"), format!("{reason}; {only}"));
    }
    let bias = &config["bias"];
    if !bias.is_null() && bias != "none" {
        let reason = format!("it also trains biases; {only}");
        return refused(format!("`bias` = {bias}"), reason);
    }
    // These start from other factors; all others that have a name change the base model.
    let plain = ["gaussian", "eva", "orthogonal"];
    let init = config["init_lora_weights"].as_str();
    let Some(init) = init.filter(|init| !plain.contains(init)) else {
        return Ok(());
    };
    let reason = "such an adapter is relative to a changed base model; convert it with PEFT first";
    refused(format!("`init_lora_weights` = \"{init}\""), reason.into())
}

#[cfg(test)]
mod tests;
