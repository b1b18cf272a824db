//! A command that is killed at any moment leaves its target absent or whole, the same command
//! then writes the same bytes, and what it was writing is gone.

use crate::errors::directions_of_the_model;
use crate::program::{command, fixture, model, printed, root};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

/// Kills of each command.
const KILLS: u32 = 6;

/// Files with their contents, by their paths in `directory`.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.path().is_dir() {
            true => {
                let below = files(&entry.path()).into_iter();
                all.extend(below.map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
                all.insert(format!("{name}/"), Vec::new());
            }
            false => {
                all.insert(name, std::fs::read(entry.path()).expect("readable"));
            }
        }
    }
    all
}

/// Names of what is being written, or locked, anywhere below `room`.
fn temporary(room: &Path) -> Vec<String> {
    let mut names: Vec<String> = files(room).into_keys().collect();
    let in_temp = |name: &str| {
        name.strip_prefix("tmp/")
            .is_some_and(|rest| !rest.is_empty())
    };
    names.retain(|n| n.contains(".reptune-") || n.ends_with(".lock") || in_temp(n));
    names
}

/// The program in `room`, with a folder for temporary files there.
fn program(room: &Path, typed: &[&str]) -> std::process::Command {
    let temp = room.join("tmp");
    std::fs::create_dir_all(&temp).expect("made");
    let mut program = command(room);
    program.args(typed).env("TMPDIR", temp);
    program.env("REPTUNE_CACHE", room.join("cache"));
    program.stdout(Stdio::null()).stderr(Stdio::null());
    program
}

/// Kills `typed`, which writes `out`, and runs it again. `once`: it refuses an `out` that is
/// there.
fn kill_and_repeat(room: &Path, typed: &[&str], out: &str, once: bool) {
    let target = room.join(out);
    let clear = || {
        let _ = std::fs::remove_dir_all(&target);
        let _ = std::fs::remove_file(&target);
    };
    let start = Instant::now();
    assert!(
        program(room, typed).status().expect("runs").success(),
        "{typed:?}"
    );
    let took = start.elapsed();
    let read = || match target.is_file() {
        true => [(String::new(), std::fs::read(&target).expect("readable"))].into(),
        false => {
            let mut found = files(&target);
            // of a cache: hashes that are remembered or not, and when files were written
            found.retain(|name, _| !name.ends_with(".note") && !name.ends_with("files.json"));
            found
        }
    };
    let whole = read();
    assert!(!whole.is_empty(), "{typed:?}");
    for kill in 0..KILLS {
        clear();
        let mut child = program(room, typed).spawn().expect("starts");
        // spread over the time that it takes, most of them late, where it writes
        let share = f64::from(kill + 1) / f64::from(KILLS);
        std::thread::sleep(took.mul_f64(share.sqrt() * 0.98));
        let _ = child.kill();
        child.wait().expect("ended");
        let resumes = out.starts_with("runs") || out == "cache";
        if target.exists() && !resumes {
            assert_eq!(read(), whole, "{typed:?}, kill {kill}: half a target");
        }
        if once && target.exists() {
            clear();
        }
        let again = program(room, typed).status().expect("runs");
        assert!(again.success(), "{typed:?}, kill {kill}");
        let (found, names) = (read(), |files: &BTreeMap<String, Vec<u8>>| {
            files.keys().cloned().collect::<Vec<_>>()
        });
        assert_eq!(names(&found), names(&whole), "{typed:?}, kill {kill}");
        for (name, bytes) in &found {
            assert_eq!(
                bytes.len(),
                whole[name].len(),
                "{typed:?}, kill {kill}: {name}"
            );
            // the list of an entry says when its files were written
            if !name.ends_with("files.json") {
                assert!(*bytes == whole[name], "{typed:?}, kill {kill}: {name}");
            }
        }
        assert_eq!(temporary(room), [""; 0], "{typed:?}, kill {kill}");
    }
}

#[test]
fn a_kill_leaves_nothing_or_all() {
    let room = tempfile::tempdir().expect("room");
    let room = room.path();
    crate::program::copy(&fixture("tiny-llama2"), &room.join("model"));
    crate::program::copy(&fixture("peft-adapter"), &room.join("adapter"));
    directions_of_the_model(room);
    let theirs = root().join("tests/interop/fixtures/llama_cpp");
    for name in ["lora.gguf", "tiny-llama2.gguf"] {
        std::fs::copy(theirs.join(name), room.join(name)).expect("copied");
    }
    let commands = [
        (
            "convert lora.gguf -m model -o converted",
            "converted",
            false,
        ),
        ("convert tiny-llama2.gguf -o imported", "imported", true),
        ("convert d.safetensors -o d.gguf", "d.gguf", false),
        ("merge -m model --adapter adapter -o merged", "merged", true),
        (
            "merge -m model --adapter adapter --quantize q8_0 -o q8",
            "q8",
            true,
        ),
        (
            "bake -m model --directions d.safetensors --layers 1 --coeff 3 -o baked",
            "baked",
            true,
        ),
        (
            "generate -m tiny-llama2.gguf --prompt true? --max-new-tokens 1",
            "cache",
            false,
        ),
    ];
    for (typed, out, once) in commands {
        let typed: Vec<&str> = typed.split(' ').collect();
        kill_and_repeat(room, &typed, out, once);
    }
}

#[test]
fn a_killed_run_goes_on_and_gives_the_same_bytes() {
    let room = tempfile::tempdir().expect("room");
    let recipe = crate::kept::recipe(&model());
    std::fs::write(room.path().join("r.toml"), recipe).expect("written");
    for typed in [["extract", "r.toml"], ["tune", "r.toml"]] {
        kill_and_repeat(room.path(), &typed, "runs", false);
    }
    let listed = printed(room.path(), &["inspect", "runs/small"]);
    assert!(listed.contains("tuned/in_minus_lie"), "{listed}");
}
