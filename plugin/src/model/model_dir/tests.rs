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
fn a_key_is_that_of_the_content_wherever_it_lies() -> Result<()> {
    let room = tempfile::tempdir().expect("made");
    let memory = Store::at(room.path().join("cache"))?;
    let [one, two] = ["one", "two"].map(|name| room.path().join(name));
    let key = |directory: &Path| ModelDir::at(directory)?.key(Some(&memory));
    let put = |directory: &Path, name: &str, content: &str| {
        std::fs::write(directory.join(name), content).expect("written");
    };
    for directory in [&one, &two] {
        std::fs::create_dir(directory).expect("made");
        put(directory, "config.json", "{}");
        put(directory, "model.safetensors", "weights");
    }
    let before = key(&one)?;
    assert_eq!(key(&two)?, before, "a copy");
    assert_eq!(ModelDir::at(&one)?.key(None)?, before, "without a memory");
    for ignored in [LIST, ".gitattributes", "pytorch_model.bin"] {
        put(&one, ignored, "x");
        assert_eq!(key(&one)?, before, "{ignored} does not count");
    }
    // one bit, with the length and the time of change of before
    let weights = one.join("model.safetensors");
    let time = std::fs::metadata(&weights).and_then(|m| m.modified());
    put(&one, "model.safetensors", "Weights");
    let file = std::fs::File::options().append(true).open(&weights);
    let hidden = file.and_then(|file| file.set_modified(time?));
    hidden.expect("hidden");
    assert_ne!(key(&one)?, before);
    std::fs::rename(two.join("config.json"), two.join("config2.json")).expect("renamed");
    assert_ne!(key(&two)?, before, "names count");
    Ok(())
}
