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
        insta::assert_snapshot!(format!("help_{command}"), help);
    }
    for command in ["ls", "gc"] {
        let help = printed(&root(), &["cache", command, "--help"]);
        insta::assert_snapshot!(format!("help_cache_{command}"), help);
    }
}
