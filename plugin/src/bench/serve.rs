//! The server, asked over TCP.

use super::peak_bytes;
use super::tune::median;
use super::work::{self, GenerateWork, Lengths};
use crate::error::{Error, Result};
use crate::serve::{Limits, Models, Server};
use crate::steered::{Cache, Variant};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Requests that are open at the same time.
const AT_ONCE: usize = 4;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Number of requests.
    pub requests: usize,
    /// Lengths of their prompts.
    pub lengths: Lengths,
    /// Tokens of an answer.
    pub new: usize,
    /// Of the prompts.
    pub seed: u64,
}

/// Serves `model` on a free port and asks for completions, four at a time.
///
/// # Errors
/// When the model cannot be loaded, or a request is not answered.
pub fn serve(model: &Path, directory: &Path, settings: &Settings) -> Result<Value> {
    let spec = super::spec(model)?;
    let (work, _) = work::read_or_make(directory, |_| {
        let work = GenerateWork {
            kind: "serve".into(),
            prompts: work::prompts(&spec, settings.requests, settings.lengths, settings.seed),
            max_new_tokens: settings.new,
        };
        Ok((work, None))
    })?;
    let failed = |reason: String| Error::Runtime {
        place: "bench serve".into(),
        reason,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| failed(e.to_string()))?;
    let answered = runtime.block_on(async {
        let variants = vec![("base".to_owned(), Variant::default())];
        let models = Models::load(model.to_owned(), variants, Cache::open()?, |_, _| {}).await?;
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(|e| failed(e.to_string()))?;
        let address = listener.local_addr().map_err(|e| failed(e.to_string()))?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = Server::new(models, Limits::default());
        let server = tokio::spawn(server.run(listener, async {
            let _ = stopped.await;
        }));
        let begun = Instant::now();
        let mut times = Vec::new();
        for some in work.prompts.chunks(AT_ONCE) {
            let all = some
                .iter()
                .map(|ids| ask(address, ids, work.max_new_tokens));
            for answer in futures::future::join_all(all).await {
                times.push(answer.map_err(failed)?);
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        let _ = stop.send(());
        let _ = server.await;
        Ok::<_, Error>((seconds, times))
    });
    runtime.shutdown_background();
    let (seconds, times) = answered?;
    let tokens = work.prompts.len() * work.max_new_tokens;
    Ok(json!({
        "work": "serve", "seconds": seconds, "requests_per_second": times.len() as f64 / seconds,
        "tokens_per_second": tokens as f64 / seconds, "median_seconds": median(&times),
        "peak_bytes": peak_bytes(),
    }))
}

/// Seconds until a completion is there.
async fn ask(address: SocketAddr, ids: &[u32], new: usize) -> std::result::Result<f64, String> {
    let begun = Instant::now();
    let words: Vec<String> = ids.iter().map(|id| format!("t{id}")).collect();
    let body =
        json!({"model": "base", "prompt": words.join(" "), "max_tokens": new, "temperature": 0.0});
    let body = body.to_string();
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = asked.await.map_err(|e| e.to_string())?;
    match answer.starts_with("HTTP/1.1 200") {
        true => Ok(begun.elapsed().as_secs_f64()),
        false => Err(answer.lines().next().unwrap_or_default().to_owned()),
    }
}
