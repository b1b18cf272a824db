//! Chats as they are served: their tokens are those of transformers, whatever the template does,
//! and log-probabilities are those of our own forward after these tokens.

use super::client::{Reply, Running};
use super::quick;
use crate::program::{chats, templated as model};
use reptune::serve::{Limits, Models, Server};
use reptune::steered::Variant;
use reptune::store::Store;
use reptune::{Chat, Llama, LoadOptions};
use reptune_adapters::{ForwardOptions, HookedModel, KeyValueCache, PrefixTree};
use serde_json::{Value, json};
use std::path::PathBuf;
use tempfile::TempDir;

const CHAT: &str = "/v1/chat/completions";
const COMPLETION: &str = "/v1/completions";

async fn load(directory: PathBuf) -> reptune::Result<Models> {
    let cache = Store::at(directory.join("cache")).expect("a cache");
    let base = vec![("base".to_owned(), Variant::default())];
    Models::load(directory, base, cache, |_, _| {}).await
}

fn serve(room: &TempDir) -> Running {
    let directory = room.path().to_owned();
    let limits = Limits {
        body: 1 << 20,
        ..quick()
    };
    Running::start(async move { Server::new(load(directory).await.expect("loaded"), limits) })
}

/// Why the model is not served.
fn not_served(room: &TempDir) -> String {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let loaded = runtime.block_on(load(room.path().to_owned()));
    loaded.err().expect("not served").to_string()
}

/// Natural log-probabilities of the token after `ids`.
fn logprobs(llama: &Llama, ids: &[u32]) -> Vec<f64> {
    let (tree, rows) = PrefixTree::pack(&[ids]);
    let last = [*rows[0].last().expect("a token")];
    let options = ForwardOptions {
        logits: &last,
        ..ForwardOptions::default()
    };
    let pass = llama
        .forward(&tree, &mut KeyValueCache::default(), &options)
        .expect("runs");
    let logits = pass
        .logits
        .expect("logits")
        .to_vec2::<f32>()
        .expect("a table");
    let exp = logits[0].iter().map(|l| f64::from(*l).exp());
    let log_sum = exp.sum::<f64>().ln();
    logits[0].iter().map(|l| f64::from(*l) - log_sum).collect()
}

fn near(served: &Value, ours: f64) -> bool {
    (served.as_f64().expect("a number") - ours).abs() < 1e-4
}

/// Checks that the greedy answer of `reply` is the one after `ids`.
fn follows(reply: &Value, ids: &[u32], llama: &Llama, chat: &Chat, name: &str) {
    assert_eq!(reply["usage"]["prompt_tokens"], ids.len(), "{name}");
    let content = reply["choices"][0]["logprobs"]["content"].as_array();
    let content = content.unwrap_or_else(|| panic!("{name}: {reply}"));
    let mut ids = ids.to_vec();
    for said in content {
        let ours = logprobs(llama, &ids);
        let best = (0..ours.len()).max_by(|a, b| ours[*a].total_cmp(&ours[*b]));
        let best = best.expect("a token");
        assert_eq!(said["token"], chat.token_name(best as u32), "{name}");
        assert!(
            near(&said["logprob"], ours[best]),
            "{name}: {said} {}",
            ours[best]
        );
        let mut sorted = ours;
        sorted.sort_by(|a, b| b.total_cmp(a));
        let top = said["top_logprobs"].as_array().expect("a list");
        assert_eq!(top.len(), 3, "{name}");
        for (served, ours) in top.iter().zip(&sorted) {
            assert!(near(&served["logprob"], *ours), "{name}: {served} {ours}");
        }
        ids.push(best as u32);
    }
    assert!(!content.is_empty(), "{name}");
}

#[test]
fn served_chats_have_the_tokens_of_transformers() {
    let cases = ["cases", "requests"].map(chats).concat();
    assert!(cases.len() > 40);
    let room = model(&json!(""), &json!({}));
    let llama = Llama::load(room.path(), LoadOptions::default()).expect("loads");
    for case in &cases {
        let name = case["name"].as_str().expect("a name");
        let room = model(&case["template"], &case["config"]);
        let chat = Chat::load(room.path()).expect("a chat");
        let server = serve(&room);
        let mut body = json!({"messages": case["messages"]});
        if let Some(given) = case["body"].as_object() {
            body = Value::Object(given.clone());
        }
        for (key, value) in [
            ("max_tokens", json!(3)),
            ("temperature", json!(0)),
            ("logprobs", json!(true)),
            ("top_logprobs", json!(3)),
        ] {
            body[key] = value;
        }
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        let reply = server.post(CHAT, &body).json(200);
        follows(&reply, &ids, &llama, &chat, name);
    }
}

/// Turns of `<role>content`, with a place for tools.
fn turns() -> Value {
    json!(
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    )
}

fn asked(more: Value) -> Value {
    let mut body = json!({
        "messages": [{"role": "user", "content": "Is ice cold?"}],
        "max_tokens": 6,
        "temperature": 0,
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    body
}

fn text(reply: &Value) -> &Value {
    &reply["choices"][0]["message"]["content"]
}

/// The parts of a streamed log-probability list, joined.
fn streamed(reply: &Reply, list: &str) -> Vec<Value> {
    let of = |event: &Value| event["choices"][0]["logprobs"][list].as_array().cloned();
    reply.events().iter().filter_map(of).flatten().collect()
}

#[test]
fn fields_mean_what_clients_of_openai_expect() {
    let room = model(&turns(), &json!({}));
    let server = serve(&room);
    let ask = |more: Value| server.post(CHAT, &asked(more)).json(200);
    let plain = ask(json!({}));
    let nulls = [
        "n",
        "logprobs",
        "top_logprobs",
        "stream",
        "stop",
        "tools",
        "tool_choice",
        "seed",
        "response_format",
        "stream_options",
        "max_completion_tokens",
        "top_p",
        "top_k",
        "logit_bias",
        "presence_penalty",
        "user",
        "chat_template_kwargs",
    ];
    let nulls = nulls.map(|name| (name.to_owned(), Value::Null));
    let with_nulls = ask(Value::Object(nulls.into_iter().collect()));
    assert_eq!(text(&with_nulls), text(&plain));
    for more in [
        json!({"top_k": 0}),
        json!({"top_k": -1}),
        json!({"seed": 1, "store": false}),
    ] {
        assert_eq!(text(&ask(more)), text(&plain));
    }
    let most = ask(json!({"max_tokens": 6, "max_completion_tokens": 2}));
    assert_eq!(most["usage"]["completion_tokens"], 2);
    assert_eq!(most["choices"][0]["finish_reason"], "length");
    // Both honoured, and neither by the sampler of 0.8.1.
    let drawn = |seed: u64| ask(json!({"temperature": 2, "seed": seed, "n": 3, "max_tokens": 20}));
    let texts = |reply: &Value| -> Vec<Value> {
        let choices = reply["choices"].as_array().expect("choices");
        choices
            .iter()
            .map(|c| c["message"]["content"].clone())
            .collect()
    };
    let (first, other) = (texts(&drawn(3)), texts(&drawn(4)));
    assert_eq!(first, texts(&drawn(3)));
    assert!(
        first != other && first[0] != first[1] && first[1] != first[2],
        "{first:?}"
    );
    let biased = ask(json!({"logit_bias": {"65": 100}}));
    assert_eq!(text(&biased), "AAAAAA");
    let object = ask(json!({"response_format": {"type": "json_object"}, "max_tokens": 40}));
    assert!(
        text(&object).as_str().expect("a text").starts_with('{'),
        "{object}"
    );
    let tools = json!([{"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object", "properties": {"sky": {"enum": ["grey"]}}, "required": ["sky"],
        "additionalProperties": false,
    }}}]);
    // Blanks between the tokens of JSON are left to the model, so they are made unlikely.
    let bias = json!({"9": -100, "10": -100, "13": -100, "32": -100});
    let named = json!({"type": "function", "function": {"name": "weather"}});
    for choice in [json!("required"), named] {
        let called = ask(json!({
            "tools": tools, "tool_choice": choice, "max_tokens": 100, "logit_bias": bias,
        }));
        let call = &called["choices"][0];
        assert_eq!(call["finish_reason"], "tool_calls", "{called}");
        let function = &call["message"]["tool_calls"][0]["function"];
        assert_eq!(function["name"], "weather");
        let arguments = function["arguments"].as_str().expect("a text");
        assert_eq!(
            serde_json::from_str::<Value>(arguments).expect("JSON"),
            json!({"sky": "grey"})
        );
    }
}

#[test]
fn streams_say_and_count_what_whole_answers_do() {
    let room = model(&turns(), &json!({}));
    let server = serve(&room);
    let logprobs = json!({"logprobs": true, "top_logprobs": 2, "n": 2});
    let whole = server.post(CHAT, &asked(logprobs.clone())).json(200);
    assert_eq!(whole["usage"]["completion_tokens"], 12);
    let mut body = asked(logprobs);
    body["stream"] = json!(true);
    let plain = server.post(CHAT, &body);
    let usage = |event: &Value| event.get("usage").is_some();
    assert!(!plain.events().iter().any(usage), "{plain:?}");
    body["stream_options"] = json!({"include_usage": true});
    let counted = server.post(CHAT, &body);
    let mut events = counted.events();
    let last = events.pop().expect("the usage");
    assert!(
        events
            .iter()
            .all(|e| e.get("usage").is_some_and(Value::is_null)),
        "{counted:?}"
    );
    assert_eq!(last["choices"], json!([]));
    for key in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(last["usage"][key], whole["usage"][key], "{key}");
    }
    let said = |choice: usize| -> String {
        let of = events.iter().filter(|e| e["choices"][0]["index"] == choice);
        of.filter_map(|e| e["choices"][0]["delta"]["content"].as_str())
            .collect()
    };
    for choice in 0..2 {
        let content = &whole["choices"][choice]["message"]["content"];
        assert_eq!(
            said(choice).trim(),
            content.as_str().expect("a text").trim()
        );
    }
    let all = [0, 1].map(|i| {
        whole["choices"][i]["logprobs"]["content"]
            .as_array()
            .cloned()
    });
    let all: Vec<Value> = all.into_iter().flatten().flatten().collect();
    assert_eq!(streamed(&counted, "content"), all);
}

#[test]
fn a_stream_ends_before_the_text_that_ends_the_answer() {
    let room = model(&turns(), &json!({}));
    let server = serve(&room);
    // "ABABAB..": each of these is certain after the other.
    let grammar = json!({"type": "regex", "value": "(AB)*"});
    for (stop, expected) in [
        (json!("BAB"), "A"),
        (json!(["C", "ABA"]), ""),
        (json!("X"), "ABABAB"),
    ] {
        let more = json!({"grammar": grammar, "stop": stop, "logit_bias": {"65": 100, "66": 100}});
        let mut body = asked(more);
        let whole = server.post(CHAT, &body).json(200);
        assert_eq!(text(&whole), expected, "{stop}");
        body["stream"] = json!(true);
        let reply = server.post(CHAT, &body);
        let events = reply.events();
        let said = events
            .iter()
            .filter_map(|e| e["choices"][0]["delta"]["content"].as_str());
        assert_eq!(said.collect::<String>(), expected, "{stop}");
        let last = events.last().expect("an event");
        assert_eq!(
            last["choices"][0]["finish_reason"],
            whole["choices"][0]["finish_reason"]
        );
    }
}

#[test]
fn completions_have_openais_log_probabilities() {
    let room = model(&turns(), &json!({}));
    let server = serve(&room);
    let chat = Chat::load(room.path()).expect("a chat");
    let llama = Llama::load(room.path(), LoadOptions::default()).expect("loads");
    let mut body = json!({"prompt": "Is ice", "max_tokens": 4, "temperature": 0, "logprobs": 2});
    let whole = server.post(COMPLETION, &body).json(200);
    let said = &whole["choices"][0]["logprobs"];
    let mut ids = chat.encode("Is ice").expect("ids");
    assert_eq!(whole["usage"]["prompt_tokens"], ids.len());
    for step in 0..4 {
        let ours = self::logprobs(&llama, &ids);
        let best = (0..ours.len()).max_by(|a, b| ours[*a].total_cmp(&ours[*b]));
        let best = best.expect("a token");
        let text = chat.token_name(best as u32);
        assert_eq!(said["tokens"][step], text);
        assert!(near(&said["token_logprobs"][step], ours[best]), "{said}");
        assert!(
            near(&said["top_logprobs"][step][&text], ours[best]),
            "{said}"
        );
        ids.push(best as u32);
    }
    assert_eq!(said["text_offset"][0], 0);
    body["stream"] = json!(true);
    let stream = server.post(COMPLETION, &body);
    assert_eq!(
        json!(streamed(&stream, "token_logprobs")),
        said["token_logprobs"]
    );
    assert_eq!(json!(streamed(&stream, "text_offset")), said["text_offset"]);
    body["stream_options"] = json!({"include_usage": true});
    let last = server
        .post(COMPLETION, &body)
        .events()
        .pop()
        .expect("the usage");
    assert_eq!(
        last["usage"]["total_tokens"],
        whole["usage"]["total_tokens"]
    );
    let echoed = json!({"prompt": "Is ice", "max_tokens": 4, "temperature": 0, "echo": true});
    let echoed = server.post(COMPLETION, &echoed).json(200);
    let text = echoed["choices"][0]["text"].as_str().expect("a text");
    assert!(text.starts_with("Is ice") && text.len() > 6, "{text}");
}

#[test]
fn a_chat_that_the_template_refuses_is_the_clients_fault() {
    let picky = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}\
        {% if m.role != 'system' %}[{{ m.content }}]{% endif %}{% endfor %}";
    let room = model(&json!(picky), &json!({}));
    let server = serve(&room);
    let ask = |role: &str| {
        let first = json!({"role": role, "content": "Be kind."});
        let messages = json!([first, {"role": "user", "content": "Is ice cold?"}]);
        server.post(CHAT, &json!({"messages": messages, "max_tokens": 2}))
    };
    let refusal = ask("tool").refusal(400);
    assert!(refusal.contains("no tools"), "{refusal}");
    let refusal = ask("system").refusal(400);
    assert!(
        refusal.contains("the system message `Be kind.`"),
        "{refusal}"
    );
    let room_name = room.path().display().to_string();
    assert!(!refusal.contains(&room_name), "{refusal}");
    assert_eq!(ask("user").status, 200);
    let long = json!([{"role": "user", "content": "x".repeat(3000)}]);
    let refusal = server.post(CHAT, &json!({"messages": long})).refusal(400);
    assert!(refusal.contains("1 to 2048 tokens"), "{refusal}");
    // An answer ends where the model's context does.
    let long = json!([{"role": "user", "content": "x".repeat(2040)}]);
    let body = json!({"messages": long, "logit_bias": {"65": 100}});
    let ended = server.post(CHAT, &body).json(200);
    assert_eq!(ended["choices"][0]["finish_reason"], "length");
    assert_eq!(ended["usage"]["total_tokens"], 2048, "{ended}");
}

#[test]
fn what_no_request_could_pass_is_found_when_the_server_starts() {
    let fails = "{{ raise_exception('not for you') }}";
    for (template, said) in [("{% if %}", "syntax error"), (fails, "not for you")] {
        let message = not_served(&model(&json!(template), &json!({})));
        let file = message.contains("tokenizer_config.json: chat template: expected");
        assert!(file && message.contains(said), "{message}");
    }
    let message = not_served(&model(&json!("{{ messages[0].role }}"), &json!({})));
    assert!(message.contains("the user message `Hello`"), "{message}");
    // Without a template a model completes text.
    let room = model(&Value::Null, &json!({}));
    let server = serve(&room);
    let refusal = server.post(CHAT, &asked(json!({}))).refusal(400);
    assert!(refusal.contains("no chat template"), "{refusal}");
    let body = json!({"prompt": "Is ice", "max_tokens": 2});
    assert_eq!(server.post(COMPLETION, &body).status, 200);
}

#[test]
fn settings_of_a_tokenizer_that_stop_mistral_rs_change_nothing() {
    let served = |settings: Value| {
        let room = model(&turns(), &settings);
        text(&serve(&room).post(CHAT, &asked(json!({}))).json(200)).clone()
    };
    let plain = served(json!({}));
    for settings in [
        json!({"eos_token": ""}),
        json!({"eos_token": "<|nowhere|>"}),
        json!({"additional_special_tokens": [{"content": "</s>", "lstrip": false}]}),
        json!({"sp_model_kwargs": {"enable_sampling": true}}),
        json!({"model_max_length": "none"}),
    ] {
        assert_eq!(served(settings.clone()), plain, "{settings}");
    }
}
