//! Merged checkpoints load in Hugging Face transformers and give our logits.

use super::{ours, prompts, same, tensors};
use crate::python;
use anyhow::Result;
use reptune_adapters::HookedModel;
use reptune_adapters::model::ModuleKind;
use reptune_recipes::merge::merge;
use reptune_tests::{DECODERS, ModelFixture, random_update};

#[test]
#[cfg_attr(not(oracle), ignore = "needs REPTUNE_PYTHON, see tests/README.md")]
fn transformers_computes_our_logits_with_a_merged_checkpoint() -> Result<()> {
    // the locked transformers has no Qwen3
    let others = DECODERS.into_iter().filter(|name| *name != "qwen3");
    for name in ["llama2", "llama32"].into_iter().chain(others) {
        let base = ModelFixture::of(name)?;
        let llama = base.load()?;
        let update = random_update(llama.spec(), &[1, 3], &ModuleKind::ALL, 21)?;
        let room = tempfile::tempdir()?;
        let merged = room.path().join("merged");
        merge(&base.path, &update, &merged, &mut |_, _, _| {})?;
        let (ids, out) = (
            room.path().join("ids.json"),
            room.path().join("out.safetensors"),
        );
        std::fs::write(&ids, serde_json::to_string(&prompts()?)?)?;
        python::run("interop/merged_checkpoint.py", [&merged, &ids, &out])?;
        let theirs = tensors(&out)?;
        let merged = reptune::Llama::load(&merged, Default::default())?;
        same("prompt", &ours(&merged, &prompts()?, &[], None)?, &theirs)?;
        if name == "llama2" {
            // Its weights are f32, so merging rounds no more than adding does.
            same(
                "prompt",
                &ours(&llama, &prompts()?, &[], Some(&update))?,
                &theirs,
            )?;
        }
    }
    Ok(())
}
