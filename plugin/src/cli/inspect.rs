//! `reptune inspect`: what a file or directory holds.

use super::output::{facts, print, print_json};
use crate::{inspect, progress};
use anyhow::Result;
use clap::Args;
use reptune_report::aligned;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
Examples:
  reptune inspect runs/my/directions.safetensors
  reptune inspect runs/my/tuned/in_minus_lie
  reptune inspect baked/model.uqff --json

Checks the hashes that the file carries; a wrong hash is an error.")]
pub struct InspectArgs {
    /// Direction file, adapter, UQFF, model directory or directory of a run
    pub path: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

pub fn inspect(a: &InspectArgs) -> Result<()> {
    let found = inspect::inspect(&a.path, &mut progress::of("check"))?;
    if a.json {
        return print_json(&found);
    }
    let checked = ("checked".to_owned(), found.checked);
    let rows: Vec<_> = found.facts.into_iter().chain([checked]).collect();
    let (path, rows) = (a.path.display(), facts("  ", &rows));
    print(format_args!("{path}: {}\n{rows}", found.kind))?;
    match found.parts.is_empty() {
        true => Ok(()),
        false => print(format_args!("\n{}", aligned(&found.parts))),
    }
}
