//! `reptune serve` as a process: what it prints, what it refuses, how it ends.

use super::client::{Reply, chat, json_head, reply};
use super::{adapter, directions, mini, running};
use crate::program;
use reptune::bake::bake;
use reptune::model::uqff::WeightType;
use reptune::serve::Limits;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

struct Served {
    child: Child,
    line: String,
    address: String,
}

fn serve(room: &std::path::Path, arguments: &[&str]) -> Served {
    Served::start(&mut command(room, arguments))
}

fn command(room: &std::path::Path, arguments: &[&str]) -> Command {
    let mut command = program::command(room);
    command
        .arg("serve")
        .args(["--model", mini().to_str().expect("a path")])
        .args(arguments);
    command
}

impl Served {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .args(["--port", "0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let address = line
            .split("http://")
            .nth(1)
            .and_then(|a| a.split('/').next());
        Served {
            address: address
                .unwrap_or_else(|| panic!("no address: {line}"))
                .to_owned(),
            child,
            line,
        }
    }

    fn open(&self) -> TcpStream {
        TcpStream::connect(&self.address).expect("connects")
    }

    fn post(&self, path: &str, body: &str) -> Reply {
        let mut stream = self.open();
        stream
            .write_all((json_head(path, body) + body).as_bytes())
            .expect("sent");
        reply(stream)
    }

    fn terminate(&self) {
        let id = self.child.id().to_string();
        let killed = Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .expect("kill runs");
        assert!(killed.success());
    }

    /// Exit code, and what it said on stderr.
    fn end(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().expect("ends");
        let mut said = String::new();
        let stderr = self.child.stderr.as_mut().expect("piped");
        stderr.read_to_string(&mut said).expect("text");
        (status.code(), said)
    }
}

#[test]
fn it_says_what_it_serves_and_a_signal_lets_answers_end() {
    let room = tempfile::tempdir().expect("a room");
    directions(room.path());
    adapter(room.path());
    let steer = "honest=waves.safetensors:layers=1,2,total=60";
    let both = "both=waves.safetensors:layers=1-2,total=-60,on=tuned";
    let served = serve(
        room.path(),
        &[
            "--adapter",
            "tuned=adapter",
            "--steer",
            steer,
            "--steer",
            both,
            "--quantize",
            "q8_0",
        ],
    );
    assert!(
        served
            .line
            .starts_with("serving base, tuned, honest, both on http://127.0.0.1:"),
        "{}",
        served.line
    );
    let body = chat("honest", "Is it true?", 5).to_string();
    assert_eq!(
        served.post("/v1/chat/completions", &body).json(200)["model"],
        "honest"
    );
    // One is being answered, one has only begun to ask.
    let mut body = chat("both", "Is it true?", 200);
    body["stream"] = json!(true);
    let body = body.to_string();
    let mut asked = served.open();
    asked
        .write_all((json_head("/v1/chat/completions", &body) + &body).as_bytes())
        .expect("sent");
    let mut first = [0; 15];
    asked.read_exact(&mut first).expect("begun");
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    served.terminate();
    let mut rest = String::new();
    asked.read_to_string(&mut rest).expect("to its end");
    assert!(rest.contains("data: [DONE]"), "{rest}");
    let address = served.address.clone();
    let (code, said) = served.end();
    assert_eq!(code, Some(0), "{said}");
    for part in [
        "loaded honest: about ",
        "weights in memory: about ",
        "stopping after the answers in progress",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!said.contains("warning"), "{said}");
    TcpStream::connect(address)
        .map(|_| ())
        .expect_err("nobody new is let in");
}

#[test]
fn who_never_ends_a_request_is_not_waited_for_beyond_the_time_that_was_set() {
    let room = tempfile::tempdir().expect("a room");
    let served = serve(
        room.path(),
        &["--host", "0.0.0.0", "--drain", "1", "--json"],
    );
    let line: serde_json::Value = serde_json::from_str(&served.line).expect("JSON");
    assert_eq!(
        (&line["models"], line["bytes"].as_u64() > Some(5_000_000)),
        (&json!(["base"]), true),
        "{line}"
    );
    let port = served.address.rsplit_once(':').expect("a port").1;
    let mut silent = TcpStream::connect(format!("127.0.0.1:{port}")).expect("connects");
    silent.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{").expect("sent");
    std::thread::sleep(Duration::from_millis(100));
    served.terminate();
    let (code, said) = served.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("can be reached from other machines"),
        "{said}"
    );
}

#[test]
fn what_was_baked_is_served_and_steered_as_it_is() {
    let room = tempfile::tempdir().expect("a room");
    directions(room.path());
    let output = program::command(room.path())
        .args(["bake", "--model", mini().to_str().expect("a path")])
        .args(["--directions", "waves.safetensors", "--layers", "1-2"])
        .args(["--quantize", "q8_0", "--coeffs", "60,-60", "--out", "doses"])
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let (none, q8_0) = (
        room.path().join("none"),
        WeightType::parse("q8_0").expect("a type"),
    );
    bake(&mini(), &[], q8_0, &none, &mut |_, _| {}).expect("quantized");
    let ask = |model: &str, name: &str, more: &[&str]| -> String {
        let mut command = program::command(room.path());
        let served = Served::start(command.args(["serve", "--model", model]).args(more));
        let reply = served.post(
            "/v1/chat/completions",
            &chat(name, "Is it true?", 5).to_string(),
        );
        served.terminate();
        reply.json(200)["choices"][0]["message"]["content"].to_string()
    };
    // Beside shared weights; and what is steered is what was baked so.
    let baked = ask("doses/plus_60.uqff", "base", &[]);
    let steer = "s=waves.safetensors:layers=1-2,coeff=60";
    assert_eq!(ask("none", "s", &["--steer", steer]), baked);
    assert_ne!(ask("none", "base", &[]), baked);
}

#[test]
fn a_server_that_is_stopped_lets_nobody_new_in() {
    let (_room, mut server) = running(Limits::default());
    assert_eq!(server.get("/health").body, "OK");
    // A connection that is kept for later is not waited for.
    let mut kept = server.open();
    kept.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("sent");
    let mut some = [0; 512];
    assert!(kept.read(&mut some).expect("answered") > 0);
    server.stop();
    server.join();
    TcpStream::connect(server.address)
        .map(|_| ())
        .expect_err("refused");
}

#[test]
fn what_cannot_be_served_is_told_before_anything_is_loaded() {
    let room = tempfile::tempdir().expect("a room");
    directions(room.path());
    adapter(room.path());
    std::fs::write(room.path().join("no.safetensors"), "no").expect("written");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    for (arguments, said) in [
        (
            vec!["--steer", "waves.safetensors"],
            "expected FILE:layers=1-2,total=40",
        ),
        (
            vec!["--steer", "waves.safetensors:layers=9,coeff=1"],
            "this model has layers 0 to 5",
        ),
        (
            vec!["--steer", "no.safetensors:layers=1,coeff=1"],
            "no.safetensors: file: expected a complete safetensors file",
        ),
        (
            vec!["--steer", "waves.safetensors:layers=1,fraction=1"],
            "a reference norm for layer 1",
        ),
        (
            vec!["--steer", "waves.safetensors:layers=1,coeff=1,on=x"],
            "expected on= to name an --adapter, found `x`",
        ),
        (
            vec!["--steer", "base=waves.safetensors:layers=1,coeff=1"],
            "found `base` twice, or reserved",
        ),
        (
            vec!["--adapter", "default=adapter"],
            "found `default` twice, or reserved",
        ),
        (vec!["--adapter", "tuned=nowhere"], "nowhere"),
        (vec!["--quantize", "q9"], "found `q9`"),
        (
            vec![
                "--quantize",
                "mxfp4",
                "--steer",
                "waves.safetensors:layers=1,coeff=1",
            ],
            "adds a bias twice",
        ),
        (vec!["--host", "localhost"], "invalid IP address"),
        (vec!["--port", &port], "cannot listen on 127.0.0.1"),
    ] {
        let output = command(room.path(), &[])
            .args(&arguments)
            .output()
            .expect("runs");
        let message = String::from_utf8_lossy(&output.stderr);
        let usage = message.contains("For more information, try");
        let code = if usage { 2 } else { 1 };
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(said), "{arguments:?}: {message}");
    }
}
