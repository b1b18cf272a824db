//! Commands that take files: `reptune inspect`, `reptune convert` and `reptune cache`.

use super::args::{self, DoseArgs};
use super::output::{bytes, facts, print, print_json, table};
use crate::decoder::parse_dtype;
use crate::store::{Store, StoreEntry};
use crate::{convert::Conversion, inspect, progress};
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use reptune_adapters::steering::direction::LAYER_CONVENTION;
use reptune_report::aligned;
use serde_json::{Value, json};
use std::{path::PathBuf, time::Duration};

#[derive(Args)]
#[command(after_help = "\
Examples:
  reptune inspect runs/my/directions.safetensors
  reptune inspect runs/my/tuned/in_minus_lie
  reptune inspect baked/model.uqff --json

Checks the hashes that the file carries; a wrong hash is an error.")]
pub struct InspectArgs {
    /// Direction file, adapter, UQFF, model directory or directory of a run
    pub path: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

pub fn inspect(a: &InspectArgs) -> Result<()> {
    let found = inspect::inspect(&a.path, &mut progress::of("check"))?;
    if a.json {
        return print_json(&found);
    }
    let checked = ("checked".to_owned(), found.checked);
    let rows: Vec<_> = found.facts.into_iter().chain([checked]).collect();
    let (path, rows) = (a.path.display(), facts("  ", &rows));
    print(format_args!("{path}: {}\n{rows}", found.kind))?;
    match found.parts.is_empty() {
        true => Ok(()),
        false => print(format_args!("\n{}", aligned(&found.parts))),
    }
}

#[derive(Args)]
#[command(after_help = "\
Examples:
  reptune convert directions.safetensors -o honesty.gguf
  reptune convert directions.safetensors --layers 14-16 --total 19 -o dosed.gguf
  reptune convert repeng.gguf --layer-offset -1 -o directions.safetensors
  reptune convert runs/my/tuned/in_minus_lie -m DIR -o lie.gguf
  reptune convert lie.gguf -m DIR -o adapter
  reptune convert llama.gguf -o model
  reptune convert llama.gguf --dequantize bf16 -o full

Converts directions between .safetensors, .gguf (control vectors of llama.cpp) and .svec;
adapters between PEFT directories and .gguf; a model in GGUF to a UQFF directory, or with
--dequantize, which also takes a UQFF, to full weights.

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
    /// Layer i of the file is layer i + N here, for files that number layers differently
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 0
    )]
    pub layer_offset: i64,
    /// Write a quantized model as a full checkpoint, in f32, f16 or bf16
    #[arg(long, value_name = "DTYPE")]
    pub dequantize: Option<String>,
    /// Model that the adapter belongs to
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
        full: a.dequantize.as_deref().map(parse_dtype).transpose()?,
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

#[derive(Args)]
#[command(after_help = "\
Examples:
  reptune cache ls
  reptune cache gc --unused 30
  reptune cache gc --cache-limit 5GB
  reptune cache verify

The cache holds files that reptune can make again: merged and baked variants that `serve`
and the mistral.rs builder load, and imported GGUF models. It is the directory
REPTUNE_CACHE, else $XDG_CACHE_HOME/reptune, else ~/.cache/reptune, and may be removed at
any time. A new entry that exceeds --cache-limit (or REPTUNE_CACHE_LIMIT) removes the
entries that were used longest ago, but none that a process uses.")]
pub struct CacheArgs {
    #[command(subcommand)]
    pub command: CacheCommand,
}

#[derive(Subcommand)]
pub enum CacheCommand {
    /// List the entries, the last used first
    Ls {
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove entries that have not been used for some days, and those used longest ago where
    /// the rest exceeds the limit
    Gc {
        /// Days without use after which an entry is removed; 0 removes all
        #[arg(long, value_name = "DAYS", default_value_t = 30)]
        unused: u64,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Hash every file, and remove the entries that are not as they were written
    Verify {
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
}

pub fn cache(a: &CacheArgs) -> Result<()> {
    let store = Store::open()?;
    let mut damaged = Vec::new();
    let (json, entries, what, key) = match a.command {
        CacheCommand::Ls { json } => (json, store.entries()?, "", "entries"),
        CacheCommand::Gc { unused, json } => {
            let removed = store.gc(Duration::from_secs(unused * 86_400))?;
            (json, removed, "removed ", "removed")
        }
        CacheCommand::Verify { json } => {
            let checked = store.verify(&mut progress::of("verify"))?;
            let (intact, other): (Vec<_>, Vec<_>) = checked.into_iter().partition(|c| c.1);
            damaged.extend(other.into_iter().map(|(entry, _)| entry));
            let intact = intact.into_iter().map(|(entry, _)| entry);
            (json, intact.collect(), "intact: ", "entries")
        }
    };
    let total: u64 = entries.iter().map(|e| e.bytes).sum();
    let (root, n) = (store.root().display(), entries.len());
    if json {
        let [listed, removed] = [&entries, &damaged].map(|e| as_json(e));
        let mut said =
            json!({"cache": store.root(), "bytes": total, "limit": store.limit(), key: listed});
        if matches!(a.command, CacheCommand::Verify { .. }) {
            said["damaged"] = removed;
        }
        print_json(&said)?;
    } else {
        let limit = bytes(store.limit());
        print(format_args!(
            "{root}: {what}{n} entries, {} of {limit}",
            bytes(total)
        ))?;
        if !entries.is_empty() {
            print(format_args!("\n{}", listed(&entries)))?;
        }
    }
    if !damaged.is_empty() {
        let n = damaged.len();
        bail!(
            "{root}: {n} entries were not as they were written and are removed; they are made \
             again when they are needed\n\n{}",
            listed(&damaged)
        );
    }
    Ok(())
}

fn as_json(entries: &[StoreEntry]) -> Value {
    let entries = entries.iter().map(|e| {
        json!({
            "directory": e.directory, "made_from": e.made_from, "bytes": e.bytes,
            "unused_seconds": e.age().as_secs(), "in_use": e.is_in_use(),
        })
    });
    entries.collect()
}

fn listed(entries: &[StoreEntry]) -> String {
    table("size, last used, made from", entries, |e| {
        let used = match e.is_in_use() {
            true => "now".to_owned(),
            false => format!("{} ago", age(e.age().as_secs())),
        };
        vec![bytes(e.bytes), used, e.made_from.clone()]
    })
}

/// `3 min`.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
