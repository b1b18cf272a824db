//! `reptune inspect`: what a file or directory holds.

use super::output::{facts, print, print_json};
use crate::inspect;
use crate::progress::Progress;
use anyhow::Result;
use clap::Args;
use reptune_report::aligned;
use std::path::PathBuf;

pub const EXAMPLES: &str = "\
Examples:
  reptune inspect runs/my/directions.safetensors
  reptune inspect runs/my/tuned/in_minus_lie
  reptune inspect baked/model.uqff --json

Checks the hashes that the file carries; a wrong hash is an error.";

#[derive(Args)]
pub struct InspectArgs {
    /// Direction file, adapter, UQFF, model directory or directory of a run
    pub path: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

pub fn inspect(a: &InspectArgs) -> Result<()> {
    let shown = Progress::unknown("check");
    let found = inspect::inspect(&a.path, &mut |done, of| shown.set_of(done, of))?;
    drop(shown);
    if a.json {
        return print_json(&found);
    }
    let checked = ("checked".to_owned(), found.checked);
    let rows: Vec<_> = found.facts.into_iter().chain([checked]).collect();
    print(format_args!("{}: {}", a.path.display(), found.kind))?;
    print(facts("  ", &rows))?;
    if !found.parts.is_empty() {
        print(format_args!("\n{}", aligned(&found.parts)))?;
    }
    Ok(())
}
