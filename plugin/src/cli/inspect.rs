//! `reptune inspect`: what an artefact holds.

use super::{bar, flags};
use crate::inspect;
use anyhow::Result;
use reptune_report::aligned;

pub fn inspect(a: &flags::Inspect) -> Result<()> {
    let shown = bar(1, "check");
    let found = inspect::inspect(&a.path, &mut |done, of| {
        shown.set_length(of as u64);
        shown.set_position(done as u64);
    });
    shown.finish_and_clear();
    let found = found?;
    if a.json {
        println!("{}", serde_json::to_string(&found)?);
        return Ok(());
    }
    println!("{}: {}", a.path.display(), found.kind);
    let facts: Vec<Vec<String>> = found
        .facts
        .into_iter()
        .chain([("checked".to_owned(), found.checked)])
        .map(|(name, value)| vec![name, value])
        .collect();
    let width = facts
        .iter()
        .map(|f| f[0].chars().count())
        .max()
        .unwrap_or(0);
    for fact in &facts {
        println!("  {:width$}  {}", fact[0], fact[1]);
    }
    if !found.parts.is_empty() {
        println!("\n{}", aligned(&found.parts));
    }
    Ok(())
}
