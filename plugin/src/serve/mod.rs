//! A server in OpenAI's manner: one model, and its steered and tuned variants beside it,
//! each under a name of its own.
//!
//! Requests and answers are those of mistral.rs's own server (mistralrs-server-core
//! 0.8.1). Its router is not used: it also serves routes that requantize, unload and
//! reload models, load any model of the hub, and keep answers; and it reads files and
//! fetches addresses that a chat names as images. What is served here:
//!
//! | | |
//! |---|---|
//! | `GET /`, `GET /health` | `OK` |
//! | `GET /v1/models`, `GET /v1/models/{id}` | the models |
//! | `POST /v1/chat/completions` | chat, streamed or not |
//! | `POST /v1/completions` | raw text, streamed or not |
//! | `GET /v1/steering`, `POST /v1/steering` | variants and their doses; changing one |
//!
//! Everything else is 404.

mod answers;
mod body;
mod models;
mod refusal;
mod request;
mod steering;

pub use models::{DEFAULT, Models, Served};
pub use refusal::Refusal;

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;

/// What a request may cost before it is answered.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of its body.
    pub body: usize,
    /// Time until its body has come.
    pub patience: Duration,
    /// Time that answers get to end in after the server was told to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 2 << 20,
            patience: Duration::from_secs(30),
            drain: Duration::from_secs(60),
        }
    }
}

/// A server over loaded models.
pub struct Server {
    app: App,
}

#[derive(Clone)]
struct App {
    models: Arc<Models>,
    limits: Limits,
    started: u64,
    /// Whether only this machine can reach the server.
    local: bool,
}

impl Server {
    /// A server over `models`.
    pub fn new(models: Models, limits: Limits) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            app: App {
                models: Arc::new(models),
                limits,
                started: now.map_or(0, |t| t.as_secs()),
                local: true,
            },
        }
    }

    /// Serves on `listener` until `stop` is there: then nobody new is let in, and who is
    /// being answered gets [`Limits::drain`] to hear the end.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn run(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let drain = self.app.limits.drain;
        let router = self.router(listener.local_addr()?);
        let (told, stopped) = tokio::sync::oneshot::channel();
        let graceful = axum::serve(listener, router).with_graceful_shutdown(async move {
            stop.await;
            let _ = told.send(());
        });
        let overdue = async move {
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(drain).await;
        };
        tokio::select! {
            ended = graceful.into_future() => ended,
            () = overdue => Ok(()),
        }
    }

    fn router(self, address: SocketAddr) -> Router {
        let app = App {
            local: address.ip().is_loopback(),
            ..self.app
        };
        Router::new()
            .route("/", get(|| async { "OK" }))
            .route("/health", get(|| async { "OK" }))
            .route("/v1/models", get(list))
            .route("/v1/models/{id}", get(one))
            .route("/v1/chat/completions", post(answers::chat))
            .route("/v1/completions", post(answers::complete))
            .route("/v1/steering", get(steering::list).post(steering::change))
            .fallback(no_route)
            .method_not_allowed_fallback(no_method)
            .layer(from_fn_with_state(app.clone(), known_host))
            .with_state(app)
    }
}

async fn list(State(app): State<App>) -> Json<Value> {
    let models = app.models.all().iter();
    let data: Vec<Value> = models.map(|m| described(&app, m)).collect();
    Json(json!({"object": "list", "data": data}))
}

async fn one(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    Ok(Json(described(&app, app.models.named(&id)?)))
}

fn described(app: &App, served: &Served) -> Value {
    json!({"id": served.name(), "object": "model", "created": app.started, "owned_by": "reptune"})
}

async fn no_route(request: Request) -> Refusal {
    let text = format!(
        "expected /v1/models, /v1/chat/completions, /v1/completions, /v1/steering or /health, found {}",
        request.uri().path()
    );
    Refusal::new(StatusCode::NOT_FOUND, text)
}

async fn no_method(request: Request) -> Refusal {
    let text = format!(
        "{} does not take {}",
        request.uri().path(),
        request.method()
    );
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, text)
}

/// Lets a request to a local server pass only if it was meant for this machine.
///
/// A web page may have its own name resolve to 127.0.0.1 and then reach a local server
/// as if it were its own; the name still stands in the header.
async fn known_host(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let header = request.headers().get(header::HOST);
    let host = header.and_then(|h| h.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let loopback = address
        .parse::<std::net::IpAddr>()
        .is_ok_and(|ip| ip.is_loopback());
    if app.local && !loopback && !name.eq_ignore_ascii_case("localhost") {
        let text = format!(
            "expected the name of this machine in the header `Host`, such as localhost, found `{host}`"
        );
        return Err(Refusal::new(StatusCode::FORBIDDEN, text));
    }
    Ok(next.run(request).await)
}
