//! How long files are, how much there is to read, and which names stand twice.

use super::source::Crate;
use super::{ROOMS, libraries, none, root, shown};
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Lines of a file, of tests too.
const LONGEST: usize = 500;
/// Most lines of all production code: 33,000 of the method on one architecture, the rest for three
/// more, for files and requests as people have them, and for runs that keep their work.
const PRODUCTION: usize = 40_000;

/// Every `.rs` below `directory`, except in build directories and members of their own.
fn sources(directory: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("target") {
                sources(&path, found)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.insert(path);
        }
    }
    Ok(())
}

fn lines(file: &Path) -> Result<usize> {
    Ok(std::fs::read_to_string(file)?.lines().count())
}

#[test]
fn no_file_is_too_long() -> Result<()> {
    let mut files = BTreeSet::new();
    for top in ROOMS.iter().filter(|r| !r.directory.contains('/')) {
        sources(&root().join(top.directory), &mut files)?;
    }
    let mut sizes = files
        .iter()
        .map(|f| Ok((lines(f)?, shown(f))))
        .collect::<Result<Vec<_>>>()?;
    sizes.sort();
    println!("{} files; the longest:", sizes.len());
    for (lines, file) in sizes.iter().rev().take(5) {
        println!("{lines:6} {file}");
    }
    let long: Vec<String> = (sizes.iter().rev())
        .filter(|(lines, _)| *lines > LONGEST)
        .map(|(lines, file)| format!("{file}: {lines} lines"))
        .collect();
    none(&format!("files past {LONGEST} lines"), &long);
    Ok(())
}

/// Production code: the files that a library or the program reaches without `#[cfg(test)]`.
#[test]
fn production_code_is_small_and_holds_no_tests() -> Result<()> {
    let (mut sum, mut findings) = (0, Vec::new());
    for room in libraries() {
        let all = Crate::read(room.directory)?;
        let mut production = BTreeSet::new();
        let mut reached = BTreeSet::new();
        for module in &all.modules {
            reached.insert(module.file.clone());
            if !module.test {
                production.insert(module.file.clone());
            } else if module.inline && !all.modules[module.parent].test {
                findings.push(format!(
                    "{}: tests inside; move `mod {}` into a file",
                    shown(&module.file),
                    module.path.last().map(String::as_str).unwrap_or_default()
                ));
            }
        }
        let mut files = BTreeSet::new();
        sources(&root().join(room.directory).join("src"), &mut files)?;
        for file in files.difference(&reached) {
            findings.push(format!("{}: no module declares it", shown(file)));
        }
        let mut lines_here = 0;
        for file in &production {
            lines_here += lines(file)?;
        }
        println!("{lines_here:6} {}", room.package);
        sum += lines_here;
    }
    println!("{sum:6} lines of production code, of {PRODUCTION}");
    none("files", &findings);
    assert!(sum <= PRODUCTION, "{sum} lines, at most {PRODUCTION}");
    Ok(())
}

#[test]
fn a_public_type_name_stands_once() -> Result<()> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for room in libraries() {
        let all = Crate::read(room.directory)?;
        for module in all.modules.iter().filter(|m| !m.test) {
            for name in &module.public_types {
                let place = shown(&module.file);
                places.entry(name.clone()).or_default().push(place);
            }
        }
    }
    println!("{} public type names", places.len());
    places.retain(|name, all| all.len() > 1 && name != "Error" && name != "Result");
    let twice: Vec<String> = (places.iter())
        .map(|(name, all)| format!("{name}: {}", all.join(", ")))
        .collect();
    none("public type names that stand twice", &twice);
    Ok(())
}
