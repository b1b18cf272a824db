//! Times reptune's own work: every command runs the real code on a random model and random
//! prompts, and prints one JSON object.
//!
//! A command writes its work to `--work DIR` (`work.json` with every token id and learning
//! rate; safetensors for directions and LoRA factors), so that another program can do the
//! same work. `peers` does it with torch, transformers and PEFT.

mod bake;
mod capture;
mod generate;
mod make_model;
mod merge;
mod product;
mod serve;
mod sweep;
mod tune;
mod workload;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The same allocator as in the program `reptune`, because this measures the same work.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps freed memory for ten seconds, as the program `reptune` does.
#[allow(unsafe_code)]
fn keep_freed_memory() {
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15; // mi_option_purge_delay of mimalloc.h
    const MILLISECONDS: i64 = 10_000;
    // SAFETY: sets one of the allocator's options before any other thread exists.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, MILLISECONDS as _) }
}

const EXAMPLES: &str = "Examples:
  reptune-bench make-model --out bench-model
  reptune-bench tune --model bench-model --work work/tune --prompts 16 --mode in+
  reptune-bench sweep --model bench-model --work work/sweep --questions 50 --coeffs 6

Models, prompts and directions are random. A workload that --work already holds is run
again unchanged.";

/// Time reptune's own work on random models; each command prints one JSON object
#[derive(Parser)]
#[command(name = "reptune-bench", version, max_term_width = 90, after_help = EXAMPLES)]
struct Bench {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a random Llama
    MakeModel(make_model::MakeModelArgs),
    /// Tune, and time the steps
    Tune(tune::TuneArgs),
    /// Capture the residual stream of pairs of prompts
    Capture(capture::CaptureArgs),
    /// Steer with every layer and coefficient, and score or generate answers
    Sweep(sweep::SweepArgs),
    /// Continue prompts
    Generate(generate::GenerateArgs),
    /// Send requests to the server of `reptune serve`
    Serve(serve::ServeArgs),
    /// Merge a random LoRA adapter into a checkpoint
    Merge(merge::MergeArgs),
    /// Write a quantized model, with or without a random direction baked in
    Bake(bake::BakeArgs),
    /// Multiply square matrices: the best rate of this machine
    Product(product::ProductArgs),
}

fn main() -> ExitCode {
    keep_freed_memory();
    match run(Bench::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let report = match command {
        Command::MakeModel(a) => make_model::run(&a),
        Command::Tune(a) => tune::run(&a),
        Command::Capture(a) => capture::run(&a),
        Command::Sweep(a) => sweep::run(&a),
        Command::Generate(a) => generate::run(&a),
        Command::Serve(a) => serve::run(&a),
        Command::Merge(a) => merge::run(&a),
        Command::Bake(a) => bake::run(&a),
        Command::Product(a) => product::run(&a),
    }?;
    println!("{report}");
    Ok(())
}

/// The largest amount of memory that this process has held, in bytes (Linux only).
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// The middle one; 0 of none.
fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.)
}
