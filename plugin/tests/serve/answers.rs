//! What the models say: each what our own forward says, whoever else is asked meanwhile.

use super::client::{chat, text};
use super::{COEFF, LAYERS, Ours, quick, running};
use serde_json::json;

const QUESTION: &str = "Is the colour of Quinvath green?";
const PROMPT: &str = "The colour of Quinvath is";
const MODELS: [&str; 4] = ["base", "waves", "tuned", "both"];
const TOKENS: usize = 12;

#[test]
fn every_model_says_what_our_own_forward_says_in_every_manner() {
    let (room, server) = running(quick());
    let ours = Ours::of(&room);
    let listed = server.get("/v1/models").json(200);
    let ids: Vec<String> = listed["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|m| text(&m["id"]))
        .collect();
    assert_eq!(ids, MODELS);
    assert_eq!(server.get("/v1/models/waves").json(200)["id"], "waves");
    let mut said = Vec::new();
    for model in MODELS {
        let answer = ours.answer(model, COEFF, QUESTION, TOKENS);
        assert_eq!(server.ask(model, QUESTION, TOKENS), answer, "{model}");
        let completed = ours.complete(model, COEFF, PROMPT, TOKENS);
        assert_eq!(server.complete(model, PROMPT, TOKENS), completed, "{model}");
        let mut body = chat(model, QUESTION, TOKENS);
        body["stream"] = json!(true);
        let reply = server.post("/v1/chat/completions", &body);
        assert!(reply.head.contains("text/event-stream"), "{reply:?}");
        let mut streamed = String::new();
        for event in reply.events() {
            assert_eq!(event["model"], model, "{event}");
            streamed += event["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap_or_default();
        }
        assert_eq!(streamed.trim_start(), answer, "{model}");
        let body = json!({"model": model, "prompt": PROMPT, "temperature": 0.0, "max_tokens": TOKENS, "stream": true});
        let reply = server.post("/v1/completions", &body);
        let streamed: String = reply
            .events()
            .iter()
            .map(|e| text(&e["choices"][0]["text"]))
            .collect();
        assert_eq!(streamed.trim_start(), completed, "{model}");
        said.push((answer, completed));
    }
    for (i, (answer, completed)) in said.iter().enumerate() {
        for (other, its) in &said[..i] {
            assert!(
                answer != other && completed != its,
                "two models say the same: {said:?}"
            );
        }
    }
    // Who names no model asks the base.
    let mut body = chat("default", QUESTION, TOKENS);
    let answer = server.post("/v1/chat/completions", &body).json(200);
    assert_eq!(
        (
            &answer["model"],
            text(&answer["choices"][0]["message"]["content"])
        ),
        (&json!("base"), said[0].0.clone())
    );
    body.as_object_mut().expect("an object").remove("model");
    assert_eq!(
        server.post("/v1/chat/completions", &body).json(200)["model"],
        "base"
    );
}

#[test]
fn requests_to_several_models_at_once_get_their_own_answers() {
    let (room, server) = running(quick());
    let ours = Ours::of(&room);
    let expected: Vec<String> = MODELS
        .iter()
        .map(|m| ours.answer(m, COEFF, QUESTION, TOKENS))
        .collect();
    std::thread::scope(|threads| {
        for i in 0..16 {
            let (server, expected) = (&server, &expected[i % 4]);
            threads
                .spawn(move || assert_eq!(&server.ask(MODELS[i % 4], QUESTION, TOKENS), expected));
        }
    });
}

#[test]
fn a_coeff_is_changed_and_changed_back_while_the_server_runs() {
    let (room, server) = running(quick());
    let ours = Ours::of(&room);
    let listed = server.get("/v1/steering").json(200);
    let expected = json!({"object": "list", "data": [
        {"model": "waves", "file": "waves.safetensors", "layers": LAYERS, "coeff": COEFF, "point": "output"},
        {"model": "both", "file": "waves.safetensors", "layers": LAYERS, "coeff": COEFF, "point": "output"},
    ]});
    assert_eq!(listed, expected);
    let first = server.ask("waves", QUESTION, TOKENS);
    let both = server.ask("both", QUESTION, TOKENS);
    let mut seen = vec![first.clone()];
    for coeff in [-COEFF, 0., COEFF] {
        let changed = server.post("/v1/steering", &json!({"model": "waves", "coeff": coeff}));
        assert_eq!(changed.json(200)["coeff"], coeff);
        assert_eq!(
            server.get("/v1/steering").json(200)["data"][0]["coeff"],
            coeff
        );
        let answer = server.ask("waves", QUESTION, TOKENS);
        assert_eq!(
            answer,
            ours.answer("waves", coeff, QUESTION, TOKENS),
            "{coeff}"
        );
        assert_eq!(
            server.ask("both", QUESTION, TOKENS),
            both,
            "another model is not disturbed"
        );
        seen.push(answer);
    }
    assert_eq!(seen[3], first);
    assert_eq!(seen[2], server.ask("base", QUESTION, TOKENS));
    assert!(seen[1] != first && seen[2] != first, "{seen:?}");
    for (body, status, said) in [
        (
            json!({"model": "base", "coeff": 1}),
            400,
            "`base` is not steered",
        ),
        (
            json!({"model": "nobody", "coeff": 1}),
            404,
            "`base`, `waves`, `tuned`, `both`, found `nobody`",
        ),
        (
            json!({"model": "waves"}),
            400,
            "expected `coeff` to be a number",
        ),
        (
            json!({"model": "waves", "coeff": "12"}),
            400,
            "expected `coeff` to be a number",
        ),
        (json!({"coeff": 12}), 400, "expected `model` to be a name"),
        (
            json!({"model": "waves", "coeff": 1, "layers": [1]}),
            400,
            "found `layers`",
        ),
    ] {
        let refusal = server.post("/v1/steering", &body).refusal(status);
        assert!(refusal.contains(said), "{refusal}");
    }
    assert_eq!(
        server.ask("waves", QUESTION, TOKENS),
        first,
        "refusals change nothing"
    );
}

#[test]
fn who_is_being_answered_while_a_coeff_changes_hears_the_old_one_to_its_end() {
    let (room, server) = running(quick());
    let ours = Ours::of(&room);
    let old = ours.complete("waves", COEFF, PROMPT, 150);
    std::thread::scope(|threads| {
        let askers: Vec<_> = (0..4)
            .map(|_| threads.spawn(|| server.complete("waves", PROMPT, 150)))
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(30));
        let changed = server.post("/v1/steering", &json!({"model": "waves", "coeff": -COEFF}));
        changed.json(200);
        for asker in askers {
            let said = asker.join().expect("answered");
            assert_eq!(said, old);
        }
    });
    assert_eq!(
        server.complete("waves", PROMPT, TOKENS),
        ours.complete("waves", -COEFF, PROMPT, TOKENS)
    );
}
