//! `reptune cache`: the directory of derived files.

use super::output::{bytes, print, print_json, table};
use crate::store::{Store, StoreEntry};
use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Args)]
#[command(after_help = "\
Examples:
  reptune cache ls
  reptune cache gc --unused 30
  reptune cache gc --unused 0

The cache holds files that reptune can make again: merged and baked variants that `serve`
and the mistral.rs builder load, and imported GGUF models. It is the directory
REPTUNE_CACHE, else $XDG_CACHE_HOME/reptune, else ~/.cache/reptune, and may be removed at
any time.")]
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
    /// Remove entries that have not been used for some days
    Gc {
        /// Days without use after which an entry is removed; 0 removes all
        #[arg(long, value_name = "DAYS", default_value_t = 30)]
        unused: u64,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
}

pub fn cache(a: &CacheArgs) -> Result<()> {
    let store = Store::open()?;
    let (json, entries, what, key) = match a.command {
        CacheCommand::Ls { json } => (json, store.entries()?, "", "entries"),
        CacheCommand::Gc { unused, json } => {
            let removed = store.gc(Duration::from_secs(unused * 86_400))?;
            (json, removed, "removed ", "removed")
        }
    };
    let total: u64 = entries.iter().map(|e| e.bytes).sum();
    if json {
        let entries: Vec<Value> = entries.iter().map(as_json).collect();
        return print_json(&json!({"cache": store.root(), "bytes": total, key: entries}));
    }
    let (root, n) = (store.root().display(), entries.len());
    print(format_args!("{root}: {what}{n} entries, {}", bytes(total)))?;
    if entries.is_empty() {
        return Ok(());
    }
    let table = table(&["size", "last used", "made from"], entries, |e| {
        let ago = format!("{} ago", age(e.age().as_secs()));
        vec![bytes(e.bytes), ago, e.made_from]
    });
    print(format_args!("\n{table}"))
}

fn as_json(e: &StoreEntry) -> Value {
    let seconds = e.age().as_secs();
    json!({"directory": e.directory, "made_from": e.made_from, "bytes": e.bytes, "unused_seconds": seconds})
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
