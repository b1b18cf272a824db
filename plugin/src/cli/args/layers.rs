//! Layers on the command line: `1-3,5`.

use crate::error::{Error, Result};
use reptune_adapters::Error as Fault;

/// Parses sets of layers such as `1;2;1-3`, for a model with `count` layers.
pub fn layer_sets(text: &str, count: usize) -> Result<Vec<Vec<usize>>> {
    let sets = text.split(';').map(|set| layers(set.trim(), count));
    sets.collect()
}

/// Parses layers such as `1-3,5`, for a model with `count` layers; `all` is every layer.
pub fn layers(text: &str, count: usize) -> Result<Vec<usize>> {
    if text == "all" {
        return Ok((0..count).collect());
    }
    let wrong = || -> Error {
        let hint = format!("this model has layers 0 to {}", count - 1);
        Fault::value(
            "--layers",
            "layers such as 1-3,5 or all",
            format!("`{text}`"),
            hint,
        )
        .into()
    };
    let number = |text: &str| {
        let number = text.trim().parse::<usize>().ok();
        number.filter(|layer| *layer < count).ok_or_else(wrong)
    };
    let mut layers = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (number(from)?, number(to)?);
        if from > to {
            return Err(wrong());
        }
        layers.extend(from..=to);
    }
    layers.sort_unstable();
    layers.dedup();
    Ok(layers)
}

#[cfg(test)]
mod tests;
