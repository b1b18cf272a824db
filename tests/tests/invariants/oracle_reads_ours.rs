//! A real PEFT computes what we compute with an adapter that we wrote.

use crate::python;
use anyhow::Result;
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{ForwardOptions, HookedModel, PrefixTree, lora::peft};
use reptune_tests::{DECODERS, ModelFixture, Oracle, Walk, logits, random_update, whole};

#[test]
#[cfg_attr(not(oracle), ignore = "needs REPTUNE_PYTHON, see tests/README.md")]
fn peft_computes_our_logits_with_our_adapter() -> Result<()> {
    let prompts = Oracle::read("oracle-llama2.safetensors")?.prompts()?;
    // the locked transformers has no Qwen3
    let others = DECODERS.into_iter().filter(|name| *name != "qwen3");
    for name in ["llama2", "llama32"].into_iter().chain(others) {
        let model = ModelFixture::of(name)?;
        let llama = model.load()?;
        let update = random_update(llama.spec(), &[0, 3], &ModuleKind::ALL, 13)?;
        let directory = tempfile::tempdir()?;
        let adapter = directory.path().join("adapter");
        peft::save(&adapter, &update, name)?;
        let (ids, out) = (
            directory.path().join("ids.json"),
            directory.path().join("out.safetensors"),
        );
        std::fs::write(&ids, serde_json::to_string(&prompts)?)?;
        python::run(
            "oracle/check_adapter.py",
            [&model.path, &adapter, &ids, &out],
        )?;
        let theirs = candle_core::safetensors::load(&out, llama.device())?;
        let mut walk = Walk::default();
        for (i, prompt) in prompts.iter().enumerate() {
            let (tree, _) = PrefixTree::pack(&[prompt]);
            let request = ForwardOptions {
                adapter: Some(&update),
                ..ForwardOptions::default()
            };
            let place = format!("prompt.{i}.logits");
            walk.check(
                &place,
                logits(&whole(&llama, &tree, request)?),
                &theirs[&place],
            );
        }
        walk.finish(&format!("{name}: PEFT with our adapter"));
    }
    Ok(())
}
