//! Unmodified mistral.rs computes and says what the hooked Llama does.

use super::{MODELS, adapter, all_bits, distance, in_stock, ours, prompts, same};
use anyhow::Result;
use reptune::runtime::Engine;
use reptune::testing::Interview;
use reptune_adapters::lora::peft;
use reptune_recipes::Chat;
use reptune_recipes::generate::{Generation, generate};
use reptune_tests::{Oracle, fixture, llama};

/// One test, as it is about what one load leaves for the next on the same thread.
#[test]
fn stock_computes_what_we_compute_with_and_without_an_adapter() -> Result<()> {
    for model in MODELS {
        let (room, name) = (tempfile::tempdir()?, format!("tiny-{model}"));
        let llama = llama(&name)?;
        let update = adapter(model, &llama)?;
        let plain = in_stock(&fixture(&name), None)?;
        same(
            &format!("{model}, engine"),
            &plain,
            &ours(&llama, &[], None)?,
        );

        peft::save(room.path(), &update, "base")?;
        let tuned = in_stock(&fixture(&name), Some(room.path()))?;
        same(
            &format!("{model}, engine with the adapter"),
            &tuned,
            &ours(&llama, &[], Some(&update))?,
        );
        assert!(distance(&tuned, &plain) > 0.1, "the adapter does something");

        let again = in_stock(&fixture(&name), None)?;
        assert_eq!(
            all_bits(&again),
            all_bits(&plain),
            "{model}: after an adapter"
        );
    }

    // `layers_to_transform` is unknown to mistral.rs: it looks for the adapter everywhere.
    let raw = Engine::load(&fixture("tiny-llama2"), Some(&fixture("peft-adapter")));
    let message = raw.err().expect("refused").to_string();
    assert!(message.contains("lora_A.weight"), "{message}");
    assert!(!message.contains("0: "), "no backtrace: {message}");
    let mistralrs_is_clear = mistralrs_quant::get_applied_loras().is_empty();
    assert!(mistralrs_is_clear, "also after a load that failed");
    Ok(())
}

#[test]
fn sixty_four_greedy_tokens_are_those_of_stock() -> Result<()> {
    for model in MODELS {
        let directory = fixture(&format!("tiny-{model}"));
        let (llama, chat) = (llama(&format!("tiny-{model}"))?, Chat::load(&directory)?);
        let engine = Engine::load(&directory, None)?;
        let how = Generation {
            max_new_tokens: 64,
            stop: &chat.stop,
            ..Generation::default()
        };
        let prompts = prompts()?;
        let ours = generate(&llama, &prompts, &how, &mut |_| {})?;
        let whole = ours.iter().filter(|tokens| tokens.len() == 64).count();
        assert!(whole > 0, "{model}: some prompt goes on for 64 tokens");
        for (prompt, tokens) in prompts.iter().zip(&ours) {
            let text = chat.decode(tokens)?;
            assert_eq!(text.trim_start(), engine.generate(prompt, 64)?.trim_start());
        }
    }
    Ok(())
}

#[test]
fn stock_talks() -> Result<()> {
    let oracle = Oracle::read("oracle-llama2.safetensors")?;
    let engine = Engine::load(&fixture("tiny-llama2"), None)?;
    let prompt = &oracle.prompts()?[0];
    let expected = oracle.tokens("prompt.0.greedy")?;
    let path = fixture("tiny-llama2").join("tokenizer.json");
    let tokenizer = tokenizers::Tokenizer::from_file(path).map_err(anyhow::Error::msg)?;
    let text = tokenizer
        .decode(&expected, true)
        .map_err(anyhow::Error::msg)?;
    assert_eq!(engine.generate(prompt, expected.len())?, text);

    let interview = Interview::default().system("Be brief.");
    let interview = interview.user("Is ice cold?").max_tokens(12);
    let said = engine.interview(&interview)?;
    let templated = "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nIs ice cold? [/INST]";
    for (special, read) in [(true, false), (false, true)] {
        // The template writes <s>; the tokenizer would write it once more.
        let ids = tokenizer
            .encode(templated, special)
            .map_err(anyhow::Error::msg)?;
        let text = engine.generate(ids.get_ids(), 12)?;
        let same = said == interview.transcript(&[text]);
        assert_eq!(same, read, "special tokens: {special}");
    }
    Ok(())
}
