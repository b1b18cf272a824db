//! The command line: what was typed, and what it means.

mod bake;
mod capture;
mod convert;
mod flags;
mod generate;
mod inspect;
mod merge;
mod opened;
mod plan;
mod run;
mod search;
mod select;
mod serve;
mod sweep;

use clap::Parser;
use flags::{Arguments, Command};
use indicatif::{ProgressBar, ProgressStyle};
use std::process::ExitCode;

/// Runs the program on the process's arguments; errors are told on stderr, with exit code 2.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Run(a) => run::run(&a),
        Command::Extract(a) => run::extract(&a),
        Command::Select(a) => select::select(&a),
        Command::Sweep(a) => sweep::sweep(&a),
        Command::Search(a) => search::search(&a),
        Command::Tune(a) => run::tune(&a),
        Command::Evaluate(a) => run::evaluate(&a),
        Command::Capture(a) => capture::capture(&a),
        Command::Generate(a) => generate::generate(&a),
        Command::Merge(a) => merge::merge(&a),
        Command::Bake(a) => bake::bake(&a),
        Command::Convert(a) => convert::convert(&a),
        Command::Inspect(a) => inspect::inspect(&a),
        Command::Serve(a) => serve::serve(&a),
        Command::Plan(a) => plan::plan(&a),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// A progress bar on stderr with the time left.
fn bar(length: usize, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(length as u64);
    let style = ProgressStyle::with_template("{msg:28} {bar:30} {pos}/{len}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what.to_owned());
    bar
}
