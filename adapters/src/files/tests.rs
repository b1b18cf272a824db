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
