//! `adapter_config.json`: rank and scale of every module, and the kinds of adapter whose
//! delta is not `scale * B A`, which are refused by name.

use super::patterns::Patterns;
use crate::artefact;
use crate::error::{Error, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Highest rank that a config may claim.
const HIGHEST: f64 = 65536.;

/// Ranks and scales of an adapter.
#[derive(Debug)]
pub(super) struct Config {
    path: PathBuf,
    rank: f64,
    alpha: f64,
    ranks: Patterns,
    alphas: Patterns,
    divisor: fn(f64) -> f64,
    /// PEFT names its version in the file since 0.18.
    version: bool,
}

impl Config {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let json: Value = serde_json::from_slice(&artefact::read(path)?).map_err(|e| {
            Error::content(
                path,
                format!("line {}", e.line()),
                "JSON",
                e.to_string(),
                "write the adapter again",
            )
        })?;
        refuse(path, &json)?;
        let stabilised = flag(path, &json, "use_rslora")?;
        // For a linear layer PEFT itself reads this as false: torch keeps weights (O, I),
        // and A and B are the same on disk either way.
        flag(path, &json, "fan_in_fan_out")?;
        let rank = |value: &Value| {
            let whole = value.as_u64().map(|r| r as f64);
            whole.filter(|r| (1. ..=HIGHEST).contains(r))
        };
        let alpha = |value: &Value| value.as_f64().filter(|a| a.is_finite() && *a > 0.);
        let (whole, positive) = ("a rank from 1 to 65536", "a positive number");
        let need = |key: &str, expected: &str, number: Option<f64>| {
            number.ok_or_else(|| {
                let found = json[key].to_string();
                let hint = "write the adapter again";
                Error::content(path, format!("key `{key}`"), expected, found, hint)
            })
        };
        Ok(Self {
            rank: need("r", whole, rank(&json["r"]))?,
            alpha: need("lora_alpha", positive, alpha(&json["lora_alpha"]))?,
            ranks: Patterns::read(path, &json, "rank_pattern", whole, rank)?,
            alphas: Patterns::read(path, &json, "alpha_pattern", positive, alpha)?,
            divisor: if stabilised { f64::sqrt } else { |rank| rank },
            version: json["peft_version"].is_string(),
            path: path.to_owned(),
        })
    }

    /// Rank and scale of `module`.
    ///
    /// # Errors
    /// When versions of PEFT read different scales, and none is named.
    pub(super) fn module(&self, module: &str) -> Result<(usize, f64)> {
        let rank = self.ranks.of(module).unwrap_or(self.rank);
        let alpha = self.alphas.of(module);
        let older = self.alphas.of_after(&self.ranks, module);
        if alpha != older && !self.version {
            let number = |a: Option<f64>| a.unwrap_or(self.alpha);
            return Err(Error::content(
                &self.path,
                "key `alpha_pattern`",
                format!("one alpha for `{module}`"),
                format!(
                    "{} in PEFT from 0.15 on, {} before",
                    number(alpha),
                    number(older)
                ),
                "use the same patterns in `rank_pattern` and `alpha_pattern`, or save the adapter with PEFT 0.18 or later, which names its version",
            ));
        }
        let scale = alpha.unwrap_or(self.alpha) / (self.divisor)(rank);
        Ok((rank as usize, scale))
    }
}

fn flag(path: &Path, json: &Value, key: &str) -> Result<bool> {
    match &json[key] {
        Value::Null => Ok(false),
        Value::Bool(set) => Ok(*set),
        other => {
            let found = other.to_string();
            let hint = "write the adapter again";
            Err(Error::content(
                path,
                format!("key `{key}`"),
                "true or false",
                found,
                hint,
            ))
        }
    }
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
        ("target_parameters", "it tunes bare parameters"),
        ("trainable_token_indices", "it tunes embeddings"),
        ("alora_invocation_tokens", "it is switched on by tokens"),
    ];
    let unsupported = |what: String, reason: String| Error::Unsupported {
        what: format!("{}: adapter with {what}", path.display()),
        reason,
    };
    let plain =
        "only plain LoRA on linear layers is taken; merge it with PEFT and give the merged model";
    for (key, reason) in kinds {
        if set(key) {
            return Err(unsupported(
                format!("`{key}`"),
                format!("{reason}; {plain}"),
            ));
        }
    }
    if !matches!(config["bias"].as_str(), None | Some("none")) {
        let what = format!("`bias` = {}", config["bias"]);
        let reason = format!("it trains biases beside A and B; {plain}");
        return Err(unsupported(what, reason));
    }
    let init = config["init_lora_weights"].as_str();
    if let Some(init) = init.filter(|i| !matches!(*i, "gaussian" | "orthogonal")) {
        let what = format!("`init_lora_weights` = \"{init}\"");
        let reason =
            "such an adapter is relative to a changed base model; convert it with PEFT first";
        return Err(unsupported(what, reason.into()));
    }
    Ok(())
}
