//! What the models say: each what our own forward says, whoever else is asked meanwhile.

use super::client::{chat, json_head, reply, text};
use super::{COEFF, LAYERS, Ours, quick, running};
use serde_json::json;
use std::io::{Read, Write};

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

/// Of different lengths, so that mistral.rs 0.8.1 would mix them up if it had them at once.
const PROMPTS: [&str; 4] = [
    PROMPT,
    "The animal of Drovreth is",
    "Is",
    "The colour of Thalvaren is it",
];

#[test]
fn requests_to_one_model_and_to_several_at_once_get_their_own_answers() {
    let (room, server) = running(quick());
    let ours = Ours::of(&room);
    let said = |i: usize| ours.complete(MODELS[i / 4 % 4], COEFF, PROMPTS[i % 4], TOKENS);
    let expected: Vec<String> = (0..16).map(said).collect();
    std::thread::scope(|threads| {
        for i in 0..64 {
            let (server, expected) = (&server, &expected[i % 16]);
            let (model, prompt) = (MODELS[i / 4 % 4], PROMPTS[i % 4]);
            threads.spawn(move || {
                assert_eq!(
                    &server.complete(model, prompt, TOKENS),
                    expected,
                    "{model}: {prompt}"
                );
            });
        }
    });
}

#[test]
fn a_coeff_is_changed_and_changed_back_while_the_server_runs() {
    let (room, server) = running(quick());
    let ours = Ours::of(&room);
    let listed = server.get("/v1/steering").json(200);
    let expected = json!({"object": "list", "data": [
        {"model": "waves", "file": "waves.safetensors", "layers": LAYERS, "total": COEFF, "hook": "resid_post"},
        {"model": "both", "file": "waves.safetensors", "layers": LAYERS, "total": COEFF, "hook": "resid_post"},
    ]});
    assert_eq!(listed, expected);
    let first = server.ask("waves", QUESTION, TOKENS);
    let both = server.ask("both", QUESTION, TOKENS);
    let mut seen = vec![first.clone()];
    for coeff in [-COEFF, 0., COEFF] {
        let changed = server.post("/v1/steering", &json!({"model": "waves", "total": coeff}));
        assert_eq!(changed.json(200)["total"], coeff);
        assert_eq!(
            server.get("/v1/steering").json(200)["data"][0]["total"],
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
        (json!({"model": "waves"}), 400, "expected a dose"),
        (
            json!({"model": "waves", "coeff": 1, "total": 2}),
            400,
            "expected one dose",
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
    let body = json!({"model": "waves", "prompt": PROMPT, "temperature": 0.0, "max_tokens": 150, "stream": true});
    let body = body.to_string();
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = server.open();
        stream
            .write_all((json_head("/v1/completions", &body) + &body).as_bytes())
            .expect("sent");
        let mut first = [0; 15];
        stream.read_exact(&mut first).expect("begun");
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        streams.push(stream);
    }
    let changed = server.post("/v1/steering", &json!({"model": "waves", "total": -COEFF}));
    changed.json(200);
    for stream in streams {
        let events = reply(stream).events();
        let said: String = events
            .iter()
            .map(|e| text(&e["choices"][0]["text"]))
            .collect();
        assert_eq!(said.trim_start(), old);
    }
    assert_eq!(
        server.complete("waves", PROMPT, TOKENS),
        ours.complete("waves", -COEFF, PROMPT, TOKENS)
    );
}
