//! `reptune bake` as it is typed.

use super::Steering;
use clap::Args;
use std::path::PathBuf;

pub const EXAMPLES: &str = "Examples:
  reptune bake --model DIR --directions directions.safetensors --layers 1-2 --coeff -40 --quantize q8_0 --out baked
  mistralrs serve -m baked --from-uqff model.uqff

  reptune bake --model DIR --directions directions.safetensors --layers 3 --coeffs 12,19,-19 --out doses
  mistralrs serve -m doses --from-uqff \"shared.uqff;plus_19.uqff\"

  reptune bake --model DIR --directions directions.safetensors --layers 3 --operator ablate --site everywhere --out without

Exact: additions at output, middle or input of blocks, and the ablation of one direction
everywhere. With --coeffs every dose is a small file beside shared.uqff. What is not exact
(other operators, rows, an ablation in quantized weights) is refused, or taken with
--approximate, which tells the error.";

#[derive(Args)]
pub struct Bake {
    /// Model directory, .uqff file or hub id
    #[arg(long)]
    pub model: String,
    #[command(flatten)]
    pub steering: Steering,
    /// Several doses instead of --coeff: one .uqff each (plus_12.uqff, minus_19.uqff, ..)
    /// beside shared.uqff
    #[arg(long, value_name = "LIST", value_delimiter = ',', allow_negative_numbers = true,
        requires = "directions", conflicts_with_all = ["coeff", "fraction", "strength"])]
    pub coeffs: Vec<f64>,
    /// Type of the weights, such as q8_0 or q4k. Not given, full weights become f32 and a
    /// UQFF keeps its types
    #[arg(long, value_name = "TYPE")]
    pub quantize: Option<String>,
    /// Take what is not exact, with its error
    #[arg(long)]
    pub approximate: bool,
    /// Prompts on which --approximate takes the mean change and measures its error, one JSON
    /// object a line
    #[arg(long, value_name = "FILE.jsonl", requires = "approximate")]
    pub prompts: Option<PathBuf>,
    /// Directory to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}
