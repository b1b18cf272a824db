//! Modules form no circle.
//!
//! The rule: in every directory of a crate, its root included, the files and directories that
//! lie in it side by side must import each other in one order. A directory imports what any file
//! below it imports. Names are followed through re-exports to the file that defines them, so a
//! `mod.rs` that only declares and re-exports is no file of its own. A `mod.rs` with code (or
//! `name.rs` next to `name/`) is one more file of its directory: its children may use what it
//! defines, or it may use its children, but no circle may go through it. Test modules are left
//! out.

use super::source::Crate;
use super::{libraries, none};
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// From importing to imported node, with one import as an example.
type Arrows = BTreeMap<usize, BTreeMap<usize, String>>;

/// Imports of the whole crate: (from, to).
fn imports(all: &Crate) -> BTreeSet<(usize, usize)> {
    let mut found = BTreeSet::new();
    for (from, module) in all.modules.iter().enumerate() {
        if module.test {
            continue;
        }
        for path in &module.named {
            found.extend(all.owner(from, path).map(|to| (from, to)));
        }
        // A re-export of what lies below is no import.
        for path in &module.exported {
            if let Some(to) = all.owner(from, path)
                && !all.modules[to].path.starts_with(&module.path)
            {
                found.insert((from, to));
            }
        }
    }
    found.retain(|(from, to)| from != to && !all.modules[*to].test);
    found
}

/// The node that stands for `module` in `directory`: a child, or the directory's own file.
fn node(all: &Crate, directory: usize, module: usize) -> Option<usize> {
    let mut at = module;
    while at != directory {
        let parent = all.modules[at].parent;
        if parent == directory || parent == at {
            return (parent == directory).then_some(at);
        }
        at = parent;
    }
    all.modules[directory].code.then_some(directory)
}

fn arrows(all: &Crate, directory: usize, imports: &BTreeSet<(usize, usize)>) -> Arrows {
    let mut arrows = Arrows::new();
    for &(from, to) in imports {
        if let (Some(a), Some(b)) = (node(all, directory, from), node(all, directory, to))
            && a != b
        {
            let example = format!("{} uses {}", all.name(from), all.name(to));
            arrows.entry(a).or_default().entry(b).or_insert(example);
        }
    }
    arrows
}

/// The shortest way along arrows from `start` back to it.
fn circle(arrows: &Arrows, start: usize) -> Option<Vec<usize>> {
    let mut came_from = BTreeMap::new();
    let mut open = VecDeque::from([start]);
    while let Some(at) = open.pop_front() {
        for &next in arrows.get(&at).into_iter().flat_map(|m| m.keys()) {
            if next == start {
                let mut way = vec![at];
                while let Some(&before) = came_from.get(way.last().unwrap_or(&start)) {
                    way.push(before);
                }
                way.reverse();
                return Some(way);
            }
            if next != start && !came_from.contains_key(&next) {
                came_from.insert(next, at);
                open.push_back(next);
            }
        }
    }
    None
}

/// Every circle, as `in steering: gate -> operator -> gate`, with the imports that make it.
fn circles(all: &Crate) -> Vec<String> {
    let imports = imports(all);
    let mut found = Vec::new();
    for directory in 0..all.modules.len() {
        let mut arrows = arrows(all, directory, &imports);
        let mut nodes: Vec<usize> = arrows.keys().copied().collect();
        while let Some(&start) = nodes.first() {
            let Some(way) = circle(&arrows, start) else {
                nodes.remove(0);
                continue;
            };
            let names: Vec<String> = way.iter().chain([&start]).map(|&n| all.name(n)).collect();
            let ends = way.iter().zip(way.iter().cycle().skip(1));
            let examples: Vec<&str> = ends.map(|(a, b)| arrows[a][b].as_str()).collect();
            found.push(format!(
                "in {}: {} ({})",
                all.name(directory),
                names.join(" -> "),
                examples.join(", ")
            ));
            // Each circle once: without its last arrow it is none.
            let last = way[way.len() - 1];
            arrows.get_mut(&last).map(|m| m.remove(&start));
        }
    }
    found
}

#[test]
fn modules_form_no_circle() -> Result<()> {
    let mut findings = Vec::new();
    for room in libraries() {
        let all = Crate::read(room.directory)?;
        let files = all.modules.iter().filter(|m| !m.test).count();
        println!("{}: {files} modules", room.package);
        let named = |circle| format!("{} {circle}", room.package);
        findings.extend(circles(&all).into_iter().map(named));
    }
    none("circles between modules", &findings);
    Ok(())
}

/// The circles of a crate whose files are given.
fn circles_of(files: &[(&str, &str)]) -> Result<Vec<String>> {
    let room = tempfile::tempdir()?;
    for (name, text) in files {
        let file = room.path().join("src").join(name);
        std::fs::create_dir_all(file.parent().unwrap_or(room.path()))?;
        std::fs::write(file, text)?;
    }
    let directory = room.path().to_str().unwrap_or_default();
    Ok(circles(&Crate::read(directory)?))
}

#[test]
fn circles_are_found() -> Result<()> {
    let root = ("lib.rs", "mod a; mod b; pub use b::B;");
    let through_a_re_export = circles_of(&[
        root,
        ("a.rs", "use crate::B; pub struct A(B);"),
        ("b/mod.rs", "mod inner; pub use inner::B;"),
        (
            "b/inner.rs",
            "pub struct B; fn f() { super::super::a::g::<u8>() }",
        ),
    ])?;
    let expected = "in lib.rs: a -> b -> a (a uses b::inner, b::inner uses a)";
    assert_eq!(through_a_re_export, [expected]);
    let through_the_parent = circles_of(&[
        root,
        ("a.rs", ""),
        ("b/mod.rs", "mod inner; pub struct B(inner::C);"),
        ("b/inner.rs", "pub struct C; impl super::B {}"),
    ])?;
    let expected = "in b: b -> b::inner -> b (b uses b::inner, b::inner uses b)";
    assert_eq!(through_the_parent, [expected]);
    let none = circles_of(&[
        root,
        ("a.rs", "#[cfg(test)] use crate::B; pub struct A;"),
        (
            "b/mod.rs",
            "mod inner; pub struct B; #[cfg(test)] mod tests;",
        ),
        (
            "b/inner.rs",
            "impl super::B { fn a(&self) -> crate::a::A { todo() } }",
        ),
        ("b/tests.rs", "use super::inner;"),
    ])?;
    assert_eq!(none, [""; 0]);
    Ok(())
}
