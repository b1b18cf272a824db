//! The rotary embedding that a `config.json` asks for, in the spelling of transformers 4 or 5.

use super::config_file::ConfigFile;
use crate::error::Result;
use serde_json::{Value, json};

/// The rotary embedding of a `config.json`.
pub(super) struct Rope {
    pub theta: f64,
    /// Kind and numbers of the scaling, as transformers 4 spells them; none without scaling.
    pub scaling: Option<Value>,
}

impl Rope {
    /// Reads `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling`.
    pub(super) fn read(file: &ConfigFile) -> Result<Self> {
        let json = file.json;
        let (key, table) = match &json["rope_parameters"] {
            Value::Null => ("rope_scaling", &json["rope_scaling"]),
            table => ("rope_parameters", table),
        };
        if !table.is_null() && !table.is_object() || table["full_attention"].is_object() {
            let hint = "different rotary embeddings by kind of layer are not supported";
            return Err(file.error(key, "one table of numbers", table.to_string(), hint));
        }
        let positive = |v: &Value| v.as_f64().filter(|x| *x > 0. && x.is_finite());
        let number = |name: &str| positive(&table[name]);
        let outer = file.field("rope_theta", Some(10_000.), "a positive number", positive)?;
        let theta = match (number("rope_theta"), &json["rope_theta"]) {
            (Some(theta), Value::Null) => theta,
            (Some(theta), _) if theta != outer => {
                let expected = format!("{theta}, as `rope_parameters` says");
                let hint = "the two spellings must agree; remove the wrong one";
                return Err(file.error("rope_theta", &expected, outer.to_string(), hint));
            }
            _ => outer,
        };
        let part = "partial_rotary_factor";
        let factor = [&table[part], &json[part]]
            .into_iter()
            .find(|f| !f.is_null());
        if let Some(factor) = factor.filter(|f| f.as_f64() != Some(1.)) {
            let hint = "heads are rotated whole here";
            return Err(file.error(part, "1", factor.to_string(), hint));
        }
        let scaling = None;
        let mut rope = Self { theta, scaling };
        let kinds = [&table["rope_type"], &table["type"]];
        let kind = kinds.into_iter().find(|k| !k.is_null());
        let names: &[&str] = match kind.map(|kind| kind.as_str().unwrap_or_default()) {
            None if table["factor"].is_null() => return Ok(rope),
            Some("default") => return Ok(rope),
            Some("linear") => &["factor"],
            Some("llama3") => &[
                "factor",
                "low_freq_factor",
                "high_freq_factor",
                "original_max_position_embeddings",
            ],
            _ => {
                let found = kind.map_or("a factor without a type".into(), Value::to_string);
                let hint = "mistral.rs 0.8.1 computes no other; dynamic and yarn are refused";
                let expected = "a rope_type of default, linear or llama3";
                return Err(file.error(key, expected, found, hint));
            }
        };
        let mut scaling = json!({"rope_type": kind});
        for name in names {
            let Some(_) = number(name) else {
                let (at, found) = (format!("{key}.{name}"), table[*name].to_string());
                return Err(file.error(&at, "a positive number", found, "fetch the file again"));
            };
            scaling[*name] = table[*name].clone();
        }
        rope.scaling = Some(scaling);
        Ok(rope)
    }
}
