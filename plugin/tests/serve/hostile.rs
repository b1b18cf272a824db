//! What no client should send: refused by name, and the server goes on.

use super::client::{chat, json_head, reply};
use super::{quick, running};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;

const CHAT: &str = "/v1/chat/completions";

#[test]
fn what_is_wrong_with_a_request_is_told_and_the_server_goes_on() {
    let (_room, server) = running(quick());
    let before = server.ask("waves", "Is it true?", 5);
    let post = |path: &str, headers: &str, body: &str| {
        let length = body.len();
        server.send(&format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"))
    };
    let typed = "Content-Type: application/json\r\n";
    let valid = chat("base", "Is it true?", 5);
    let with = |key: &str, value: Value| {
        let mut body = valid.clone();
        body[key] = value;
        body.to_string()
    };
    let deep = "[".repeat(5000);
    for (body, status, said) in [
        (
            "{\"model\": ".to_owned(),
            400,
            "the body is no JSON: EOF while parsing a value at line 1",
        ),
        ("\u{0}\u{1}".to_owned(), 400, "the body is no JSON"),
        (deep, 400, "the body is no JSON: recursion limit"),
        ("[1]".to_owned(), 400, "expected a JSON object"),
        (String::new(), 400, "the body is no JSON"),
        (
            with("model", json!("gpt-4")),
            404,
            "expected one of the models `base`, `waves`, `tuned`, `both`, found `gpt-4`",
        ),
        (
            with("model", json!(["base"])),
            400,
            "expected `model` to be a name",
        ),
        (
            with("model", json!("../../etc/passwd")),
            404,
            "found `../../etc/passwd`",
        ),
        (
            with("messages", json!({"role": "user"})),
            400,
            "expected `messages` to be a list",
        ),
        (
            with("messages", json!([{"role": "user", "content": 7}])),
            400,
            "`messages[0].content` to be a text, found 7",
        ),
        (
            with("max_tokens", json!(-1)),
            400,
            "expected `max_tokens` from 1",
        ),
        (
            with("max_tokens", json!(1.5)),
            400,
            "a whole number, found 1.5",
        ),
        (
            with("n", json!(1_000_000)),
            400,
            "expected `n` from 1 to 16",
        ),
        (
            with("top_logprobs", json!(100_000)),
            400,
            "expected `top_logprobs` from 0 to 20",
        ),
        (
            with("logit_bias", json!({"x": 1})),
            400,
            "a map from token ids",
        ),
        (
            with("stop", json!(7)),
            400,
            "a text or a list of texts, found 7",
        ),
        (
            with("grammar", json!({"type": "lark", "value": "start: ("})),
            400,
            "rammar",
        ),
        (
            with("web_search_options", json!({})),
            400,
            "this server fetches nothing",
        ),
        (
            with("min_tokens", json!(3)),
            400,
            "does not know the field `min_tokens`",
        ),
        (
            with(
                "messages",
                json!([{"role": "user", "content": "word ".repeat(1500)}]),
            ),
            400,
            "sequence length",
        ),
    ] {
        let refusal = post(CHAT, typed, &body).refusal(status);
        assert!(refusal.contains(said), "{body}: {refusal}");
    }
    for (body, said) in [
        (json!({"model": "base"}), "expected `prompt` to be a text"),
        (
            json!({"model": "base", "prompt": ["a"]}),
            "expected `prompt` to be a text",
        ),
        (
            json!({"model": "base", "prompt": 1}),
            "expected `prompt` to be a text",
        ),
    ] {
        let refusal = server.post("/v1/completions", &body).refusal(400);
        assert!(refusal.contains(said), "{refusal}");
    }
    // Refused before the stream begins, so that the status says it.
    let long = with(
        "messages",
        json!([{"role": "user", "content": "word ".repeat(1500)}]),
    );
    let long = long.replacen('{', "{\"stream\": true, ", 1);
    assert!(
        post(CHAT, typed, &long)
            .refusal(400)
            .contains("sequence length")
    );
    let body = valid.to_string();
    for headers in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
    ] {
        let refusal = post(CHAT, headers, &body).refusal(415);
        assert!(
            refusal.contains("expected the header `Content-Type: application/json`"),
            "{refusal}"
        );
    }
    assert_eq!(
        post(
            CHAT,
            "Content-Type: application/json; charset=utf-8\r\n",
            &body
        )
        .status,
        200
    );
    assert_eq!(server.ask("waves", "Is it true?", 5), before);
}

#[test]
fn sampling_at_the_edges_does_not_stop_an_engine() {
    let (_room, server) = running(quick());
    let before = server.ask("base", "Is it true?", 5);
    for more in [
        json!({"temperature": 100.0, "top_p": 0.0}),
        json!({"temperature": 1.0, "top_k": 1_000_000}),
        json!({"temperature": 1.0, "min_p": 1.0, "top_p": 1.0}),
        json!({"temperature": 1e-300}),
        json!({"logprobs": true, "top_logprobs": 20}),
        json!({"logprobs": true, "top_logprobs": 0}),
        json!({"logit_bias": {"4000000000": 100.0, "3": -1e30}}),
        json!({"repetition_penalty": 0.0}),
        json!({"frequency_penalty": 2.0, "presence_penalty": -2.0}),
        json!({"dry_multiplier": 1.0, "dry_base": 0.0, "dry_allowed_length": 0, "dry_sequence_breakers": []}),
        json!({"stop": ["", "a"]}),
        json!({"n": 16}),
        json!({"messages": [{"role": "nobody", "content": ""}]}),
        json!({"messages": [{"role": "user", "content": "\u{0}\u{fffe}🦀"}]}),
        json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}),
    ] {
        let mut body = chat("base", "Is it true?", 5);
        for (key, value) in more.as_object().expect("an object") {
            body[key] = value.clone();
        }
        let reply = server.post(CHAT, &body);
        assert_eq!(reply.status, 200, "{more}: {reply:?}");
        println!(
            "{} {more}: {}",
            reply.status,
            &reply.body[..reply.body.len().min(160)]
        );
        assert_eq!(server.ask("base", "Is it true?", 5), before, "after {more}");
    }
}

#[test]
fn nothing_is_read_or_fetched_for_what_a_chat_names() {
    let (room, server) = running(quick());
    let secret = room.path().join("secret.png");
    std::fs::write(&secret, "a secret").expect("written");
    let trap = TcpListener::bind("127.0.0.1:0").expect("a port");
    trap.set_nonblocking(true).expect("set");
    let address = trap.local_addr().expect("an address");
    let path = secret.display();
    for url in [
        format!("file://{path}"),
        format!("{path}"),
        "../../../../etc/passwd".into(),
        format!("http://{address}/x.png"),
        "data:image/png;base64,AAAA".into(),
    ] {
        for kind in ["image_url", "audio_url", "video_url", "input_audio"] {
            for alone in [true, false] {
                let mut parts = vec![json!({"type": kind, kind: {"url": url}})];
                if !alone {
                    parts.insert(0, json!({"type": "text", "text": "What is this?"}));
                }
                let mut body = chat("base", "", 5);
                body["messages"][0]["content"] = json!(parts);
                let refusal = server.post(CHAT, &body).refusal(400);
                assert!(
                    refusal.contains("reads and fetches nothing else"),
                    "{refusal}"
                );
                assert!(!refusal.contains("secret"), "{refusal}");
            }
        }
    }
    let visitor = trap.accept().map(|_| ()).expect_err("nobody came");
    assert_eq!(visitor.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn only_the_routes_that_are_meant_are_there() {
    let (_room, server) = running(quick());
    for (method, path) in [
        ("GET", "/../etc/passwd"),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd"),
        ("GET", "/..%2f..%2fetc%2fpasswd"),
        ("GET", "//etc/passwd"),
        ("GET", "/v1/../../etc/passwd"),
        ("GET", "/docs"),
        ("GET", "/v1/system/info"),
        ("POST", "/v1/system/doctor"),
        ("POST", "/re_isq"),
        ("POST", "/v1/models/unload/x"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/images/generations"),
        ("POST", "/v1/audio/speech"),
        ("POST", "/v1/responses"),
        ("GET", "/v1/responses/x"),
    ] {
        let reply = server.send(&format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"));
        let refusal = reply.refusal(404);
        assert!(
            refusal.contains("expected /v1/models, /v1/chat/completions"),
            "{refusal}"
        );
    }
    // A model of that name is what these could mean here.
    for name in [
        "unload",
        "reload",
        "status",
        "tune",
        "..%2f..%2fetc%2fpasswd",
    ] {
        let refusal = server.get(&format!("/v1/models/{name}")).refusal(404);
        assert!(
            refusal.contains("expected one of the models `base`"),
            "{refusal}"
        );
        let reply = server.post(&format!("/v1/models/{name}"), &json!({"model_id": "base"}));
        assert!(reply.refusal(405).contains("does not take POST"));
    }
    assert!(
        server
            .post("/v1/models", &json!({}))
            .refusal(405)
            .contains("does not take POST")
    );
    assert!(server.get(CHAT).refusal(405).contains("does not take GET"));
    for host in [
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "10.0.0.1:1",
        "",
    ] {
        let reply = server.send(&format!(
            "GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        ));
        assert!(
            reply
                .refusal(403)
                .contains("expected the name of this machine"),
            "{reply:?}"
        );
    }
    for host in ["localhost", "LOCALHOST:99", "127.0.0.1:8080", "[::1]:8080"] {
        let reply = server.send(&format!(
            "GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        ));
        assert_eq!(reply.status, 200, "{host}");
        assert!(
            !reply.head.to_lowercase().contains("access-control"),
            "{reply:?}"
        );
    }
}

#[test]
fn large_slow_and_broken_bodies_are_refused_in_time() {
    let (_room, server) = running(quick());
    let too_large = format!("{{\"prompt\": \"{}\"}}", "x".repeat(20_000));
    // Announced: refused before it is read.
    let refusal = server.send(&json_head(CHAT, &too_large)).refusal(413);
    assert!(refusal.contains("at most 10000 bytes"), "{refusal}");
    let refusal = server
        .send(&(json_head(CHAT, &too_large) + &too_large))
        .refusal(413);
    assert!(refusal.contains("at most 10000 bytes"), "{refusal}");
    // In chunks, without a length.
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let chunks = format!("{head}{:x}\r\n{too_large}\r\n0\r\n\r\n", too_large.len());
    assert!(
        server
            .send(&chunks)
            .refusal(413)
            .contains("at most 10000 bytes")
    );
    // Exactly as much as is allowed is read.
    let fitting = format!(
        "{{\"model\": \"nobody\", \"x\": \"{}\"}}",
        "x".repeat(10_000 - 28)
    );
    assert_eq!(fitting.len(), 10_000);
    assert!(
        server
            .send(&(json_head(CHAT, &fitting) + &fitting))
            .refusal(404)
            .contains("nobody")
    );
    // Half a body, and then silence.
    let refusal = server
        .send(&(json_head(CHAT, &fitting) + &fitting[..100]))
        .refusal(408);
    assert!(refusal.contains("within 300ms"), "{refusal}");
    // Half a head, and then silence: it waits, and nobody waits for it.
    let mut silent = server.open();
    silent.write_all(b"POST /v1/chat").expect("sent");
    for _ in 0..50 {
        let mut gone = server.open();
        gone.write_all(json_head(CHAT, &fitting).as_bytes())
            .expect("sent");
        gone.write_all(&fitting.as_bytes()[..50]).expect("sent");
    }
    assert!(!server.ask("base", "Is it true?", 3).is_empty());
    let mut garbage = server.open();
    garbage
        .write_all(b"\x16\x03\x01\x02\x00\x01\xfc\r\n\r\n")
        .expect("sent");
    assert_eq!(reply(garbage).status, 400);
    assert!(!server.ask("base", "Is it true?", 3).is_empty());
}

#[test]
fn clients_that_leave_in_the_middle_of_an_answer_disturb_nobody() {
    // Alone, 0.8.1 panics when an answer that is no stream finds nobody, and fails all others
    // that it computes at the time.
    let (_room, server) = running(quick());
    let before = server.ask("base", "Is it true?", 8);
    for stream in [true, false] {
        for _ in 0..8 {
            let mut body = chat("base", "Is it true?", 200);
            body["stream"] = json!(stream);
            let body = body.to_string();
            let mut connection = server.open();
            connection
                .write_all((json_head(CHAT, &body) + &body).as_bytes())
                .expect("sent");
            if stream {
                let mut some = [0; 64];
                let read = connection.read(&mut some).expect("begun");
                assert!(read > 0);
            }
            drop(connection);
        }
        for _ in 0..20 {
            assert_eq!(server.ask("base", "Is it true?", 8), before);
        }
    }
}
