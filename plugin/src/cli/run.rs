//! `reptune run`: a whole recipe.

use super::args::RecipeArgs;
use super::output::{print, print_json};
use crate::pipeline;
use anyhow::Result;
use reptune_report::quantized_table;

pub const EXAMPLES: &str = "\
Examples:
  reptune run recipes/honesty-mini.toml
  reptune run recipes/honesty-llama2-13b-chat.toml -m /models/Llama-2-13b-chat-hf -o runs/13b

Prints a table of all models: base, prompted, steered, tuned, merged and baked. The
directory of the run also gets a report with figures. A stage whose inputs have not
changed is skipped: after Ctrl-C, run the same command again.";

pub fn run(a: &RecipeArgs) -> Result<()> {
    let mut run = a.run(a.session()?)?;
    let finished = pipeline::run(&mut run)?;
    if a.json {
        return print_json(&finished.results);
    }
    print(&finished.results)?;
    if !finished.quantized.is_empty() {
        let poles = &finished.results.poles;
        print(format_args!(
            "\n{}",
            quantized_table(&finished.quantized, poles)
        ))?;
    }
    print(format_args!("\nreport: {}", finished.page.display()))
}
