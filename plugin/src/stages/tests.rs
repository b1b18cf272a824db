use super::*;

#[test]
fn a_stage_runs_again_only_when_its_inputs_change() -> Result<()> {
    let directory = tempfile::tempdir().map_err(|e| reptune_adapters::Error::write("temp", e))?;
    let out = directory.path().join("run");
    let mut count = 0;
    let mut once = |inputs: &[&str]| -> Result<()> {
        let mut stages = Stages::open(RunLock::take(&out)?)?;
        stages.run("a.txt", inputs, |path| {
            count += 1;
            Ok(files::write_atomically(path, |w| w.write_all(b"x"))?)
        })?;
        Ok(())
    };
    once(&["1"])?;
    once(&["1"])?;
    once(&["2"])?;
    std::fs::remove_file(out.join("a.txt"))
        .map_err(|e| reptune_adapters::Error::write("a.txt", e))?;
    once(&["2"])?;
    assert_eq!(count, 3);
    Ok(())
}

#[test]
fn an_interrupted_stage_goes_on_only_with_the_same_inputs() -> Result<()> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let out = directory.path().join("run");
    let cut = |inputs: &[&str]| -> Result<bool> {
        let mut found = false;
        let cut = Stages::open(RunLock::take(&out)?)?.run_resumable("part", inputs, |path| {
            found = path.exists();
            files::write_atomically(path, |w| w.write_all(b"half"))?;
            Err(Error::model(
                "part",
                "stage",
                "an end",
                "Ctrl-C",
                "run it again",
            ))
        });
        assert!(cut.is_err_and(|e| e.to_string().contains("Ctrl-C")));
        Ok(found)
    };
    assert!(!cut(&["1"])?);
    assert!(cut(&["1"])?, "the same work finds what it left");
    assert!(!cut(&["2"])?, "other work does not");
    Ok(())
}
