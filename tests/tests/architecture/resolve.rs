//! From a path in the source to the module that defines what it names.

use super::source::Crate;

/// No path goes through more re-exports.
const MOST: usize = 16;

impl Crate {
    /// The module that owns what `path` names in module `from`; none if that is another crate.
    /// Re-exports and imports are followed to the definition.
    pub fn owner(&self, from: usize, path: &[String]) -> Option<usize> {
        self.follow(from, path, MOST)
    }

    fn follow(&self, from: usize, path: &[String], left: usize) -> Option<usize> {
        let left = left.checked_sub(1)?;
        let module = &self.modules[from];
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.inside(0, rest, left),
            "self" => self.inside(from, rest, left),
            "super" => self.inside(module.parent, rest, left),
            name if module.children.contains_key(name) => self.inside(from, path, left),
            name => {
                let import = module.imported.get(name)?;
                // `use anyhow;` names itself
                let import = import.iter().chain(rest).cloned().collect::<Vec<_>>();
                if import == path {
                    return None;
                }
                self.follow(from, &import, left)
            }
        }
    }

    /// Goes from module `at` down along `path`.
    fn inside(&self, at: usize, path: &[String], left: usize) -> Option<usize> {
        let left = left.checked_sub(1)?;
        let module = &self.modules[at];
        let Some((first, rest)) = path.split_first() else {
            return Some(at);
        };
        if first == "super" {
            return self.inside(module.parent, rest, left);
        }
        if let Some(&child) = module.children.get(first) {
            return self.inside(child, rest, left);
        }
        if module.defined.contains(first) {
            return Some(at);
        }
        if let Some(import) = module.imported.get(first) {
            let import: Vec<String> = import.iter().chain(rest).cloned().collect();
            return self.follow(at, &import, left);
        }
        for glob in &module.globs {
            if let Some(target) = self.follow(at, glob, left)
                && (self.modules[target].defined.contains(first)
                    || self.modules[target].imported.contains_key(first))
            {
                return self.inside(target, path, left);
            }
        }
        Some(at)
    }
}
