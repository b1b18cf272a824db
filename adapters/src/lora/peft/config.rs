//! What an `adapter_config.json` says of a module's rank and scale, and whether the adapter
//! is of a kind that is taken at all.

use crate::error::{Error, Result};
use crate::files;
use regex::{Regex, RegexBuilder};
use serde_json::Value;
use std::path::Path;

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
            Error::content(
                path,
                format!("line {}", e.line()),
                "JSON with finite numbers",
                e.to_string(),
                "write the adapter again",
            )
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

/// What the first pattern says that matches.
fn first<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    let found = patterns.iter().find(|(p, _)| p.is_match(module));
    found.map(|(_, value)| *value)
}

fn wrong(path: &Path, key: &str, expected: &str, found: &Value) -> Error {
    Error::content(
        path,
        format!("key `{key}`"),
        expected,
        found.to_string(),
        "write the adapter again",
    )
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

/// A pattern as PEFT matches it: a whole module path, or its end behind a dot.
///
/// PEFT's are Python's. What Python alone has (looking around, back references) does not
/// compile here; what both read, but differently, is a set inside of a set.
fn compile(path: &Path, key: &str, pattern: &str) -> Result<Regex> {
    let unsupported = |reason: String| Error::Unsupported {
        what: format!("{}: the pattern `{pattern}` of `{key}`", path.display()),
        reason: format!("{reason}; name the modules by their paths instead"),
    };
    if nests(pattern) {
        return Err(unsupported("it has a set inside of a set".into()));
    }
    // Alone first: `a)|(b` must not close our own bracket.
    RegexBuilder::new(pattern)
        .size_limit(PATTERN_SIZE)
        .build()
        .and_then(|_| {
            RegexBuilder::new(&format!(r"^(?:(?:.*\.)?(?:{pattern}))$"))
                .size_limit(PATTERN_SIZE)
                .build()
        })
        .map_err(|e| {
            let reason = e.to_string();
            // The last line says what is wrong, those before it draw where.
            let last = reason.lines().last().unwrap_or_default();
            unsupported(last.trim_start_matches("error: ").to_owned())
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
    if config["peft_type"] != "LORA" {
        return Err(Error::content(
            path,
            "key `peft_type`",
            "\"LORA\"",
            config["peft_type"].to_string(),
            "only LoRA adapters are taken",
        ));
    }
    let set = |key: &str| match &config[key] {
        Value::Null | Value::Bool(false) => false,
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
        _ => true,
    };
    let kinds = [
        ("use_dora", "DoRA scales the rows of the merged weight"),
        ("lora_bias", "it trains biases beside A and B"),
        ("modules_to_save", "it replaces whole modules"),
        ("layer_replication", "it changes the number of blocks"),
        ("use_qalora", "it pools its inputs"),
        ("use_bdlora", "its factors are block-diagonal"),
        ("target_parameters", "it tunes bare parameters"),
        ("trainable_token_indices", "it tunes embeddings"),
        ("alora_invocation_tokens", "it is switched on by tokens"),
        ("arrow_config", "it chooses among adapters by token"),
        ("kasa_config", "it has singular values beside A and B"),
        ("monteclora_config", "it samples its factors"),
    ];
    for (key, reason) in kinds {
        if set(key) {
            return Err(Error::Unsupported {
                what: format!("{}: adapter with `{key}`", path.display()),
                reason: format!("{reason}; only plain LoRA on linear layers is taken"),
            });
        }
    }
    if !matches!(&config["bias"], Value::Null) && config["bias"] != "none" {
        return Err(Error::Unsupported {
            what: format!(
                "{}: adapter with `bias` = {}",
                path.display(),
                config["bias"]
            ),
            reason: "it trains biases beside A and B; only plain LoRA on linear layers is taken"
                .into(),
        });
    }
    // These start from other factors; all others that have a name change the base model.
    let plain = ["gaussian", "eva", "orthogonal"];
    if let Some(init) = config["init_lora_weights"].as_str()
        && !plain.contains(&init)
    {
        return Err(Error::Unsupported {
            what: format!(
                "{}: adapter with `init_lora_weights` = \"{init}\"",
                path.display()
            ),
            reason:
                "such an adapter is relative to a changed base model; convert it with PEFT first"
                    .into(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config> {
        let room = tempfile::tempdir().expect("room");
        let path = room.path().join("adapter_config.json");
        std::fs::write(&path, text).expect("write");
        Config::read(&path)
    }

    fn refused(text: &str) -> String {
        config(text).expect_err(text).to_string()
    }

    #[test]
    fn the_first_pattern_that_matches_the_end_of_the_path_counts() -> Result<()> {
        let c = config(
            r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "rank_pattern":
            {"1.self_attn.q_proj": 3, "q_proj": 2, "layers.[23].mlp.*": 5, "a|up_proj": 6},
            "alpha_pattern": {"^model.layers.0.*": 1.5, "proj": -2}}"#,
        )?;
        for (module, rank, alpha) in [
            ("model.layers.0.self_attn.q_proj", 2, 1.5),
            ("model.layers.1.self_attn.q_proj", 3, 8.),
            // Behind a dot: 11 does not end in `1.`, but `.1` may stand anywhere.
            ("model.layers.11.self_attn.q_proj", 2, 8.),
            ("model.layers.2.mlp.up_proj", 5, 8.),
            ("model.layers.1.mlp.up_proj", 6, 8.),
            // `proj` is the end of the name, but no name of its own.
            ("model.layers.1.self_attn.v_proj", 4, 8.),
        ] {
            assert_eq!(c.rank(module), rank, "{module}");
            assert_eq!(c.scale(module), alpha / rank as f64, "{module}");
        }
        Ok(())
    }

    #[test]
    fn keys_that_are_left_out_have_the_defaults_of_peft() -> Result<()> {
        let c = config(r#"{"peft_type": "LORA", "use_rslora": true, "fan_in_fan_out": true}"#)?;
        assert_eq!(c.rank("x"), 8);
        assert_eq!(c.scale("x"), 8. / 8f64.sqrt());
        Ok(())
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        let with = |rest: &str| refused(&format!(r#"{{"peft_type": "LORA", {rest}}}"#));
        for (rest, parts) in [
            (r#""r": 0"#, ["`r`", "positive"]),
            (r#""r": 2.5"#, ["`r`", "whole"]),
            (r#""r": "8""#, ["`r`", "\"8\""]),
            (r#""r": null"#, ["`r`", "null"]),
            (r#""lora_alpha": NaN"#, ["line 1", "finite"]),
            (r#""lora_alpha": 1e999"#, ["line 1", "out of range"]),
            (r#""lora_alpha": [8]"#, ["`lora_alpha`", "[8]"]),
            (
                r#""rank_pattern": {"q_proj": 0}"#,
                ["`rank_pattern.q_proj`", "found 0"],
            ),
            (r#""rank_pattern": [4]"#, ["`rank_pattern`", "[4]"]),
            (
                r#""alpha_pattern": {"q": true}"#,
                ["`alpha_pattern.q`", "finite"],
            ),
            (r#""use_rslora": 1"#, ["`use_rslora`", "true or false"]),
            (
                r#""rank_pattern": {"(?=q)q_proj": 4}"#,
                ["`(?=q)q_proj` of `rank_pattern`", "look-around"],
            ),
            (
                r#""alpha_pattern": {"(q)\\1": 4}"#,
                ["`(q)\\1` of `alpha_pattern`", "backreferences"],
            ),
            (
                r#""rank_pattern": {"a)|(b": 4}"#,
                ["`a)|(b`", "unopened group"],
            ),
            (r#""rank_pattern": {"[q[k]_proj": 4}"#, ["set", "paths"]),
            (
                r#""rank_pattern": {"((q{999}){999}){999}": 4}"#,
                ["q{999}", "size"],
            ),
        ] {
            let message = with(rest);
            for part in parts {
                assert!(message.contains(part), "{rest}: {message}");
            }
        }
        assert!(refused("[]").contains("`peft_type`"));
    }
}
