//! Sites that are trained in another way than the rest.

use super::*;

fn tuned(setting: &Setting, tuning: &str, mode: Mode) -> Result<Adapter> {
    let recipe = recipe(&format!(
        "batch = 3\nepochs = 2\nwarmup = 2\nrank = 4\n{tuning}"
    ));
    let tuner = setting.tuner(&setting.model, &recipe, mode)?;
    let room = tempfile::tempdir().expect("room");
    let metrics = room.path().join("metrics.jsonl");
    tuner.tune(tuner.fresh()?, &metrics, &mut |_| {})
}

#[test]
fn a_group_that_says_what_the_rest_says_changes_nothing() -> Result<()> {
    let setting = setting()?;
    let group = "[[tuning.groups]]\nlayers = [2]\nlearning_rate = 0.01\ntoken_weight = 0.01\n\
                 representation_weight = 1.0\nupdate = \"lora\"";
    for mode in [Mode::InPlusTruth, Mode::Truth] {
        let (with, without) = (tuned(&setting, group, mode)?, tuned(&setting, "", mode)?);
        assert_eq!(bits(&with)?, bits(&without)?, "{mode}");
    }
    Ok(())
}

#[test]
fn sites_without_a_loss_stay_as_they_are() -> Result<()> {
    let setting = setting()?;
    let group = "[[tuning.groups]]\nlayers = [2]\ntoken_weight = 0.0\nrepresentation_weight = 0.0";
    let tuned = bits(&tuned(&setting, group, Mode::InPlusTruth)?)?;
    let recipe = recipe("rank = 4");
    let tuner = setting.tuner(&setting.model, &recipe, Mode::InPlusTruth)?;
    for ((name, after), (_, before)) in tuned.iter().zip(bits(&tuner.fresh()?)?) {
        assert_eq!(*after == before, name.contains("layers.2"), "{name}");
    }
    Ok(())
}

/// The paper's own setting: whole weights, representation loss to v and o, token
/// loss to the rest at another rate.
#[test]
fn whole_weights_with_a_loss_each_learn_and_are_merged_as_they_act() -> Result<()> {
    let setting = setting()?;
    let recipe = recipe(
        "batch = 4\nepochs = 4\nwarmup = 1\nlearning_rate = 3e-3\nepsilon = 1e-4\nupdate = \"full\"\n\
         target_modules = [\"q_proj\", \"k_proj\", \"v_proj\", \"o_proj\", \"gate_proj\", \"up_proj\", \"down_proj\"]\n\
         [[tuning.groups]]\ntarget_modules = [\"v_proj\", \"o_proj\"]\ntoken_weight = 0.0\n\
         [[tuning.groups]]\ntarget_modules = [\"q_proj\", \"k_proj\", \"gate_proj\", \"up_proj\", \"down_proj\"]\n\
         representation_weight = 0.0\nlearning_rate = 1e-3",
    );
    let tuner = setting.tuner(&setting.model, &recipe, Mode::InPlusTruth)?;
    let room = tempfile::tempdir().expect("room");
    let metrics = room.path().join("metrics.jsonl");
    let before = tuner.validate(&tuner.fresh()?)?;
    let tuned = tuner.tune(tuner.fresh()?, &metrics, &mut |_| {})?;
    let after = tuner.validate(&tuned)?;
    assert!(
        after[0] < before[0] && after[1] < before[1],
        "{before:?} {after:?}"
    );
    assert!(tuned.modules.values().all(|l| l.full.is_some()));
    // Merged, the plain model says the same.
    let source = directory("tests/fixtures/tiny-llama2");
    let out = room.path().join("merged");
    crate::merge::merge(&source, &tuned, &out, &mut |_, _, _| {})?;
    let merged = Toy::load(&out);
    let plain = setting.tuner(&merged, &recipe, Mode::InPlusTruth)?;
    let merged = plain.validate(&Adapter::default())?;
    let gap = (merged[0] - after[0])
        .abs()
        .max((merged[1] - after[1]).abs());
    assert!(gap < 5e-3, "{merged:?} {after:?}");
    let moved = (before[1] - after[1]).abs();
    assert!(gap < moved / 5., "{gap} {moved}");
    Ok(())
}
