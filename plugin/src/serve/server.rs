//! The server, and the routes that ask no model.

use super::answers::{chat, complete};
use super::models::{App, DOSES, Models, Served};
use super::request::{Limits, Refusal, object};
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::routing::{get, post};
use axum::{Json, Router, response::Response};
use reptune_adapters::Dose;
use serde_json::{Map, Value, json};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{future::Future, sync::Arc};
use tokio::net::TcpListener;

/// A server over loaded models.
pub struct Server(App);

impl Server {
    /// A server over `models`.
    pub fn new(models: Models, limits: Limits) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(App {
            models: Arc::new(models),
            limits,
            started: now.map_or(0, |t| t.as_secs()),
            local: true,
        })
    }

    /// Serves on `listener` until `stop` is ready: then no new request is accepted, and answers
    /// in progress have [`Limits::drain`] to complete.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn run(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let Self(mut app) = self;
        let drain = app.limits.drain;
        app.local = listener.local_addr()?.ip().is_loopback();
        let router = Router::new()
            .route("/", get(|| async { "OK" }))
            .route("/health", get(|| async { "OK" }))
            .route("/v1/models", get(models))
            .route("/v1/models/{id}", get(model))
            .route("/v1/chat/completions", post(chat))
            .route("/v1/completions", post(complete))
            .route("/v1/steering", get(steering).post(steer))
            .fallback(no_route)
            .method_not_allowed_fallback(no_method)
            .layer(from_fn_with_state(app.clone(), known_host))
            .with_state(app);
        let (stopping, stopped) = tokio::sync::oneshot::channel();
        let graceful = axum::serve(listener, router).with_graceful_shutdown(async move {
            stop.await;
            let _ = stopping.send(());
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
}

/// `GET /v1/models`
async fn models(State(app): State<App>) -> Json<Value> {
    let data = app.models.served.iter().map(|served| entry(&app, served));
    Json(json!({"object": "list", "data": data.collect::<Value>()}))
}

/// `GET /v1/models/{id}`
async fn model(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    Ok(Json(entry(&app, app.models.named(&id)?)))
}

fn entry(app: &App, served: &Served) -> Value {
    json!({"id": served.name, "object": "model", "created": app.started, "owned_by": "reptune"})
}

/// `GET /v1/steering`: which variants are steered, and by how much.
async fn steering(State(app): State<App>) -> Json<Value> {
    let data: Vec<Value> = app.models.served.iter().filter_map(steered).collect();
    Json(json!({"object": "list", "data": data}))
}

/// `POST /v1/steering` with `{"model": NAME, "coeff": NUMBER}`, or another kind of dose.
async fn steer(State(app): State<App>, request: Request) -> Result<Json<Value>, Refusal> {
    let body = object(request, &app.limits).await?;
    let Some(Value::String(name)) = body.get("model").cloned() else {
        return Err(Refusal::field("model", "expected `model` to be a name"));
    };
    let dose = dose(&body)?;
    // Continues to the end even if the client disconnects.
    let done = tokio::spawn(async move {
        app.models.steer(&name, dose).await?;
        Ok(steered(app.models.named(&name)?))
    });
    let steered = done.await.map_err(Refusal::failed)??;
    Ok(Json(steered.unwrap_or_default()))
}

/// The one dose of `body`.
fn dose(body: &Map<String, Value>) -> Result<Dose, Refusal> {
    let mut found = None;
    for (key, value) in body.iter().filter(|(key, _)| *key != "model") {
        let Some((_, kind)) = DOSES.iter().find(|(name, _)| name == key) else {
            let text = format!(
                "expected `model` and one of `coeff`, `total`, `fraction` and `strength`, found `{key}`"
            );
            return Err(Refusal::field(key, text));
        };
        let Some(number) = value.as_f64() else {
            let text = format!("expected `{key}` to be a number");
            return Err(Refusal::field(key, text));
        };
        if found.replace(kind(number)).is_some() {
            return Err(Refusal::field(key, "expected one dose, found several"));
        }
    }
    let missing = "expected a dose: `coeff`, `total`, `fraction` or `strength`";
    found.ok_or_else(|| Refusal::field("coeff", missing))
}

/// A steered model. Only the names of files are shown, not their directories.
fn steered(served: &Served) -> Option<Value> {
    let steering = served.now().variant.steering?;
    let part = steering.parts.first()?;
    let mut described = json!({
        "model": served.name,
        "file": part.file.file_name().unwrap_or_default().to_string_lossy(),
        "layers": part.layers,
        "hook": part.point,
    });
    if let Ok(dose) = part.dose() {
        let kind = DOSES.iter().find(|(_, make)| make(dose.amount()) == dose);
        described[kind?.0] = json!(dose.amount());
    }
    Some(described)
}

async fn no_route(request: Request) -> Refusal {
    let text = format!(
        "expected /v1/models, /v1/chat/completions, /v1/completions, /v1/steering or /health, found {}",
        request.uri().path()
    );
    Refusal::new(StatusCode::NOT_FOUND, text)
}

async fn no_method(request: Request) -> Refusal {
    let (path, method) = (request.uri().path(), request.method());
    let text = format!("{path} does not take {method}");
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
    let address = address.parse::<std::net::IpAddr>();
    let local = name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|ip| ip.is_loopback());
    if app.local && !local {
        let text = format!(
            "expected the name of this machine in the header `Host`, such as localhost, found `{host}`"
        );
        return Err(Refusal::new(StatusCode::FORBIDDEN, text));
    }
    Ok(next.run(request).await)
}
