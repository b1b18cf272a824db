//! `reptune convert`: directions, adapters and models in other file formats.

use super::args::{self, DoseArgs};
use super::output::{print, print_json};
use crate::convert::Conversion;
use crate::progress;
use anyhow::Result;
use clap::Args;
use reptune_adapters::steering::direction::LAYER_CONVENTION;
use serde_json::json;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
Examples:
  reptune convert directions.safetensors -o honesty.gguf
  reptune convert directions.safetensors --layers 14-16 --total 19 -o dosed.gguf
  reptune convert repeng.gguf --layer-offset -1 -o directions.safetensors
  reptune convert runs/my/tuned/in_minus_lie -m DIR -o lie.gguf
  reptune convert lie.gguf -m DIR -o adapter
  reptune convert llama.gguf -o model

Converts directions between .safetensors, .gguf (control vectors of llama.cpp) and .svec;
adapters between PEFT directories and .gguf; a Llama in GGUF to a UQFF directory.

Without a dose, the vectors of a .gguf are unit vectors, or keep the norm that another
program gave them. With a dose, strength 1 in llama.cpp applies that dose.")]
pub struct ConvertArgs {
    /// Direction file, adapter (PEFT directory or .gguf) or GGUF model
    pub from: PathBuf,
    /// File or directory to write; the extension gives the format
    #[arg(short, long, value_name = "PATH")]
    pub out: PathBuf,
    /// Layers such as 1-3,5 [default: all that the format can hold]
    #[arg(long)]
    pub layers: Option<String>,
    #[command(flatten)]
    pub dose: DoseArgs,
    /// Layer i of the file is layer i + N here, for files that count otherwise
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 0
    )]
    pub layer_offset: i64,
    /// Model of an adapter
    #[arg(short, long)]
    pub model: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

pub fn convert(a: &ConvertArgs) -> Result<()> {
    let parse = |count| args::layers(a.layers.as_deref().unwrap_or("all"), count);
    let conversion = Conversion {
        from: &a.from,
        out: &a.out,
        model: a.model.as_deref(),
        layers: a.layers.as_ref().map(|_| &parse as _),
        dose: a.dose.dose(),
        layer_offset: a.layer_offset,
    };
    let done = conversion.convert(&mut progress::of("convert"))?;
    if a.json {
        return print_json(&json!({
            "out": a.out, "what": done.what, "layer_convention": LAYER_CONVENTION,
            "notes": done.notes,
        }));
    }
    print(format_args!("{}: {}", a.out.display(), done.what))?;
    let mut notes = done.notes.iter();
    notes.try_for_each(|note| print(format_args!("  {note}")))
}
