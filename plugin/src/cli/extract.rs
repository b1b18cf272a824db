//! `reptune extract`: the direction of a behaviour.

use super::args::RecipeArgs;
use super::output::{print, print_json, table};
use crate::pipeline::{DIRECTIONS, ORDERED};
use anyhow::Result;
use serde_json::json;
use std::collections::BTreeMap;

pub const EXAMPLES: &str = "\
Examples:
  reptune extract recipes/honesty-mini.toml
  reptune extract my.toml -m meta-llama/Llama-3.2-1B-Instruct -o runs/direction

Runs the recipe's contrastive prompts and writes directions.safetensors, with one
direction for each layer. Prints for each layer the norm of the direction, the mean norm
of the residual stream, and the share of training pairs that the direction orders correctly.";

pub fn extract(a: &RecipeArgs) -> Result<()> {
    let mut run = a.run(a.session()?)?;
    let (set, _) = run.directions()?;
    let (p, file) = (&set.provenance, run.stages.path(DIRECTIONS));
    if a.json {
        let norms = set
            .layers
            .iter()
            .map(|(layer, d)| (layer.to_string(), d.norm));
        let norms: BTreeMap<String, f64> = norms.collect();
        return print_json(&json!({
            "directions": file, "pairs": p.pairs, "pairs_captured": p.pairs_captured,
            "norms": norms, "residual_norms": p.residual_norms,
        }));
    }
    let ordered: BTreeMap<usize, f64> = run.stages.read(ORDERED)?;
    let head = ["layer", "norm", "residual norm", "pairs ordered"];
    let table = table(&head, &set.layers, |(layer, d)| {
        vec![
            layer.to_string(),
            format!("{:.2}", d.norm),
            format!("{:.2}", p.residual_norms[layer]),
            format!("{:.3}", ordered[layer]),
        ]
    });
    let (kept, all) = (p.pairs, p.pairs_captured);
    print(format_args!(
        "{}: {kept} of {all} pairs kept\n\n{table}",
        file.display()
    ))
}
