use super::*;
use crate::toy::directory;

#[test]
fn a_recipe_has_one_hash_wherever_it_stands() -> Result<()> {
    let shipped = directory("recipes/honesty-llama2-13b-chat.toml");
    let text = files::read(&shipped)?;
    let hash = |folder: &str| -> Result<String> {
        let room = tempfile::tempdir().expect("a directory");
        let folder = room.path().join(folder);
        std::fs::create_dir_all(folder.join("claims")).expect("a directory");
        std::fs::write(folder.join("r.toml"), &text).expect("a file");
        let recipe = Recipe::read(&folder.join("r.toml"))?;
        assert!(recipe.data.claims.file.starts_with(&folder));
        Ok(Recipe::read(&folder.join("r.toml"))?.hash())
    };
    assert_eq!(hash("a")?, hash("b/c")?);
    let mut other = Recipe::read(&shipped)?;
    other.seed += 1;
    assert_ne!(other.hash(), Recipe::read(&shipped)?.hash());
    Ok(())
}

#[test]
fn a_hash_is_that_of_the_recipe_and_its_data() {
    let room = tempfile::tempdir().expect("a directory");
    let text = files::read(&directory("recipes/honesty-llama2-13b-chat.toml")).expect("a recipe");
    let path = room.path().join("r.toml");
    std::fs::write(&path, text).expect("a file");
    let hash = || Recipe::read(&path).expect("a recipe").hash();
    let without = hash();
    std::fs::write(room.path().join("claims.csv"), "claim,label").expect("a file");
    assert_ne!(hash(), without);
}

#[test]
fn an_old_key_is_refused_with_the_new_one() {
    let shipped = directory("recipes/paper-mini.toml");
    let text = files::read(&shipped).expect("a recipe");
    let text = String::from_utf8_lossy(&text).into_owned();
    let room = tempfile::tempdir().expect("a directory");
    for (new, old, hint) in [
        ("target_modules =", "projections =", "`target_modules`"),
        ("positions = \"all\"", "rows = \"all\"", "`positions`"),
        ("[retention]", "[survival]", "`retention`"),
        ("rounding =", "ways =", "`rounding`"),
        ("\"gptq\"", "\"calibrated\"", "`gptq`"),
        ("rank = 8", "update = \"direct\"", "`full`"),
        ("token_weight", "token_wait", "`token_weight`"),
    ] {
        assert!(text.contains(new), "{new}");
        let path = room.path().join("r.toml");
        std::fs::write(&path, text.replace(new, old)).expect("a file");
        let message = Recipe::read(&path).expect_err(old).to_string();
        assert!(
            message.contains(&format!("did you mean {hint}?")),
            "{message}"
        );
    }
}
