//! What `--help` shows.

use crate::program::{printed, root};

#[test]
fn every_command_has_a_help_page() {
    insta::assert_snapshot!("help", printed(&root(), &["--help"]));
    let commands = [
        "run", "extract", "sweep", "tune", "evaluate", "capture", "generate", "merge", "bake",
        "convert", "inspect", "serve", "cache",
    ];
    for command in commands {
        let help = printed(&root(), &[command, "--help"]);
        assert_eq!(broken(&help), None, "{command}");
        insta::assert_snapshot!(format!("help_{command}"), help);
    }
    for command in ["ls", "gc", "verify"] {
        let help = printed(&root(), &["cache", command, "--help"]);
        insta::assert_snapshot!(format!("help_cache_{command}"), help);
    }
}

/// A line of the examples that is no command and does not continue one: the help is cut to the
/// width of a terminal, and a longer command breaks where no shell would go on.
fn broken(help: &str) -> Option<&str> {
    let (_, examples) = help.split_once("\nExample")?;
    let (_, examples) = examples.split_once('\n')?;
    let mut goes_on = false;
    examples
        .lines()
        .take_while(|line| line.starts_with(' ') || line.is_empty())
        .find(|line| {
            let command = ["  reptune ", "  mistralrs ", "  curl "];
            let begins = command.iter().any(|c| line.starts_with(c));
            let fits = line.is_empty() || begins != goes_on;
            goes_on = line.ends_with('\\');
            !fits
        })
}
