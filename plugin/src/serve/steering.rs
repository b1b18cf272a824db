//! `/v1/steering`: which variants are steered, and by how much.

use super::models::Served;
use super::{App, Refusal, body};
use axum::Json;
use axum::extract::{Request, State};
use reptune_adapters::Dose;
use serde_json::{Map, Value, json};

/// A dose of an amount.
type MakeDose = fn(f64) -> Dose;

/// The kinds of a dose, as in `--steer`.
const DOSES: [(&str, MakeDose); 4] = [
    ("coeff", Dose::Coeff),
    ("total", Dose::Total),
    ("fraction", Dose::Fraction),
    ("strength", Dose::Strength),
];

/// `GET /v1/steering`.
pub async fn list(State(app): State<App>) -> Json<Value> {
    let data: Vec<Value> = app.models.all().iter().filter_map(described).collect();
    Json(json!({"object": "list", "data": data}))
}

/// `POST /v1/steering` with `{"model": NAME, "coeff": NUMBER}`, or another kind of dose.
pub async fn change(State(app): State<App>, request: Request) -> Result<Json<Value>, Refusal> {
    let body = body::object(request, &app.limits).await?;
    let Some(Value::String(name)) = body.get("model").cloned() else {
        return Err(Refusal::field("model", "expected `model` to be a name"));
    };
    let dose = dose(&body)?;
    // Continues to the end even if the client disconnects.
    let models = app.models.clone();
    let done = tokio::spawn(async move {
        models.steer(&name, dose).await?;
        Ok(described(models.named(&name)?))
    });
    let described = done.await.map_err(Refusal::failed)??;
    Ok(Json(described.unwrap_or_default()))
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
            return Err(Refusal::field(
                key,
                format!("expected `{key}` to be a number"),
            ));
        };
        if found.replace(kind(number)).is_some() {
            return Err(Refusal::field(key, "expected one dose, found several"));
        }
    }
    let missing = "expected a dose: `coeff`, `total`, `fraction` or `strength`";
    found.ok_or_else(|| Refusal::field("coeff", missing))
}

/// A steered model. Only the names of files are shown, not their directories.
fn described(served: &Served) -> Option<Value> {
    let steering = served.variant().steering?;
    let part = steering.parts.first()?;
    let mut described = json!({
        "model": served.name(),
        "file": part.file.file_name().unwrap_or_default().to_string_lossy(),
        "layers": part.layers,
        "hook": part.point,
    });
    if let Ok(dose) = part.dose() {
        let key = match dose {
            Dose::Coeff(_) => "coeff",
            Dose::Total(_) => "total",
            Dose::Fraction(_) => "fraction",
            Dose::Strength(_) => "strength",
        };
        described[key] = json!(dose.amount());
    }
    Some(described)
}
