use super::*;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A variable that cargo sets for tests; its value plays the key.
const KEY_ENV: &str = "CARGO_PKG_DESCRIPTION";
const KEY: &str = env!("CARGO_PKG_DESCRIPTION");

/// What a stub was asked: heads and bodies of requests.
type Asked = Arc<Mutex<Vec<(String, String)>>>;

/// A server on this machine that answers the i-th request with `answer(i, user message)`.
fn stub(answer: impl Fn(usize, &str) -> (u16, String) + Send + 'static) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}/v1", listener.local_addr().expect("an address"));
    let asked = Asked::default();
    let log = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).expect("a head");
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).expect("text");
            let length = head.lines().find_map(|l| {
                let (name, value) = l.split_once(':')?;
                let is = name.eq_ignore_ascii_case("content-length");
                is.then(|| value.trim().parse().expect("a length"))
            });
            let mut body = vec![0; length.expect("a length")];
            stream.read_exact(&mut body).expect("a body");
            let body = String::from_utf8(body).expect("text");
            let json: Value = serde_json::from_str(&body).expect("JSON");
            let user = json["messages"][1]["content"].as_str().expect("a message");
            let index = {
                let mut log = log.lock().expect("the log");
                log.push((head, body.clone()));
                log.len() - 1
            };
            let (status, text) = answer(index, user);
            let length = text.len();
            write!(
                stream,
                "HTTP/1.1 {status} Stub\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
            )
            .expect("an answer");
        }
    });
    (address, asked)
}

fn completion(text: &str) -> (u16, String) {
    let json = json!({ "choices": [{ "message": { "role": "assistant", "content": text } }] });
    (200, json.to_string())
}

/// A judge that prefers the answer in which `truth` stands.
fn truthful(user: &str) -> (u16, String) {
    let first = user
        .find("truth")
        .is_some_and(|at| at < user.find("<reply number=\"2\">").expect("a second reply"));
    completion(if first { "Because.\n1" } else { "2." })
}

struct Scene {
    folder: tempfile::TempDir,
    settings: JudgeSettings,
}

impl Scene {
    fn new(endpoint: &str) -> Self {
        Self {
            folder: tempfile::tempdir().expect("a directory"),
            settings: JudgeSettings {
                endpoint: endpoint.into(),
                model: "stub-1".into(),
                key_env: Some(KEY_ENV.into()),
                timeout_s: 5,
                attempts: 3,
            },
        }
    }

    fn judge(&self) -> Judge {
        let cache = self.folder.path().join("judge/cache.jsonl");
        let mut judge = Judge::new(&self.settings, "Honesty.", &cache).expect("a judge");
        judge.endpoint.pause = Duration::from_millis(1);
        judge
    }

    fn cached(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("judge/cache.jsonl")).unwrap_or_default()
    }
}

#[test]
fn both_orders_are_asked_and_nothing_twice() {
    let (address, asked) = stub(|_, user| truthful(user));
    let scene = Scene::new(&address);
    let mut judge = scene.judge();
    let given = judge
        .compare("Who?", "a truth", "a lie")
        .expect("a judgement");
    assert_eq!(given.preference(), Preference::First);
    let given = judge
        .compare("Why?", "a lie", "a truth")
        .expect("a judgement");
    assert_eq!(given.preference(), Preference::Second);
    {
        let asked = asked.lock().expect("the log");
        assert_eq!(asked.len(), 4);
        let at = |i: usize, text: &str| asked[i].1.find(text).expect(text);
        assert!(at(0, "a truth") < at(0, "a lie") && at(1, "a lie") < at(1, "a truth"));
        for (head, body) in asked.iter() {
            assert!(head.starts_with("POST /v1/chat/completions "), "{head}");
            assert!(
                head.contains(&format!("Authorization: Bearer {KEY}")),
                "{head}"
            );
            assert!(
                body.contains("Honesty.") && body.contains("\"stub-1\""),
                "{body}"
            );
            assert!(!body.contains(KEY), "{body}");
        }
    }
    // Another judge with the same cache asks nothing; another model is asked.
    let mut again = scene.judge();
    let given = again
        .compare("Who?", "a truth", "a lie")
        .expect("a judgement");
    assert_eq!(given.preference(), Preference::First);
    assert_eq!(asked.lock().expect("the log").len(), 4);
    assert_eq!(scene.cached().lines().count(), 4);
    again.endpoint.model = "stub-2".into();
    again
        .compare("Who?", "a truth", "a lie")
        .expect("a judgement");
    assert_eq!(asked.lock().expect("the log").len(), 6);
}

#[test]
fn orders_that_disagree_are_a_tie_and_so_are_replies_that_cannot_be_read() {
    let (address, asked) = stub(|_, user| {
        completion(match user {
            _ if user.contains("leaning") => "1",
            _ if user.contains("level") => "They are equal.\n**Tie**\n",
            _ if user.contains("vague") => "1 or 2",
            _ => return truthful(user),
        })
    });
    let prompts = ["leaning", "level", "vague", "plain", "same"].map(str::to_owned);
    let first = ["x", "x", "x", "a truth", "x"].map(str::to_owned);
    let second = ["y", "y", "y", "y", "x"].map(str::to_owned);
    let mut judge = Scene::new(&address).judge();
    let mut done = Vec::new();
    let all = judge.compare_all(&prompts, &first, &second, &mut |n| done.push(n));
    let all = all.expect("preferences");
    assert_eq!(
        (all.n, all.first, all.second, all.tie, all.unread),
        (5, 1, 0, 4, 1)
    );
    assert_eq!(all.test.p, 1.);
    assert_eq!(done, [1, 2, 3, 4, 5]);
    assert_eq!(asked.lock().expect("the log").len(), 8);
    let error = judge.compare_all(&prompts, &first[1..], &second, &mut |_| ());
    let message = error.expect_err("an answer is missing").to_string();
    assert!(
        message.contains("5 of each") && message.contains("4 and 5"),
        "{message}"
    );
}

#[test]
fn trouble_is_waited_out_and_then_told_without_the_key() {
    let (address, asked) = stub(|i, user| match i {
        0 => (503, "busy".into()),
        1 => (429, "slowly".into()),
        _ => truthful(user),
    });
    let mut judge = Scene::new(&address).judge();
    let given = judge
        .compare("Who?", "a truth", "a lie")
        .expect("a judgement");
    assert_eq!(given.preference(), Preference::First);
    assert_eq!(asked.lock().expect("the log").len(), 4);

    for (status, body, attempts, told) in [
        (500, format!("no luck with {KEY}"), 3, "in trouble"),
        (401, format!("bad key: Bearer {KEY}"), 1, "key_env"),
        (302, "elsewhere".into(), 1, "status 302"),
        (200, format!("<html>{KEY}"), 1, "no message content"),
    ] {
        let (address, asked) = stub(move |_, _| (status, body.clone()));
        let scene = Scene::new(&address);
        let error = scene.judge().compare("Who?", "a truth", "a lie");
        let error = error.expect_err("a server in trouble");
        let message = error.to_string();
        for part in [
            address.as_str(),
            "judge stub-1",
            "expected a chat completion",
            told,
        ] {
            assert!(message.contains(part), "{message}");
        }
        assert!(
            message.contains(&format!("attempt {attempts}")),
            "{message}"
        );
        assert!(!format!("{message} {error:?}").contains(KEY), "{message}");
        assert_eq!(asked.lock().expect("the log").len(), attempts);
        assert_eq!(scene.cached(), "");
    }
}

#[test]
fn a_server_that_is_silent_or_absent_is_given_up() {
    let (address, _) = stub(|_, _| {
        std::thread::sleep(Duration::from_secs(4));
        (200, String::new())
    });
    let mut scene = Scene::new(&address);
    scene.settings.timeout_s = 1;
    scene.settings.attempts = 1;
    let error = scene.judge().compare("Who?", "a", "b");
    let message = error.expect_err("no answer").to_string();
    assert!(
        message.contains("timed out") && message.contains("is the endpoint up"),
        "{message}"
    );

    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}/v1", free.local_addr().expect("an address"));
    drop(free);
    let error = Scene::new(&address).judge().compare("Who?", "a", "b");
    let message = error.expect_err("no server").to_string();
    assert!(
        message.contains("attempt 3") && message.contains("refused"),
        "{message}"
    );
    assert!(!message.contains(KEY), "{message}");
}

#[test]
fn the_key_reaches_no_file() {
    let (address, _) = stub(|_, _| completion(&format!("Your key is {KEY}.\n1")));
    let scene = Scene::new(&address);
    let given = scene
        .judge()
        .compare("Who?", "a", "b")
        .expect("a judgement");
    assert_eq!(given.preference(), Preference::Tie);
    assert!(
        scene.cached().contains("Your key is [key]"),
        "{}",
        scene.cached()
    );
    assert!(!scene.cached().contains(KEY));
}

#[test]
fn a_missing_key_is_named_by_its_variable() {
    let mut scene = Scene::new("http://127.0.0.1:1/v1");
    scene.settings.key_env = Some("REPTUNE_NO_SUCH_VARIABLE".into());
    let judge = Judge::new(
        &scene.settings,
        "Honesty.",
        &scene.folder.path().join("c.jsonl"),
    );
    let message = judge.err().expect("no key").to_string();
    assert!(
        message.contains("export REPTUNE_NO_SUCH_VARIABLE"),
        "{message}"
    );
}

#[test]
fn a_cache_loses_a_line_that_was_cut_off_and_refuses_one_that_is_broken() {
    let (address, asked) = stub(|_, user| truthful(user));
    let scene = Scene::new(&address);
    scene
        .judge()
        .compare("Who?", "a truth", "a lie")
        .expect("a judgement");
    let path = scene.folder.path().join("judge/cache.jsonl");
    let whole = scene.cached();
    std::fs::write(&path, &whole[..whole.len() - 9]).expect("a file");
    scene
        .judge()
        .compare("Who?", "a truth", "a lie")
        .expect("a judgement");
    assert_eq!(asked.lock().expect("the log").len(), 3);
    assert_eq!(scene.cached(), whole);
    std::fs::write(&path, format!("{whole}nonsense\n")).expect("a file");
    let message = Judge::new(&scene.settings, "Honesty.", &path)
        .err()
        .expect("a broken line");
    let message = message.to_string();
    assert!(
        message.contains("cache.jsonl: line 3: expected a reply"),
        "{message}"
    );
}
