//! Every spelling of a model comes to the same files.

use super::*;

fn write(path: &Path) {
    std::fs::write(path, "").expect("written");
}

#[test]
fn a_directory_with_safetensors_has_full_weights() -> Result<()> {
    let directory = tempfile::tempdir().expect("made");
    write(&directory.path().join("model.safetensors"));
    let model = ModelDir::at(directory.path())?;
    assert!(!model.is_quantized() && model.open_uqff()?.is_none());
    assert_eq!(model.directory, directory.path());
    assert_eq!(
        ModelDir::resolve(&directory.path().display().to_string())?,
        model
    );
    Ok(())
}

#[test]
fn the_shards_of_one_uqff_are_found_and_two_models_are_refused() -> Result<()> {
    let directory = tempfile::tempdir().expect("made");
    let files = ["m-0.uqff", "m-1.uqff"].map(|name| directory.path().join(name));
    files.iter().for_each(|file| write(file));
    assert_eq!(ModelDir::at(directory.path())?.uqff, files);
    write(&directory.path().join("n.uqff"));
    let message = ModelDir::at(directory.path()).expect_err("two models");
    assert!(
        message.to_string().contains("name the .uqff file"),
        "{message}"
    );
    Ok(())
}

#[test]
fn other_files_and_nothing_are_refused() {
    let directory = tempfile::tempdir().expect("made");
    let file = directory.path().join("config.json");
    write(&file);
    for path in [file, directory.path().join("nowhere.uqff")] {
        let message = ModelDir::at(&path).expect_err("no model").to_string();
        assert!(message.contains("give a model directory"), "{message}");
    }
}

#[test]
fn two_models_never_share_a_key() -> Result<()> {
    let (one, two) = (
        tempfile::tempdir().expect("made"),
        tempfile::tempdir().expect("made"),
    );
    let key = |directory: &tempfile::TempDir| ModelDir::at(directory.path())?.key();
    assert_ne!(key(&one)?, key(&two)?, "empty directories");
    let before = key(&one)?;
    assert_eq!(key(&one)?, before);
    write(&one.path().join(LIST));
    assert_eq!(key(&one)?, before, "the store's list does not count");
    write(&one.path().join("config.json"));
    assert_ne!(key(&one)?, before);
    Ok(())
}
