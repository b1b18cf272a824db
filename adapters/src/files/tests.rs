use super::*;

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("readable");
    entries
        .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_committed_directory_has_its_name_and_a_dropped_one_leaves_nothing() -> Result<()> {
    let directory = tempfile::tempdir().expect("directory");
    let out = directory.path().join("deep/out");
    let staging = Staging::new(&out)?;
    std::fs::write(staging.path().join("a"), "1").expect("write");
    drop(staging);
    assert_eq!(names(&directory.path().join("deep")), [""; 0]);
    std::fs::create_dir(&out).expect("an empty directory may stand there");
    let staging = Staging::new(&out)?;
    std::fs::write(staging.path().join("a"), "2").expect("write");
    staging.commit()?;
    assert_eq!(names(&directory.path().join("deep")), ["out"]);
    assert_eq!(names(&out), ["a"]);
    Ok(())
}

#[test]
fn what_stands_there_is_not_overwritten() {
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "kept").expect("write");
    for (out, found) in [
        (directory.path(), "a directory with files in it"),
        (&file, "a file"),
    ] {
        let message = Staging::new(out).expect_err(found).to_string();
        let name = out.display().to_string();
        assert!(
            message.contains(&name) && message.contains(found),
            "{message}"
        );
    }
    assert_eq!(std::fs::read_to_string(&file).expect("still there"), "kept");
}

#[test]
fn a_replaceable_directory_makes_room_and_another_one_stays() -> Result<()> {
    let room = tempfile::tempdir().expect("directory");
    let out = room.path().join("out");
    std::fs::create_dir(&out).expect("made");
    std::fs::write(out.join("a"), "1").expect("write");
    let message = Staging::replacing(&out, |_| false).expect_err("refused");
    assert!(message.to_string().contains("a directory with files in it"));
    let staging = Staging::replacing(&out, |stands| stands.join("a").exists())?;
    std::fs::write(staging.path().join("b"), "2").expect("write");
    assert_eq!(names(&out), ["a"], "until it is committed");
    staging.commit()?;
    assert_eq!(names(&out), ["b"]);
    assert_eq!(names(room.path()), ["out"]);
    Ok(())
}

#[cfg(unix)]
#[test]
fn what_ended_processes_left_is_removed_and_nothing_else() -> Result<()> {
    let room = tempfile::tempdir().expect("directory");
    let ours = ProcessId::current().tag();
    let (mut ended, mut elsewhere) = (ours.clone(), ours.clone());
    ended.replace_range(ended.rfind('-').expect("parts") + 1.., "1");
    elsewhere.replace_range(..8, "00000000");
    let kept = [
        format!(".reptune-{ours}-abc.tmp"),
        format!(".reptune-{elsewhere}-abc.tmp"),
        ".reptune-abc.tmp".to_owned(),
        "thesis.txt".to_owned(),
    ];
    for name in &kept {
        std::fs::write(room.path().join(name), "").expect("write");
    }
    let left = room.path().join(format!(".reptune-{ended}-abc"));
    std::fs::create_dir_all(left.join("deep")).expect("made");
    std::fs::write(room.path().join(format!(".reptune-{ended}-x.tmp")), "").expect("write");
    write_atomically(&room.path().join("new"), |w| w.write_all(b"x"))?;
    let mut expected = [&kept[..], &["new".to_owned()]].concat();
    let mut found = names(room.path());
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    Ok(())
}
