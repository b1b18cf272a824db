//! `reptune convert` as it is typed.

use clap::Args;
use std::path::PathBuf;

pub const EXAMPLES: &str = "Examples:
  reptune convert directions.safetensors --out honesty.gguf
  reptune convert directions.safetensors --layers 14-16 --coeff 19 --out dose.gguf
  reptune convert theirs.gguf --layer-offset -1 --out directions.safetensors
  reptune convert vectors.svec --out vectors.gguf
  reptune convert runs/my/tuned/in_minus_lie --model DIR --out lie.gguf
  reptune convert lie.gguf --model DIR --out adapter
  reptune convert llama.gguf --out model

Directions go between .safetensors (ours), .gguf (llama.cpp control vectors) and .svec;
adapters between PEFT directories and .gguf; a Llama in GGUF becomes a UQFF directory.
With --coeff the vectors of a .gguf are coeff / layers long, so that strength 1 in
llama.cpp is our steering with this coeff; without, directions of ours are unit vectors
that read back are the same, and vectors of other programs stay as long as they were.";

#[derive(Args)]
pub struct Convert {
    /// Direction file, adapter (directory or .gguf) or GGUF model
    pub from: PathBuf,
    /// File or directory to write; its ending says what
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// Layers such as 1-3,5 (all that the target takes if not given)
    #[arg(long)]
    pub layers: Option<String>,
    /// Dose that the vectors of a .gguf get, divided by the number of layers
    #[arg(long, allow_negative_numbers = true)]
    pub coeff: Option<f64>,
    /// Layer i of the file is our layer i + this, for files that count otherwise
    #[arg(long, allow_negative_numbers = true, default_value_t = 0)]
    pub layer_offset: i64,
    /// Model of an adapter
    #[arg(long)]
    pub model: Option<String>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}
