//! `/v1/steering`: which variants are steered, and by how much; and the dial.

use super::models::Served;
use super::{App, Refusal, body};
use axum::Json;
use axum::extract::{Request, State};
use reptune_adapters::Dose;
use serde_json::{Value, json};

/// `GET /v1/steering`.
pub async fn list(State(app): State<App>) -> Json<Value> {
    let data: Vec<Value> = app.models.all().iter().filter_map(described).collect();
    Json(json!({"object": "list", "data": data}))
}

/// `POST /v1/steering` with `{"model": NAME, "coeff": NUMBER}`.
pub async fn change(State(app): State<App>, request: Request) -> Result<Json<Value>, Refusal> {
    let body = body::object(request, &app.limits).await?;
    if let Some(other) = body
        .keys()
        .find(|k| !["model", "coeff"].contains(&k.as_str()))
    {
        return Err(Refusal::field(
            other,
            format!("expected `model` and `coeff`, found `{other}`"),
        ));
    }
    let Some(Value::String(name)) = body.get("model").cloned() else {
        return Err(Refusal::field("model", "expected `model` to be a name"));
    };
    let Some(coeff) = body.get("coeff").and_then(Value::as_f64) else {
        return Err(Refusal::field("coeff", "expected `coeff` to be a number"));
    };
    // A change that has begun is finished, also if who asked for it has gone.
    let models = app.models.clone();
    let done = tokio::spawn(async move {
        models.steer(&name, coeff).await?;
        Ok(described(models.named(&name)?))
    });
    let described = done.await.map_err(Refusal::failed)??;
    Ok(Json(described.unwrap_or_default()))
}

/// A steered model. Files are told by their name: where they lie is nobody's business.
fn described(served: &Served) -> Option<Value> {
    let steering = served.variant().steering?;
    let part = steering.parts().first()?;
    Some(json!({
        "model": served.name(),
        "file": part.file().file_name().unwrap_or_default().to_string_lossy(),
        "layers": part.layers(),
        "coeff": part.dose().ok().map(Dose::amount),
        "point": part.point(),
    }))
}
