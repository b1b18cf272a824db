use super::*;
use crate::score::toy_variants::{adapter, next, steering};
use crate::score::{Choice, log_odds};
use crate::toy::{directory, tiny};

/// The small Llama's tokenizer with a template that puts nothing before an answer.
fn chat() -> Chat {
    let folder = tempfile::tempdir().expect("a directory");
    let fixture = directory("tests/fixtures/tiny-llama2");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture.join(name), folder.path().join(name)).expect("a copy");
    }
    let template = "{{ bos_token }}{% for m in messages %}{{ m.role[:1] + ':' + m.content + '|' }}{% endfor %}\
        {% if add_generation_prompt %}a:{% endif %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).expect("a file");
    Chat::load(folder.path()).expect("a tokenizer")
}

struct TextOnly;

impl Answerer for TextOnly {
    fn answer(
        &self,
        prompts: &[Vec<u32>],
        _: usize,
        _: &mut dyn FnMut(usize),
    ) -> Result<Vec<String>> {
        Ok(vec!["B".into(); prompts.len()])
    }
}

#[test]
fn our_own_forward_gives_log_odds_as_it_is_changed_and_a_text_runtime_none() {
    let (toy, chat) = (tiny(), chat());
    let (steering, update) = (steering(), adapter());
    let own = OwnForward {
        model: &toy,
        chat: &chat,
        how: Generation {
            interventions: &steering,
            adapter: Some(&update),
            ..Generation::default()
        },
    };
    let recipe = Recipe::read(&directory("recipes/honesty-mini.toml")).expect("a recipe");
    let question = |text: &str, right| Question {
        text: text.into(),
        right,
        options: ["true".into(), "false".into()],
    };
    let questions = [question("Is it?", 0), question("Is it not?", 1)];
    let choices = Choice::of_questions(&chat, &recipe, &["Be brief.".into()], &questions);
    let choices = choices.expect("choices");
    let tokens = |text: &str| chat.encode(text).expect("tokens");
    assert_eq!(choices[0].prompt, tokens("s:Be brief.|u:Is it?|a:"));
    let labels = ["A", "B"].map(|l| vec![*tokens(l).last().expect("a token")]);
    assert_eq!(
        (&choices[0].responses, choices[0].positive),
        (&labels.to_vec(), 0)
    );
    assert_eq!(
        (&choices[1].responses, choices[1].positive),
        (&labels.to_vec(), 1)
    );
    let variant = own.variant().expect("our own forward");
    let odds = log_odds(&variant, &choices, &mut |_| ()).expect("log-odds");
    for (choice, odds) in choices.iter().zip(odds) {
        let p = next(&variant, &choice.prompt);
        let p = |i: usize| p[choice.responses[i][0] as usize];
        let alone = p(choice.positive) - p(1 - choice.positive);
        assert!((alone - odds).abs() < 1e-4, "{alone} {odds}");
    }
    assert!(TextOnly.variant().is_none());
    let (texts, verdicts) =
        ask(&TextOnly, &chat, &recipe, &[], &questions, &mut |_| ()).expect("answers");
    assert_eq!(texts, ["B", "B"]);
    assert_eq!(verdicts, [Verdict::Negative, Verdict::Positive]);
}
