//! The models of a server: the base and its variants, each with an engine of its own.
//!
//! One engine for each, and not mistral.rs's several models in one: so a variant is
//! replaced by putting another engine in its place, whoever began on the old one ends
//! on it (it stays until the last request lets go of it), and no other model notices.
//! Of an engine that has gone mistral.rs 0.8.1 keeps one sleeping thread (its logger's) and
//! no memory to speak of.

use super::asking::{AskedPrompt, ask, whole};
use super::fields::Fields;
use super::request::{Limits, Refusal};
use super::sampling::RequestSampling;
use crate::error::{Error, Result};
use crate::runtime::{SharedEngine, on_own_thread};
use crate::{progress, steered::Variant, store::Store};
use axum::http::StatusCode;
use reptune_adapters::Dose;
use reptune_recipes::Message;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

/// What mistral.rs and its clients call the model that answers where none is named.
pub(crate) const DEFAULT: &str = "default";

/// A dose of one kind.
type DoseKind = fn(f64) -> Dose;

/// The kinds of a dose, as in `--steer` and `/v1/steering`.
pub(crate) const DOSES: [(&str, DoseKind); 4] = [
    ("coeff", Dose::Coeff),
    ("total", Dose::Total),
    ("fraction", Dose::Fraction),
    ("strength", Dose::Strength),
];

/// What every route sees.
#[derive(Clone)]
pub(super) struct App {
    pub models: Arc<Models>,
    pub limits: Limits,
    pub started: u64,
    /// Whether only this machine can reach the server.
    pub local: bool,
}

/// The base first, then the variants as they were given.
pub struct Models {
    pub(super) served: Vec<Served>,
    base: PathBuf,
    cache: Store,
}

/// A model under its name.
pub(super) struct Served {
    pub(super) name: String,
    /// What it was when it was loaded.
    given: Variant,
    now: RwLock<Now>,
    /// Held while the engine is being replaced: one change after the other.
    changing: tokio::sync::Mutex<()>,
}

/// What answers at the moment; the engine is to be kept until the answer is complete.
#[derive(Clone)]
pub(super) struct Now {
    pub(super) variant: Variant,
    pub(super) engine: SharedEngine,
}

impl Models {
    /// Makes and loads `variants` of the model at `base`; the first is what answers where none
    /// is named. `progress` is called with the name of each that is loaded and the bytes of its
    /// weights.
    ///
    /// Each is asked for one token before it is served, so what would fail at every request fails
    /// here.
    ///
    /// # Errors
    /// When one does not fit the model, cannot be loaded, has a chat template that does not
    /// render a question, or does not answer.
    pub async fn load(
        base: PathBuf,
        variants: Vec<(String, Variant)>,
        cache: Store,
        mut progress: impl FnMut(&str, u64),
    ) -> Result<Self> {
        let mut served = Vec::new();
        for (name, variant) in variants {
            let (wanted, base, cache) = (variant.clone(), base.clone(), cache.clone());
            let loading = on_own_thread("loading", move || {
                let directory = wanted.directory(&base, &cache)?;
                let engine = SharedEngine::load(&directory)?;
                Ok((engine, SharedEngine::bytes(&directory)?))
            });
            let (engine, bytes) = loading.await?;
            try_out(&engine, &name).await?;
            progress(&name, bytes);
            served.push(Served {
                name,
                given: variant.clone(),
                now: RwLock::new(Now { variant, engine }),
                changing: tokio::sync::Mutex::default(),
            });
        }
        Ok(Self {
            served,
            base,
            cache,
        })
    }

    /// The names.
    pub fn names(&self) -> Vec<String> {
        self.served.iter().map(|s| s.name.clone()).collect()
    }

    /// The model called `name`; 404 with the names there are.
    pub(super) fn named(&self, name: &str) -> std::result::Result<&Served, Refusal> {
        let found = match name {
            DEFAULT => self.served.first(),
            _ => self.served.iter().find(|s| s.name == name),
        };
        found.ok_or_else(|| Refusal::no_model(name, &self.names()))
    }

    /// The model that a request names; 404 for a name that is none, 400 for what is no name.
    pub(super) fn asked(&self, body: &Map<String, Value>) -> std::result::Result<&Served, Refusal> {
        match body.get("model") {
            None | Some(Value::Null) => self.named(DEFAULT),
            Some(Value::String(name)) => self.named(name),
            Some(_) => Err(Refusal::field("model", "expected `model` to be a name")),
        }
    }

    /// Replaces the engine of the steered model `name` by one with another dose; 404 for an
    /// unknown model, 400 for one that is not steered or a dose that is not finite; 500 when
    /// the new engine does not load, and then the old one stays.
    ///
    /// While the new one is made and loaded the old one answers, so for that time
    /// memory holds both.
    pub(super) async fn steer(&self, name: &str, dose: Dose) -> std::result::Result<(), Refusal> {
        let served = self.named(name)?;
        let _turn = served.changing.lock().await;
        let Some(steering) = served.now().variant.steering else {
            let text = format!("`{}` is not steered, so it has no dose", served.name);
            return Err(Refusal::field("model", text));
        };
        let steering = steering.with_doses(&[dose]);
        let variant = Variant {
            steering: Some(steering.map_err(|e| Refusal::field("model", e.to_string()))?),
            ..served.given.clone()
        };
        let (given, base, cache) = (served.given.clone(), self.base.clone(), self.cache.clone());
        let made = on_own_thread("loading", move || {
            // Not kept in the cache, which many doses would fill.
            let temporary = cache.temporary()?;
            let out = temporary.path().join("model");
            SharedEngine::load(&given.with_dose(dose, &base, &cache, &out)?)
        });
        let stays = |e: Error| {
            let text = format!("`{}` stays as it was: {e}", served.name);
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text)
        };
        let engine = made.await.map_err(stays)?;
        try_out(&engine, &served.name).await.map_err(stays)?;
        let mut now = served.now.write().unwrap_or_else(PoisonError::into_inner);
        *now = Now { variant, engine };
        Ok(())
    }
}

/// Asks a loaded engine for one token: after a question, or after raw text where the model has
/// no chat template.
async fn try_out(engine: &SharedEngine, name: &str) -> Result<()> {
    const QUESTION: &str = "Hello";
    let chat = match engine.chat.has_template() {
        false => None,
        true => Some(engine.chat.render(&Message::conversation("", QUESTION))?),
    };
    if let (Some(_), Err(e)) = (
        &chat,
        engine
            .chat
            .render(&Message::conversation("Be brief.", QUESTION)),
    ) {
        progress::line(format_args!(
            "{name}: chats with a system message will be refused: {e}"
        ));
    }
    let ids = match &chat {
        Some(written) => engine.chat.ids(written)?,
        None => engine.chat.encode(QUESTION)?,
    };
    let fields = Fields {
        max_tokens: Some(1),
        sampling: RequestSampling {
            temperature: 0.,
            ..RequestSampling::default()
        },
        ..Fields::default()
    };
    let failed = |refusal: Refusal| Error::Runtime {
        place: name.into(),
        reason: refusal.message,
    };
    let said = ask(engine, &AskedPrompt { chat, ids }, &fields, 0).await;
    let answer = whole(&mut said.map_err(failed)?).await;
    answer.map(drop).map_err(failed)
}

impl Served {
    pub(super) fn now(&self) -> Now {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        now.clone()
    }
}
