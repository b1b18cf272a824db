//! A report as a directory, which is replaced as a whole.

use crate::error::{Error, Result};
use reptune_adapters::files::{self, Staging};
use reptune_report::{MARK, PAGE, Report};
use std::path::Path;

/// Writes `report` as the directory `out`, in place of the report that stands there.
///
/// # Errors
/// When parts of the report do not fit together, something other than a report stands at `out`,
/// or the disk fails; `out` is then as it was.
pub fn write_report(report: &Report, out: &Path) -> Result<()> {
    let files = report.files()?;
    check(out)?;
    let staging = Staging::replacing(out, |_| true)?;
    for (name, content) in &files {
        files::write_atomically(&staging.path().join(name), |w| w.write_all(content))?;
    }
    Ok(staging.commit()?)
}

/// Refuses whatever stands at `out` and is no report.
fn check(out: &Path) -> Result<()> {
    let entries = std::fs::read_dir(out).map(Iterator::count);
    let page = std::fs::read_to_string(out.join(PAGE));
    let found = match (entries, page) {
        (Err(_), _) if !out.exists() => return Ok(()),
        (Err(_), _) => "a file",
        (Ok(0), _) => return Ok(()),
        (_, Ok(page)) if page.contains(MARK) => return Ok(()),
        _ => "a directory with other files in it",
    };
    let (place, expected) = ("output directory", "a new name, or an earlier report");
    let hint = "name another, or remove this one first";
    Err(Error::input(out, place, expected, found, hint))
}

#[cfg(test)]
mod tests;
