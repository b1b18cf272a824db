//! The modules of a crate, read from its sources: what each defines, imports and names.

use super::root;
use anyhow::{Context, Result, ensure};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::path::{Path, PathBuf};

/// All modules that a crate's `lib.rs` reaches, and its `main.rs`.
pub struct Crate {
    /// The first is the root.
    pub modules: Vec<Module>,
}

/// A module: a file, or a block inside one.
#[derive(Default)]
pub struct Module {
    /// From the root, which has none.
    pub path: Vec<String>,
    pub file: PathBuf,
    /// Index of the module above; the root is its own.
    pub parent: usize,
    /// Compiled only for tests.
    pub test: bool,
    /// A block `mod name { .. }`, not a file.
    pub inline: bool,
    /// Index of every module that is declared here.
    pub children: BTreeMap<String, usize>,
    /// What `use` brings in at the top, by name.
    pub imported: BTreeMap<String, Vec<String>>,
    /// Paths before `::*`.
    pub globs: Vec<Vec<String>>,
    /// Names of items, public or not.
    pub defined: BTreeSet<String>,
    /// Public structs, enums, unions, traits and type aliases.
    pub public_types: Vec<String>,
    /// Has code, not just `mod` and `use`.
    pub code: bool,
    /// Paths that the code names; a re-export is none.
    pub named: BTreeSet<Vec<String>>,
    /// Paths that are imported for others: `pub use`.
    pub exported: BTreeSet<Vec<String>>,
}

type Tokens = Peekable<proc_macro2::token_stream::IntoIter>;

/// One name of a `use`.
struct Import {
    path: Vec<String>,
    name: String,
}

impl Crate {
    /// Reads the crate in `directory`, seen from the root of the workspace.
    pub fn read(directory: &str) -> Result<Self> {
        let src = root().join(directory).join("src");
        let mut all = Self {
            modules: Vec::new(),
        };
        all.file(Vec::new(), src.join("lib.rs"), src.clone(), 0, false)?;
        let main = src.join("main.rs");
        if main.is_file() {
            let index = all.file(vec!["main".into()], main, src, 0, false)?;
            // A program of its own: its `crate` is another one.
            all.modules[index].named.clear();
        }
        Ok(all)
    }

    /// The name of module `index`, as `steering::gate`.
    pub fn name(&self, index: usize) -> String {
        match self.modules[index].path.as_slice() {
            [] => "lib.rs".into(),
            path => path.join("::"),
        }
    }

    fn file(
        &mut self,
        path: Vec<String>,
        file: PathBuf,
        children: PathBuf,
        parent: usize,
        test: bool,
    ) -> Result<usize> {
        let module = Module {
            path,
            file,
            parent,
            test,
            ..Module::default()
        };
        let tokens = tokens(&module.file)?;
        self.module(module, tokens, &children)
    }

    /// Adds a module and those that it declares, whose files lie in `below`.
    fn module(&mut self, module: Module, tokens: TokenStream, below: &Path) -> Result<usize> {
        let index = self.modules.len();
        self.modules.push(module);
        let mut tokens = tokens.into_iter().peekable();
        let (mut public, mut for_tests) = (false, false);
        while let Some(token) = tokens.next() {
            match token.to_string().as_str() {
                "#" => {
                    tokens.next_if(|t| is_punct(t, '!'));
                    for_tests |= tokens.next().is_some_and(|t| is_cfg_test(&t));
                    continue;
                }
                "pub" => {
                    let limit = tokens.next_if(|t| group_in(t, Delimiter::Parenthesis));
                    public = limit.is_none();
                    continue;
                }
                "unsafe" | "async" | "extern" => continue,
                // `const fn`
                "const" if tokens.peek().is_some_and(|t| t.to_string() == "fn") => continue,
                "mod" => {
                    let name = tokens.next().context("mod without a name")?.to_string();
                    let block = match tokens.next() {
                        Some(TokenTree::Group(block)) => Some(block.stream()),
                        _ => None,
                    };
                    let child = self.child(index, &name, block, below, for_tests)?;
                    self.modules[index].children.insert(name, child);
                }
                word => {
                    let mut left_out = Module::default();
                    let module = match for_tests {
                        true => &mut left_out,
                        false => &mut self.modules[index],
                    };
                    module.item(word, token, &mut tokens, public);
                }
            }
            (public, for_tests) = (false, false);
        }
        Ok(index)
    }

    /// Adds the module `name` that module `parent` declares: `block`, or else a file in `below`.
    fn child(
        &mut self,
        parent: usize,
        name: &str,
        block: Option<TokenStream>,
        below: &Path,
        for_tests: bool,
    ) -> Result<usize> {
        let above = &self.modules[parent];
        let test = above.test || for_tests;
        let path: Vec<String> = above.path.iter().cloned().chain([name.into()]).collect();
        let directory = below.join(name);
        if let Some(block) = block {
            let module = Module {
                path,
                file: above.file.clone(),
                parent,
                test,
                inline: true,
                ..Module::default()
            };
            return self.module(module, block, &directory);
        }
        let flat = below.join(format!("{name}.rs"));
        let file = if flat.is_file() {
            flat
        } else {
            directory.join("mod.rs")
        };
        ensure!(file.is_file(), "{}: no such module", file.display());
        self.file(path, file, directory, parent, test)
    }
}

impl Module {
    /// Takes up an item that begins with `word`.
    fn item(&mut self, word: &str, token: TokenTree, tokens: &mut Tokens, public: bool) {
        match word {
            "use" => {
                let mut found = Vec::new();
                tree(tokens, &[], &mut found);
                self.imports(found, public);
            }
            "struct" | "enum" | "union" | "trait" | "type" | "fn" | "const" | "static"
            | "macro_rules" => {
                self.code = true;
                tokens.next_if(|t| is_punct(t, '!'));
                let name = tokens.next().map(|t| t.to_string()).unwrap_or_default();
                if public && !matches!(word, "fn" | "const" | "static" | "macro_rules") {
                    self.public_types.push(name.clone());
                }
                self.defined.insert(name);
                self.body(rest(tokens));
            }
            "impl" => {
                self.code = true;
                self.body(rest(tokens));
            }
            // what is left of an item, or a macro that is called
            _ => {
                let mut all = TokenStream::from(token);
                if word != ";" {
                    all.extend(rest(tokens));
                }
                self.body(all);
            }
        }
    }

    /// Takes up a `use` at the top.
    fn imports(&mut self, imports: Vec<Import>, public: bool) {
        for Import { path, name } in imports {
            let paths = match public {
                true => &mut self.exported,
                false => &mut self.named,
            };
            paths.insert(path.clone());
            match name.as_str() {
                "*" => self.globs.push(path),
                _ => drop(self.imported.insert(name, path)),
            }
        }
    }

    /// Notes every path in `tokens`.
    fn body(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Group(group) => self.body(group.stream()),
                TokenTree::Ident(word) if word == "pub" => {
                    tokens.next_if(|t| group_in(t, Delimiter::Parenthesis));
                }
                TokenTree::Ident(word) if word == "use" => {
                    let mut found = Vec::new();
                    tree(&mut tokens, &[], &mut found);
                    self.named.extend(found.into_iter().map(|i| i.path));
                }
                TokenTree::Ident(word) => {
                    let mut path = vec![word.to_string()];
                    while separator(&mut tokens) {
                        match tokens.next_if(|t| matches!(t, TokenTree::Ident(_))) {
                            Some(word) => path.push(word.to_string()),
                            None => break,
                        }
                    }
                    if path.len() > 1 {
                        self.named.insert(path);
                    }
                }
                _ => {}
            }
        }
    }
}

/// The rest of an item: up to its block or its semicolon.
fn rest(tokens: &mut Tokens) -> TokenStream {
    let mut rest = Vec::new();
    for token in tokens.by_ref() {
        let end = is_punct(&token, ';') || group_in(&token, Delimiter::Brace);
        rest.push(token);
        if end {
            break;
        }
    }
    rest.into_iter().collect()
}

/// Reads one tree of a `use`, up to a comma or the end.
fn tree(tokens: &mut Tokens, before: &[String], out: &mut Vec<Import>) {
    let mut path = before.to_vec();
    let mut name = None;
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(word) if word == "as" => {
                name = tokens.next().map(|t| t.to_string());
            }
            TokenTree::Ident(word) if word == "self" && !path.is_empty() => {}
            TokenTree::Ident(word) => path.push(word.to_string()),
            TokenTree::Group(group) => {
                let mut inner = group.stream().into_iter().peekable();
                while inner.peek().is_some() {
                    tree(&mut inner, &path, out);
                }
                // up to the comma or semicolon
                tokens.next();
                return;
            }
            TokenTree::Punct(p) if p.as_char() == '*' => name = Some("*".into()),
            TokenTree::Punct(p) if p.as_char() == ':' => {}
            _ => break,
        }
    }
    if let Some(last) = path.last() {
        let name = name.unwrap_or_else(|| last.clone());
        out.push(Import { path, name });
    }
}

fn separator(tokens: &mut Tokens) -> bool {
    tokens.next_if(|t| is_punct(t, ':')).is_some() && tokens.next_if(|t| is_punct(t, ':')).is_some()
}

fn is_punct(token: &TokenTree, c: char) -> bool {
    matches!(token, TokenTree::Punct(p) if p.as_char() == c)
}

fn group_in(token: &TokenTree, delimiter: Delimiter) -> bool {
    matches!(token, TokenTree::Group(g) if g.delimiter() == delimiter)
}

fn is_cfg_test(attribute: &TokenTree) -> bool {
    attribute.to_string().replace(' ', "") == "[cfg(test)]"
}

fn tokens(file: &Path) -> Result<TokenStream> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let tokens = text.parse::<TokenStream>();
    tokens.map_err(|e| anyhow::anyhow!("{}: {e}", file.display()))
}

/// Every word of a file outside of comments and strings.
pub fn mentions(file: &Path) -> Result<BTreeSet<String>> {
    fn words(tokens: TokenStream, out: &mut BTreeSet<String>) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => words(group.stream(), out),
                TokenTree::Ident(word) => drop(out.insert(word.to_string())),
                _ => {}
            }
        }
    }
    let mut out = BTreeSet::new();
    words(tokens(file)?, &mut out);
    Ok(out)
}
