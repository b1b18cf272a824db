//! The server, asked over TCP.

use crate::workload::{GenerateWork, WorkArgs, read_or_make, spec};
use crate::{median, peak_bytes};
use anyhow::{Result, bail};
use clap::Args;
use reptune::serve::{Limits, Models, Server};
use reptune::steered::Variant;
use reptune::store::Store;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Requests that are open at the same time.
const AT_ONCE: usize = 4;

#[derive(Args)]
pub struct ServeArgs {
    #[command(flatten)]
    work: WorkArgs,
    /// Requests, four at a time
    #[arg(long, default_value_t = 16)]
    requests: usize,
    /// Tokens of an answer
    #[arg(long, default_value_t = 32)]
    new: usize,
}

/// Serves the model on a free port and asks for completions.
pub fn run(a: &ServeArgs) -> Result<Value> {
    let spec = spec(&a.work.model)?;
    let (work, _) = read_or_make(&a.work.work, |_| {
        let work = GenerateWork {
            kind: "serve".into(),
            prompts: a.work.prompts(&spec, a.requests),
            max_new_tokens: a.new,
        };
        Ok((work, None))
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let answered = runtime.block_on(async {
        let variants = vec![("base".to_owned(), Variant::default())];
        let model = a.work.model.clone();
        let models = Models::load(model, variants, Store::open()?, |_, _| {}).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = Server::new(models, Limits::default());
        let server = tokio::spawn(server.run(listener, async {
            let _ = stopped.await;
        }));
        let started = Instant::now();
        let mut times = Vec::new();
        for some in work.prompts.chunks(AT_ONCE) {
            let all = some
                .iter()
                .map(|ids| ask(address, ids, work.max_new_tokens));
            for answer in futures::future::join_all(all).await {
                times.push(answer?);
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        let _ = stop.send(());
        let _ = server.await;
        anyhow::Ok((seconds, times))
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
async fn ask(address: SocketAddr, ids: &[u32], new: usize) -> Result<f64> {
    let started = Instant::now();
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
    let answer = asked.await?;
    match answer.starts_with("HTTP/1.1 200") {
        true => Ok(started.elapsed().as_secs_f64()),
        false => bail!("{}", answer.lines().next().unwrap_or_default()),
    }
}
