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
    targets: Targets,
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
            targets: Targets::read(path, &config)?,
        })
    }

    /// Whether PEFT has factors for a module: it ignores tensors of others.
    pub(super) fn targets(&self, module: &str) -> bool {
        self.targets.contain(module)
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

/// Keys of what matters in training only, or before it.
const HARMLESS: [&str; 8] = [
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",
    "monteclora_config",
    "megatron_config",
    "runtime_config",
];

/// Which modules PEFT gives factors.
#[derive(Debug)]
struct Targets {
    included: Modules,
    excluded: Modules,
    /// Only these blocks, of modules that are named by the end of their path.
    layers: Option<Vec<u64>>,
}

/// Modules by their paths.
#[derive(Debug)]
enum Modules {
    All,
    /// Whole paths, or ends of paths after a dot.
    Named(Vec<String>),
    Matching(Regex),
}

impl Targets {
    fn read(path: &Path, config: &Value) -> Result<Self> {
        let modules = |key: &str, none: &[&str]| {
            let wrong = |value| wrong(path, key, "names of modules, or a pattern", value);
            Ok(match &config[key] {
                Value::Null => Modules::Named(none.iter().map(|n| (*n).to_owned()).collect()),
                Value::String(all) if all == "all-linear" => Modules::All,
                // A pattern that only Python has: then the tensors say what was targeted.
                Value::String(pattern) => {
                    let whole = format!("^(?:{pattern})$");
                    let whole = RegexBuilder::new(&whole).size_limit(PATTERN_SIZE).build();
                    whole.map_or(Modules::All, Modules::Matching)
                }
                value @ Value::Array(names) => {
                    let names = names.iter().map(|n| n.as_str().map(str::to_owned));
                    let names = names.collect::<Option<_>>();
                    Modules::Named(names.ok_or_else(|| wrong(value))?)
                }
                value => return Err(wrong(value)),
            })
        };
        let layers = match &config["layers_to_transform"] {
            Value::Null => None,
            value @ Value::Number(_) => Some(std::slice::from_ref(value)),
            Value::Array(layers) => Some(layers.as_slice()).filter(|l| !l.is_empty()),
            value => return Err(wrong(path, "layers_to_transform", "layers", value)),
        };
        let layers = layers.map(|layers| layers.iter().filter_map(Value::as_u64).collect());
        let (default, none) = (["q_proj", "v_proj"], []);
        Ok(Self {
            included: modules("target_modules", &default)?,
            excluded: modules("exclude_modules", &none)?,
            layers,
        })
    }

    fn contain(&self, module: &str) -> bool {
        let excluded = match &self.excluded {
            Modules::Named(names) => names.iter().any(|name| ends_in(module, name)),
            Modules::Matching(pattern) => pattern.is_match(module),
            Modules::All => false,
        };
        let included = match &self.included {
            Modules::All => true,
            Modules::Matching(pattern) => pattern.is_match(module),
            Modules::Named(names) if names.iter().any(|name| name == module) => true,
            Modules::Named(names) => {
                let layer = module.split('.').find_map(|part| part.parse::<u64>().ok());
                let layers = self.layers.as_ref();
                names.iter().any(|name| ends_in(module, name))
                    && layers.is_none_or(|all| layer.is_some_and(|layer| all.contains(&layer)))
            }
        };
        included && !excluded
    }
}

/// Whether `module` is `name`, or ends in it after a dot.
fn ends_in(module: &str, name: &str) -> bool {
    let start = module.strip_suffix(name);
    start.is_some_and(|start| start.is_empty() || start.ends_with('.'))
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
    // What else turns a variant on, perhaps of a later PEFT.
    let unknown = |(key, _): &(&String, &Value)| {
        let variant = key.starts_with("use_") && *key != "use_rslora" || key.ends_with("_config");
        variant && !HARMLESS.contains(&key.as_str()) && set(key)
    };
    let keys = config.as_object().into_iter().flatten();
    if let Some((key, _)) = keys.filter(|(key, _)| set(key)).find(unknown) {
        return refused(format!("`{key}`"), format!("it is not known here; {only}"));
    }
    // These start from other factors; all others that have a name change the base model.
    let plain = ["gaussian", "eva", "orthogonal", "mica"];
    let init = config["init_lora_weights"].as_str();
    let init = init.filter(|init| !plain.contains(&init.to_lowercase().as_str()));
    let Some(init) = init else {
        return Ok(());
    };
    let reason = "such an adapter is relative to a changed base model; convert it with PEFT first: \
                  `save_pretrained(.., path_initial_model_for_weight_conversion=..)`";
    refused(format!("`init_lora_weights` = \"{init}\""), reason.into())
}

#[cfg(test)]
mod tests;
