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
    let io = |e| reptune_adapters::Error::write(out, e);
    let out = std::path::absolute(out).map_err(io)?;
    let stands = occupied(&out)?;
    let parent = out.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).map_err(io)?;
    let aside = tempfile::Builder::new()
        .prefix(".reptune-")
        .tempdir_in(parent);
    let aside = aside.map_err(io)?;
    let next = aside.path().join("next");
    let staging = Staging::new(&next)?;
    for (name, content) in &files {
        files::write_atomically(&staging.path().join(name), |w| w.write_all(content))?;
    }
    staging.commit()?;
    let last = aside.path().join("last");
    if stands {
        std::fs::rename(&out, &last).map_err(io)?;
    }
    if let Err(e) = std::fs::rename(&next, &out) {
        if stands {
            std::fs::rename(&last, &out).map_err(io)?;
        }
        return Err(io(e).into());
    }
    Ok(())
}

/// Whether a report stands at `out`; anything else that does is an error.
fn occupied(out: &Path) -> Result<bool> {
    let entries = std::fs::read_dir(out).map(Iterator::count);
    let page = std::fs::read_to_string(out.join(PAGE));
    let found = match (entries, page) {
        (Err(_), _) if !out.exists() => return Ok(false),
        (Err(_), _) => "a file",
        (Ok(0), _) => return Ok(true),
        (_, Ok(page)) if page.contains(MARK) => return Ok(true),
        _ => "a directory with other files in it",
    };
    let (place, expected) = ("output directory", "a new name, or an earlier report");
    let hint = "name another, or remove this one first";
    Err(Error::input(out, place, expected, found, hint))
}

#[cfg(test)]
mod tests;
