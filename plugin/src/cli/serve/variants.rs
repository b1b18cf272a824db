//! Variants on the command line: `NAME=FILE:layers=1-2,total=40` and `NAME=DIR`.

use reptune_adapters::{Dose, HookPoint};
use std::path::{Path, PathBuf};

/// `NAME=FILE:layers=..,total=..`
#[derive(Debug, Clone, PartialEq)]
pub struct Steer {
    pub name: String,
    pub file: PathBuf,
    pub layers: String,
    pub dose: Dose,
    pub hook: HookPoint,
    /// The tuned variant that is steered, instead of the base.
    pub on: Option<String>,
}

/// `NAME=DIR`
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    pub name: String,
    pub directory: PathBuf,
}

/// Parses `NAME=DIR`.
pub fn adapter(text: &str) -> Result<Adapter, String> {
    let (name, directory) = named(text)?;
    Ok(Adapter { name, directory })
}

/// Parses `NAME=FILE:layers=..,DOSE=..`, with `hook=..` and `on=..` as options.
pub fn steer(text: &str) -> Result<Steer, String> {
    let (head, settings) = text
        .rsplit_once(':')
        .ok_or_else(|| format!("expected FILE:layers=1-2,total=40, found `{text}`"))?;
    let (name, file) = named(head)?;
    let (mut layers, mut dose, mut hook, mut on) = (None, None, HookPoint::ResidPost, None);
    for (key, value) in pairs(settings)? {
        match key {
            "layers" => layers = Some(value),
            "hook" => hook = value.parse().map_err(|e| format!("{e}"))?,
            "on" => on = Some(value),
            _ => {
                let kind: fn(f64) -> Dose = match key {
                    "coeff" => Dose::Coeff,
                    "total" => Dose::Total,
                    "fraction" => Dose::Fraction,
                    "strength" => Dose::Strength,
                    other => {
                        return Err(format!(
                            "expected layers, coeff, total, fraction, strength, hook or on, found `{other}`"
                        ));
                    }
                };
                let number = value.parse::<f64>().ok().filter(|x| x.is_finite());
                let number =
                    number.ok_or_else(|| format!("expected a number as {key}, found `{value}`"))?;
                if dose.replace(kind(number)).is_some() {
                    return Err("expected one dose, found two".into());
                }
            }
        }
    }
    Ok(Steer {
        name,
        file,
        layers: layers.ok_or("expected layers=.., for example layers=1-2")?,
        dose: dose.ok_or("expected a dose, for example coeff=20, total=40 or fraction=0.5")?,
        hook,
        on,
    })
}

/// `layers=1,3,total=40` is layers 1,3 and total 40: a piece without a key belongs to the last.
fn pairs(settings: &str) -> Result<Vec<(&str, String)>, String> {
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for piece in settings.split(',') {
        match (piece.split_once('='), pairs.last_mut()) {
            (Some((key, value)), _) => pairs.push((key.trim(), value.trim().to_owned())),
            (None, Some((_, value))) => *value = format!("{value},{}", piece.trim()),
            (None, None) => return Err(format!("expected KEY=VALUE, found `{piece}`")),
        }
    }
    Ok(pairs)
}

/// `NAME=PATH`; without a name that of the file.
fn named(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = match text.split_once('=') {
        Some((name, path)) => (name.trim().to_owned(), path),
        None => {
            let stem = Path::new(text).file_stem().unwrap_or_default();
            (stem.to_string_lossy().into_owned(), text)
        }
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        true => Err(format!(
            "expected a name of letters, digits, `.`, `_` and `-`, found `{name}`; for example honest={path}"
        )),
        false => Ok((name, PathBuf::from(path))),
    }
}

#[cfg(test)]
mod tests;
