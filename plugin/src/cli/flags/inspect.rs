//! `reptune inspect` as it is typed.

use clap::Args;
use std::path::PathBuf;

pub const EXAMPLES: &str = "Examples:
  reptune inspect runs/my/directions.safetensors
  reptune inspect runs/my/tuned/in_minus_lie
  reptune inspect baked/model.uqff --json

Hashes that the artefact carries are checked; a wrong one is an error, exit code 2.";

#[derive(Args)]
pub struct Inspect {
    /// A direction set, an adapter, a UQFF, a merged or other model, a run
    pub path: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}
