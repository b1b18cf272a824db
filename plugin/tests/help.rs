//! What `--help` says.

mod typed;

use typed::{reptune, root};

#[test]
fn help_reads_well() {
    for command in [
        "run", "extract", "tune", "evaluate", "capture", "generate", "merge", "bake", "plan",
    ] {
        let output = reptune(&root(), &[command, "--help"]);
        insta::assert_snapshot!(
            format!("help_{command}"),
            String::from_utf8_lossy(&output.stdout)
        );
    }
    insta::assert_snapshot!(
        "help",
        String::from_utf8_lossy(&reptune(&root(), &["--help"]).stdout)
    );
}
