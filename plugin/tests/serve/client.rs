//! A client that writes HTTP by hand, so that it can also write what no client should,
//! and a server on a thread of its own.

use reptune::serve::Server;
use serde_json::{Value, json};
use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// A server, until it is dropped or stopped.
pub struct Running {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Running {
    pub fn start(server: impl Future<Output = Server> + Send + 'static) -> Self {
        let (ready, address) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let server = server.await;
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
                    .await
                    .expect("a port");
                ready
                    .send(listener.local_addr().expect("an address"))
                    .expect("heard");
                let stop = async {
                    let _ = stopped.await;
                };
                server.run(listener, stop).await.expect("served");
            });
            runtime.shutdown_background();
        });
        Self {
            address: address.recv().expect("the server starts"),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Tells the server to stop, and does not wait.
    pub fn stop(&mut self) {
        let _ = self.stop.take().map(|s| s.send(()));
    }

    /// Waits until it has.
    pub fn join(&mut self) {
        self.thread
            .take()
            .expect("joined once")
            .join()
            .expect("ended well");
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        ))
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        let (head, body) = (json_head(path, &body.to_string()), body.to_string());
        self.send(&format!("{head}{body}"))
    }

    /// Sends bytes as they are and reads to the end.
    pub fn send(&self, bytes: &str) -> Reply {
        let mut stream = self.open();
        stream.write_all(bytes.as_bytes()).expect("sent");
        reply(stream)
    }

    pub fn open(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connects");
        let limit = Some(Duration::from_secs(60));
        stream.set_read_timeout(limit).expect("a limit");
        stream
    }

    /// The answer to a question, greedily.
    pub fn ask(&self, model: &str, question: &str, tokens: usize) -> String {
        let reply = self.post("/v1/chat/completions", &chat(model, question, tokens));
        let answer = reply.json(200);
        assert_eq!(answer["model"], model, "{answer}");
        text(&answer["choices"][0]["message"]["content"])
    }

    pub fn complete(&self, model: &str, prompt: &str, tokens: usize) -> String {
        let body =
            json!({"model": model, "prompt": prompt, "temperature": 0.0, "max_tokens": tokens});
        let answer = self.post("/v1/completions", &body).json(200);
        assert_eq!(answer["model"], model, "{answer}");
        text(&answer["choices"][0]["text"])
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Reply {
    pub fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The message of an error in OpenAI's shape.
    pub fn refusal(&self, status: u16) -> String {
        let error = &self.json(status)["error"];
        for key in ["message", "type", "param", "code"] {
            assert!(error.get(key).is_some(), "{key}: {self:?}");
        }
        text(&error["message"])
    }

    /// The events of a stream but the last, which says that it is done.
    pub fn events(&self) -> Vec<Value> {
        let data = self.body.lines().filter_map(|l| l.strip_prefix("data: "));
        let mut data: Vec<&str> = data.collect();
        assert_eq!(data.pop(), Some("[DONE]"), "{self:?}");
        let parsed = data.into_iter().map(serde_json::from_str);
        parsed
            .collect::<Result<_, _>>()
            .unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

pub fn chat(model: &str, question: &str, tokens: usize) -> Value {
    json!({
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0.0,
        "max_tokens": tokens,
    })
}

pub fn json_head(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
}

pub fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("a text: {value}"))
        .to_owned()
}

/// Reads what comes until the connection ends.
pub fn reply(mut stream: TcpStream) -> Reply {
    let mut bytes = Vec::new();
    // Whoever sends more than is read is cut off; what was said before still counts.
    let _ = stream.read_to_end(&mut bytes);
    let all = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = all
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no reply: {all:?}"));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    Reply {
        status: status.unwrap_or_else(|| panic!("no status: {head}")),
        head: head.to_owned(),
        body: if chunked {
            joined(body)
        } else {
            body.to_owned()
        },
    }
}

fn joined(mut chunks: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = chunks.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).expect("a size");
        whole.push_str(&rest[..size]);
        chunks = &rest[(size + 2).min(rest.len())..];
    }
    whole
}
