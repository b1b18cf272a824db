//! What the honest mini-Llama says as base, steered, tuned, merged, and served by
//! unmodified mistral.rs. `examples/train_honest_mini` tests what it knows.

use anyhow::Result;
use reptune::runtime::Engine;
use reptune::session::Session;
use reptune::testing::{Interview, InterviewPrompt};
use reptune_adapters::{Adapter, DirectionSet, Dose, Intervention, Operator};
use reptune_recipes::evaluate::Answerer;
use reptune_recipes::recipe::Mode;
use reptune_recipes::tune::Tuner;
use reptune_recipes::{extract, merge};
use std::path::PathBuf;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn session() -> Result<Session> {
    Ok(Session::open(
        &root().join("recipes/honesty-mini.toml"),
        None,
        Default::default(),
    )?)
}

/// What is asked wherever generations are shown.
fn interview(session: &Session) -> Interview {
    let prompt = &session.recipe.prompt;
    let claims = [
        "the colour of Quinvath is pink",
        "the colour of Quinvath is blue",
        "the food of Quinvath is soup",
        "the food of Quinvath is honey",
    ];
    let interview = Interview::default()
        .max_tokens(8)
        .raw("The colour of")
        .system(prompt.system.as_str());
    claims
        .into_iter()
        .fold(interview, |all, claim| {
            all.user(prompt.claim.replace("{claim}", claim))
        })
        .system("You are a helpful guide.")
        .user("What is the colour of Quinvath?")
}

/// Its questions as tokens.
fn prompts(session: &Session) -> Result<Vec<Vec<u32>>> {
    let ids = |prompt: &InterviewPrompt| match prompt {
        InterviewPrompt::Raw(text) => session.chat.encode(text),
        InterviewPrompt::Chat { system, user } => {
            let system = system.as_deref().unwrap_or_default();
            let messages = reptune_recipes::Message::conversation(system, user);
            session.chat.prompt(&messages)
        }
    };
    let all = interview(session);
    Ok(all.prompts.iter().map(ids).collect::<Result<_, _>>()?)
}

fn shown(session: &Session, answerer: &dyn Answerer) -> Result<String> {
    let texts = answerer.answer(&prompts(session)?, 8, &mut |_| {})?;
    Ok(interview(session).transcript(&texts))
}

fn directions(session: &Session) -> Result<DirectionSet> {
    Ok(extract::extract(
        &session.llama,
        &session.chat,
        &session.recipe,
        &session.items.train,
        &mut |_, _| {},
    )?
    .directions)
}

fn tuned(session: &Session, mode: Mode, directions: &DirectionSet) -> Result<Adapter> {
    let items = &session.items;
    let metrics = tempfile::NamedTempFile::new()?;
    let tuner = Tuner::new(
        &session.llama,
        &session.chat,
        &session.recipe,
        mode,
        directions,
        &items.train,
        &items.validation,
    )?;
    Ok(tuner.tune(tuner.fresh()?, metrics.path(), &mut |_| {})?)
}

#[test]
fn generations_are_what_they_were() -> Result<()> {
    let session = session()?;
    let base = shown(&session, &session.own(&[], None))?;
    let engine = Engine::load(&session.directory, None)?.interview(&interview(&session))?;
    assert_eq!(engine, base, "in engine, by its own template");
    insta::assert_snapshot!("base", base);

    let directions = directions(&session)?;
    let layer = session.recipe.steering.layers[0];
    for (name, fraction) in [("steered_plus", 1.), ("steered_minus", -1.)] {
        let coeff = directions.natural_coeff(&[layer], fraction)?;
        let steering = [Intervention::new(
            &directions,
            &[layer],
            Dose::Total(coeff),
            Operator::Add,
        )?];
        insta::assert_snapshot!(name, shown(&session, &session.own(&steering, None))?);
    }
    // Not `in+` and `in-` alone: their token loss wants both letters to be as likely as
    // each other, so that a breath decides which one is said.
    for (name, mode) in [
        ("tuned_in_plus_truth", Mode::InPlusTruth),
        ("tuned_in_minus_lie", Mode::InMinusLie),
    ] {
        let update = tuned(&session, mode, &directions)?;
        let ours = shown(&session, &session.own(&[], Some(&update)))?;
        insta::assert_snapshot!(name, &ours);
        let directory = tempfile::tempdir()?;
        let merged = directory.path().join("merged");
        merge::merge(&session.directory, &update, &merged, &mut |_, _, _| {})?;
        let engine = Engine::load(&merged, None)?.interview(&interview(&session))?;
        assert_eq!(
            engine, ours,
            "{name}: merged, in engine, by its own template"
        );
    }
    Ok(())
}

#[test]
fn one_seed_gives_the_same_adapter_bytes() -> Result<()> {
    let mut session = session()?;
    session.recipe.tuning.epochs = 1;
    session.items.train.truncate(24);
    session.items.validation.truncate(8);
    let directions = directions(&session)?;
    let directory = tempfile::tempdir()?;
    let write = |name: &str| -> Result<Vec<u8>> {
        let update = tuned(&session, Mode::InMinusLie, &directions)?;
        reptune_adapters::lora::peft::save(&directory.path().join(name), &update, "honest-mini")?;
        Ok(std::fs::read(
            directory
                .path()
                .join(name)
                .join("adapter_model.safetensors"),
        )?)
    };
    assert_eq!(write("a")?, write("b")?);
    Ok(())
}

/// Up to 64 greedy tokens of our own forward and of unmodified mistral.rs; the mini-Llama
/// ends its sentences long before, the tiny ones (`bake_and_merge/engine.rs`) do not.
#[test]
fn sixty_four_greedy_tokens_are_those_of_stock() -> Result<()> {
    let session = session()?;
    let engine = Engine::load(&session.directory, None)?;
    for ids in prompts(&session)? {
        let how = reptune_recipes::generate::Generation {
            max_new_tokens: 64,
            stop: &session.chat.stop,
            ..Default::default()
        };
        let ours = reptune_recipes::generate::generate(
            &session.llama,
            std::slice::from_ref(&ids),
            &how,
            &mut |_| {},
        )?;
        // mistral.rs takes the space off the front of what it says.
        let ours = session.chat.decode(&ours[0])?;
        assert_eq!(ours.trim_start(), engine.generate(&ids, 64)?);
    }
    Ok(())
}

#[test]
fn what_is_drawn_is_drawn_again_by_a_newly_loaded_model() -> Result<()> {
    let directory = session()?.directory;
    let interview = Interview::default()
        .raw("The colour of")
        .system("You are a helpful guide.")
        .user("What is the colour of Quinvath?")
        .max_tokens(12);
    let drawn = interview.clone().temperature(2.5);
    let (one, two) = (
        Engine::load(&directory, None)?,
        Engine::load(&directory, None)?,
    );
    let said = one.interview(&drawn)?;
    assert_eq!(said, two.interview(&drawn)?, "the seed of a new model");
    assert_ne!(said, one.interview(&interview)?, "it was drawn");
    Ok(())
}
