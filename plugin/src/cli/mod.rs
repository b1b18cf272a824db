//! The command line: for each command its flags, and what it prints.
//!
//! Nothing is computed here: a command reads its flags, calls the library, and prints.

mod args;
mod bake;
mod files;
mod merge;
mod output;
mod prompts;
mod recipe;
mod serve;
mod sweep;
mod tune;

use crate::progress::{self, Progress, Shown};
use crate::store;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use reptune_adapters::files::remove_abandoned;
use std::{io::Write, process::ExitCode};

/// Find the direction of a behaviour in a model, steer with it, tune it into the
/// weights, and write files that mistral.rs, PEFT and llama.cpp load
///
/// Layers are counted from 0: layer i is the output of decoder block i.
#[derive(Parser)]
#[command(
    name = "reptune",
    version,
    max_term_width = 90,
    arg_required_else_help = true
)]
#[command(after_help = "Start with `reptune run recipes/honesty-mini.toml`. \
    `reptune COMMAND --help` shows the flags of a command and examples.\n\n\
    Exit codes: 0 success, 1 failure, 2 wrong usage.")]
struct Arguments {
    /// Show no progress
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Also show which stages run and which are up to date
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Most that the cache of derived files may hold: a size, or a number of GB; see `reptune
    /// cache --help` [default: REPTUNE_CACHE_LIMIT, or 20GB]
    #[arg(long, global = true, value_name = "SIZE", value_parser = size)]
    cache_limit: Option<u64>,
    /// Print a completion script for this shell, and exit
    #[arg(long, value_name = "SHELL")]
    completions: Option<Shell>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole recipe: extract, tune, merge, bake and evaluate
    #[command(after_help = recipe::RUN)]
    Run(args::RunArgs),
    /// Extract the direction of a behaviour
    #[command(after_help = recipe::EXTRACT)]
    Extract(args::RunArgs),
    /// Compare layers and doses of steering, or choose one with --select
    Sweep(sweep::SweepArgs),
    /// Tune a direction into the weights, search for settings, or estimate the cost
    Tune(tune::TuneArgs),
    /// Ask a model the test questions of a recipe
    Evaluate(recipe::EvaluateArgs),
    /// Write the residual stream of prompts to a file
    Capture(prompts::CaptureArgs),
    /// Generate text, optionally steered or with an adapter
    Generate(prompts::GenerateArgs),
    /// Merge an adapter into full or quantized weights
    Merge(merge::MergeArgs),
    /// Bake steering into a UQFF file that unmodified mistral.rs loads
    Bake(bake::BakeArgs),
    /// Convert directions, adapters and models between file formats
    Convert(files::ConvertArgs),
    /// Show what a file or directory holds, and check its hashes
    Inspect(files::InspectArgs),
    /// Serve a model and its steered and tuned variants over an OpenAI-compatible API
    Serve(serve::ServeArgs),
    /// List or clean up the cache of derived files
    Cache(files::CacheArgs),
}

impl Command {
    fn run(&self) -> anyhow::Result<()> {
        // a server is not work that ends; it shows what it loads
        let serves = matches!(self, Self::Serve(_));
        let _shown = (!serves).then(|| Progress::new("working", 0));
        match self {
            Self::Run(a) => recipe::run(a),
            Self::Extract(a) => recipe::extract(a),
            Self::Sweep(a) => sweep::sweep(a),
            Self::Tune(a) => tune::tune(a),
            Self::Evaluate(a) => recipe::evaluate(a),
            Self::Capture(a) => prompts::capture(a),
            Self::Generate(a) => prompts::generate(a),
            Self::Merge(a) => merge::merge(a),
            Self::Bake(a) => bake::bake(a),
            Self::Convert(a) => files::convert(a),
            Self::Inspect(a) => files::inspect(a),
            Self::Serve(a) => serve::serve(a),
            Self::Cache(a) => files::cache(a),
        }
    }
}

/// Runs the program on the arguments of the process: exit code 1 after a failure, whose
/// message goes to stderr, and 2 for arguments that are wrong.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => match replacement(&error) {
            Some(hint) => return fail(hint, 2),
            None => error.exit(),
        },
    };
    progress::show(match (arguments.quiet, arguments.verbose) {
        (true, _) => Shown::Nothing,
        (false, false) => Shown::Progress,
        (false, true) => Shown::Notes,
    });
    if let Some(bytes) = arguments.cache_limit {
        store::set_limit(bytes);
    }
    let result = match (&arguments.completions, &arguments.command) {
        (Some(shell), _) => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "reptune", &mut script);
            output::print(String::from_utf8_lossy(&script).trim_end())
        }
        (None, Some(command)) => {
            // what processes left there that were killed
            remove_abandoned(&std::env::temp_dir());
            command.run()
        }
        (None, None) => {
            let message = "a command is required; see `reptune --help`";
            Arguments::command()
                .error(ErrorKind::MissingSubcommand, message)
                .exit()
        }
    };
    match result {
        Err(error) if !error.is::<output::ClosedPipe>() => fail(with_causes(&error), 1),
        _ => ExitCode::SUCCESS,
    }
}

fn size(text: &str) -> Result<u64, String> {
    store::parse_size(text).ok_or_else(|| "expected a size such as 20GB or 500MB".to_owned())
}

/// An error and its causes, each text once.
fn with_causes(error: &anyhow::Error) -> String {
    let texts = error.chain().map(ToString::to_string);
    let join = |text: String, cause: String| {
        if text.contains(&cause) {
            text
        } else if cause.starts_with(&text) {
            cause
        } else {
            format!("{text}: {cause}")
        }
    };
    texts.reduce(join).unwrap_or_default()
}

fn fail(message: String, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {message}");
    ExitCode::from(code)
}

const HOOK: &str = "--hook resid_pre|resid_mid|resid_post|everywhere";

/// Commands and flags of earlier versions, and what replaces them.
const REPLACED: [(&str, &str); 11] = [
    ("select", "reptune sweep RECIPE.toml --select"),
    ("search", "reptune tune RECIPE.toml --search"),
    ("plan", "reptune tune RECIPE.toml --plan"),
    (
        "set-coeff",
        "reptune bake --coeffs C,.. (one small file for each dose)",
    ),
    ("bench", "cargo run -p reptune-bench"),
    ("--isq", "--quantize"),
    ("--site", HOOK),
    ("--module", HOOK),
    ("--rows", "--positions"),
    ("--way", "--rounding"),
    ("--gflops", "--measure"),
];

/// What replaces the command or flag that `error` does not know.
fn replacement(error: &clap::Error) -> Option<String> {
    let place = match error.kind() {
        ErrorKind::InvalidSubcommand => ContextKind::InvalidSubcommand,
        ErrorKind::UnknownArgument => ContextKind::InvalidArg,
        _ => return None,
    };
    let Some(ContextValue::String(typed)) = error.get(place) else {
        return None;
    };
    let (old, new) = REPLACED.iter().find(|(old, _)| old == typed)?;
    Some(format!("`{old}` has been replaced by `{new}`"))
}
