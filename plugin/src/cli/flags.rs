//! What can be typed.

mod bake;
mod convert;
mod inspect;
mod loading;
pub mod serve;

pub use bake::{Bake, SetCoeff};
pub use convert::Convert;
pub use inspect::Inspect;
pub use loading::Loading;

use crate::model::uqff::WeightType;
use clap::{Args, Parser, Subcommand, ValueEnum};
use reptune_adapters::Positions;
use reptune_adapters::lora::loss::Mode;
use reptune_recipes::recipe::MergeRounding;
use std::path::PathBuf;

/// Find the direction of a behaviour in a Llama, steer with it, tune it into the
/// weights, and hand the result to mistral.rs.
///
/// Layers are counted from 0: layer i is the output of decoder block i.
#[derive(Parser)]
#[command(name = "reptune", version, max_term_width = 90)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Do everything a recipe says: extract, tune, merge, bake, evaluate
    #[command(
        after_help = "Examples:\n  reptune run recipes/honesty-mini.toml\n  reptune run recipes/honesty-llama2-13b-chat.toml --model /models/Llama-2-13b-chat-hf --out runs/13b\n\nStages whose inputs have not changed are skipped; after Ctrl-C run it again."
    )]
    Run(Recipe),
    /// Find the direction alone
    #[command(
        after_help = "Example:\n  reptune extract recipes/honesty-mini.toml --out runs/direction"
    )]
    Extract(Recipe),
    /// Choose layer, place and dose of the direction by what adding it does
    #[command(
        after_help = "Examples:\n  reptune select recipes/honesty-mini.toml\n  reptune select my.toml --model DIR --out runs/choice --json\n\nMeasured and chosen on the validation claims, as the recipe's [selection] says; what\nthe choice does is then told on the test claims. Writes selection.json, and the\nchosen directions as selection.safetensors. Nothing is measured again while its inputs\nare the same."
    )]
    Select(Recipe),
    /// Steer with many sets of layers and doses, and compare the answers
    #[command(
        after_help = "Examples:\n  reptune sweep recipes/honesty-mini.toml --layers \"1;2;3;1-3\" --fractions 0.5,1\n  reptune sweep my.toml --layers \"12;14-16\" --coeffs 5,12,19 --on test\n  reptune sweep my.toml --directions runs/my/selection.safetensors --layers 3 --coeffs 9\n\nEvery set of layers is steered with + and - of every dose, and once ablated. Cells that\nstand in sweep.jsonl are not computed again: after Ctrl-C run it again."
    )]
    Sweep(Sweep),
    /// Try settings of the tuning, and keep the best recipe
    #[command(
        after_help = "Examples:\n  reptune search my.toml --out runs/search\n  reptune run runs/search/best.toml\n\nTries the combinations of the recipe's [search] by successive halving. A score is token\nloss plus representation loss on the validation claims, averaged over the recipe's modes;\nlower is better. Writes search.json, best.toml, and every trial's metrics under search/."
    )]
    Search(Recipe),
    /// Tune the recipe's modes alone (extracts the direction first if need be)
    #[command(
        after_help = "Examples:\n  reptune tune recipes/honesty-mini.toml\n  reptune tune recipes/honesty-mini.toml --mode \"in+ & truth\" --adapter-init runs/honesty-mini/tuned/truth --out runs/second"
    )]
    Tune(Tune),
    /// Ask a model the recipe's test questions
    #[command(
        after_help = "Examples:\n  reptune evaluate recipes/honesty-mini.toml\n  reptune evaluate recipes/honesty-mini.toml --adapter runs/honesty-mini/tuned/in_minus_lie --json"
    )]
    Evaluate(Evaluate),
    /// Write the residual stream of prompts to a file
    #[command(
        after_help = "Example:\n  reptune capture --model DIR --prompts prompts.jsonl --layers 1-3 --logits --out capture.safetensors\n\nLines {\"prompt\": \"..\"} are raw text; {\"messages\": [{\"role\": \"user\", \"content\": \"..\"}]} go through the\nchat template. Tensors: prompt.{i}.ids U32 (T,), prompt.{i}.layer.{l} F32 (T, H), prompt.{i}.logits F32 (T, V)."
    )]
    Capture(Capture),
    /// Generate text, plain, steered or tuned
    #[command(
        after_help = "Examples:\n  reptune generate --model DIR --prompt \"The colour of Quinvath is\"\n  reptune generate --model DIR --prompts prompts.jsonl --directions directions.safetensors --layers 1-2 --coeff -40\n  reptune generate --model DIR --prompts prompts.jsonl --adapter ADAPTER --temperature 0.8 --seed 1 --json"
    )]
    Generate(Generate),
    /// Fold an adapter into a full checkpoint, or into quantized weights
    #[command(
        after_help = "Examples:\n  reptune merge --model DIR --adapter runs/my/tuned/in_minus_lie --out merged\n  reptune merge --model DIR --adapter runs/my/tuned/in_minus_lie --quantize q4k --recipe my.toml --out q4k\n  reptune merge --model DIR --adapter runs/my/tuned/in_minus_lie --quantize auto --recipe my.toml --out small\n  reptune merge --model quantized/model.uqff --adapter runs/my/tuned/in_minus_lie --out merged\n\nA delta is often smaller than a step of a quantized weight, and is rounded away. Told per\nsite: norm of the delta, norm of the rounding error (step), cosine and norm of what is\nleft of the delta, and noise, the rounding error at the outputs as a share of what the\ndelta adds there. With --recipe the model is asked the recipe's test claims, beside its\nbase and the unquantized tuned model; its training claims calibrate.\n\nWays: nearest rounds every number; corrected adds the mean error back as a bias;\ncalibrated rounds with feedback on the calibration prompts; kept gives the tuned sites\nfiner types, within --growth; retuned tunes again on the quantized weights; grafted does\nand leaves the tuned sites unquantized."
    )]
    Merge(Merge),
    /// Write steering into a UQFF that unmodified mistral.rs serves
    #[command(after_help = bake::EXAMPLES)]
    Bake(Bake),
    /// Change the coeff of a baked .uqff in place
    #[command(after_help = bake::SET_COEFF_EXAMPLES)]
    SetCoeff(SetCoeff),
    /// Directions, adapters and models in the formats of other programs
    #[command(after_help = convert::EXAMPLES)]
    Convert(Convert),
    /// Tell what an artefact holds, and check its hashes
    #[command(after_help = inspect::EXAMPLES)]
    Inspect(Inspect),
    /// Serve a model and its variants behind OpenAI's interface
    #[command(after_help = serve::EXAMPLES)]
    Serve(serve::Serve),
    /// Tell what tuning a recipe takes: rows, memory, operations, time
    #[command(
        after_help = "Examples:\n  reptune plan recipes/honesty-mini.toml\n  reptune plan recipes/honesty-llama2-13b-chat.toml --model Llama-2-13b-chat-hf --gflops 150 --isq q8_0\n\nReads config.json and the tokenizer, no weights. Without --gflops the rate of blocks of\nthis shape is measured here. With memory in the recipe's [tuning] it tells how that is kept."
    )]
    Plan(Plan),
}

#[derive(Args)]
pub struct Recipe {
    /// Recipe file (.toml)
    pub recipe: PathBuf,
    /// Model directory or hub id, instead of the recipe's
    #[arg(long)]
    pub model: Option<String>,
    /// Directory of the run; runs/<recipe name> if not given
    #[arg(long)]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub loading: Loading,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Tune {
    #[command(flatten)]
    pub recipe: Recipe,
    /// Tune this mode only: truth, lie, in+, in-, "in+ & truth", "in- & lie", out
    #[arg(long, value_parser = mode)]
    pub mode: Option<Mode>,
    /// Resume from this PEFT adapter instead of zero
    #[arg(long, value_name = "DIR")]
    pub adapter_init: Option<PathBuf>,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("doses").required(true))]
pub struct Sweep {
    #[command(flatten)]
    pub recipe: Recipe,
    /// Direction file; extracted if not given
    #[arg(long, value_name = "FILE")]
    pub directions: Option<PathBuf>,
    /// Sets of layers, each steered together, such as "1;2;1-3"
    #[arg(long, value_name = "SETS")]
    pub layers: String,
    /// Multipliers of the unit direction, divided by the number of layers
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = dose, group = "doses")]
    pub coeffs: Vec<f64>,
    /// Instead: fractions of the mean residual norm at every layer
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = dose, group = "doses")]
    pub fractions: Vec<f64>,
    /// Claims that are asked
    #[arg(long, value_name = "CLAIMS", default_value = "validation")]
    pub on: Claims,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Claims {
    Validation,
    Test,
}

#[derive(Args)]
pub struct Evaluate {
    #[command(flatten)]
    pub recipe: Recipe,
    /// PEFT adapter to apply
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    #[command(flatten)]
    pub steering: Steering,
    /// System prompt instead of the recipe's
    #[arg(long)]
    pub system: Option<String>,
}

#[derive(Args)]
pub struct Plan {
    /// Recipe file (.toml)
    pub recipe: PathBuf,
    /// Directory with config.json and tokenizer, instead of the recipe's model
    #[arg(long)]
    pub model: Option<String>,
    /// One of the recipe's modes, such as in+ (all if not given)
    #[arg(long, value_parser = mode)]
    pub mode: Option<Mode>,
    /// Floating-point rate, in 10^9 operations a second
    #[arg(long, value_name = "GFLOP/s")]
    pub gflops: Option<f64>,
    /// Type of the weights, such as q8_0 or q4k
    #[arg(long, value_name = "TYPE")]
    pub isq: Option<String>,
    /// Print the plan as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Capture {
    /// Model directory, .uqff file or hub id
    #[arg(long)]
    pub model: String,
    #[command(flatten)]
    pub loading: Loading,
    /// Prompts, one JSON object a line
    #[arg(long, value_name = "FILE.jsonl")]
    pub prompts: PathBuf,
    /// File to write
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
    /// Layers such as 1-3,5 (all if not given)
    #[arg(long)]
    pub layers: Option<String>,
    /// Only the rows of that many last tokens of each prompt
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    pub last: Option<u32>,
    /// Write logits too
    #[arg(long)]
    pub logits: bool,
}

/// Steering on the command line.
#[derive(Args, Clone)]
pub struct Steering {
    /// Direction file: ours, a GGUF control vector or .svec
    #[arg(long, value_name = "FILE", requires = "layers")]
    pub directions: Option<PathBuf>,
    /// Layers such as 1-2 or 1,3
    #[arg(long, requires = "directions")]
    pub layers: Option<String>,
    /// Signed multiplier of the unit direction, divided by the number of layers
    #[arg(long, allow_negative_numbers = true, requires = "directions")]
    pub coeff: Option<f64>,
    /// Instead of --coeff: a signed fraction of the mean residual norm at these layers
    #[arg(
        long,
        allow_negative_numbers = true,
        requires = "directions",
        conflicts_with = "coeff"
    )]
    pub fraction: Option<f64>,
    /// Instead of --coeff: each layer gets this times its own norm, as llama.cpp applies a
    /// control vector
    #[arg(
        long,
        allow_negative_numbers = true,
        requires = "directions",
        conflicts_with_all = ["coeff", "fraction"]
    )]
    pub strength: Option<f64>,
    /// What is done to the rows: add (h + c d), ablate (h - (h.d) d), turn (as add, but as
    /// long as h was), clamp (the projection on d becomes c)
    #[arg(long, default_value = "add")]
    pub operator: Operator,
    /// Where: output or input of the block, middle (between attention and MLP), or
    /// everywhere (ablate the direction of one layer at every site)
    #[arg(long, default_value = "output")]
    pub site: Site,
    /// Rows: all, prompt, generated, last:K, positions:P,Q,.., window:A..B
    #[arg(long, default_value = "all", allow_hyphen_values = true)]
    pub rows: Positions,
    /// Go on where the steering changes nothing, which is an error otherwise
    #[arg(long, requires = "directions")]
    pub allow_no_effect: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Operator {
    Add,
    Ablate,
    Turn,
    Clamp,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Site {
    Output,
    Middle,
    Input,
    Everywhere,
}

#[derive(Args)]
pub struct Generate {
    /// Model directory, .uqff file or hub id
    #[arg(long)]
    pub model: String,
    #[command(flatten)]
    pub loading: Loading,
    /// Raw text to continue
    #[arg(long, conflicts_with = "prompts", required_unless_present = "prompts")]
    pub prompt: Option<String>,
    /// Prompts, one JSON object a line: {"prompt": ..} or {"messages": [..]}
    #[arg(long, value_name = "FILE.jsonl")]
    pub prompts: Option<PathBuf>,
    /// PEFT adapter to apply
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    #[command(flatten)]
    pub steering: Steering,
    /// Most tokens of a continuation
    #[arg(long, default_value_t = 64)]
    pub max_new_tokens: usize,
    /// Sample at this temperature; greedy if not given
    #[arg(long)]
    pub temperature: Option<f64>,
    /// Seed of sampling
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// One JSON object a prompt: prompt, text, tokens
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Merge {
    /// Model directory, .uqff file or hub id
    #[arg(long)]
    pub model: String,
    /// PEFT adapter
    #[arg(long, value_name = "DIR")]
    pub adapter: PathBuf,
    /// Type of the merged weights, such as q4k, or auto: the smallest that keeps the tuned
    /// behaviour. Not given, full weights stay full and a UQFF keeps its types
    #[arg(long, value_name = "TYPE", value_parser = quantize)]
    pub quantize: Option<Quantize>,
    /// Recipe whose claims calibrate, choose and measure
    #[arg(long, value_name = "RECIPE.toml")]
    pub recipe: Option<PathBuf>,
    /// nearest, corrected, calibrated, kept, retuned or grafted; with auto a list of those
    /// to try. Not given: calibrated with --recipe, else nearest; auto tries nearest,
    /// calibrated and kept
    #[arg(long, value_delimiter = ',', value_parser = way)]
    pub way: Vec<MergeRounding>,
    /// Share by which `kept` may make the file larger
    #[arg(long, default_value_t = 0.05, value_parser = share)]
    pub growth: f64,
    /// Share of the tuned effect that auto keeps at least
    #[arg(long, default_value_t = 0.95, value_parser = share)]
    pub least: f64,
    /// Mode that retuned and grafted tune
    #[arg(long, value_parser = mode, requires_all = ["recipe", "directions"])]
    pub mode: Option<Mode>,
    /// Direction file to which cosines are measured, and retuned and grafted tune
    #[arg(long, value_name = "FILE", requires = "recipe")]
    pub directions: Option<PathBuf>,
    /// Directory to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

impl Merge {
    /// A flag that was typed and measures quantized weights.
    pub fn measuring(&self) -> Option<&'static str> {
        match (&self.recipe, self.way.as_slice()) {
            (Some(_), _) => Some("--recipe"),
            (None, [_, ..]) => Some("--way"),
            (None, []) => None,
        }
    }
}

/// What merged weights become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantize {
    /// The smallest type that keeps enough of the behaviour.
    Auto,
    /// This one.
    Type(WeightType),
}

fn mode(text: &str) -> Result<Mode, String> {
    let names: Vec<&str> = Mode::ALL.iter().map(|m| m.name()).collect();
    let found = Mode::ALL.into_iter().find(|m| m.name() == text);
    found.ok_or_else(|| format!("one of {}", names.join(", ")))
}

fn quantize(text: &str) -> Result<Quantize, String> {
    match text {
        "auto" => Ok(Quantize::Auto),
        _ => match WeightType::parse(text) {
            Ok(t) => Ok(Quantize::Type(t)),
            Err(_) => {
                let names: Vec<&str> = WeightType::ALL.iter().map(|(n, _)| *n).collect();
                Err(format!("expected auto or one of {}", names.join(", ")))
            }
        },
    }
}

fn way(text: &str) -> Result<MergeRounding, String> {
    let names: Vec<&str> = MergeRounding::ALL.iter().map(|w| w.name()).collect();
    let found = MergeRounding::ALL
        .into_iter()
        .find(|w| w.name() == text.trim());
    found.ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok();
    let within = number.filter(|x| (0. ..=1.).contains(x));
    within.ok_or_else(|| "expected a share from 0 to 1".into())
}

fn dose(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok();
    let positive = number.filter(|x| *x > 0. && x.is_finite());
    positive.ok_or_else(|| "expected a number above 0; both signs are tried".into())
}

/// Parses sets of layers such as `1;2;1-3`.
pub fn layer_sets(text: &str, count: usize) -> anyhow::Result<Vec<Vec<usize>>> {
    text.split(';')
        .map(|set| layers(set.trim(), count))
        .collect()
}

/// Parses layers such as `1-3,5`; `all` are those below `count`.
pub fn layers(text: &str, count: usize) -> anyhow::Result<Vec<usize>> {
    if text == "all" {
        return Ok((0..count).collect());
    }
    let wrong = || {
        anyhow::anyhow!(
            "--layers: expected layers such as 1-3,5 or all, found `{text}`; this model has layers 0 to {}",
            count - 1
        )
    };
    let mut layers = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let number = |s: &str| {
            s.trim()
                .parse::<usize>()
                .ok()
                .filter(|l| *l < count)
                .ok_or_else(wrong)
        };
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
mod tests {
    use super::*;

    #[test]
    fn layers_are_ranges_and_lists() {
        assert_eq!(layers("1-3,5", 6).expect("valid"), [1, 2, 3, 5]);
        assert_eq!(layers("2", 6).expect("valid"), [2]);
        assert_eq!(layers("all", 3).expect("valid"), [0, 1, 2]);
        for text in ["6", "3-1", "", "x", "1-", "-1"] {
            let message = layers(text, 6).expect_err(text).to_string();
            assert!(message.contains("0 to 5"), "{message}");
        }
    }
}
