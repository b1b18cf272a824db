//! `reptune serve`: a model and its variants over an OpenAI-compatible API.

use super::args::layers;
use super::output::{bytes, print, print_json};
use crate::model::{ModelDir, Source, open_checked, uqff::WeightType};
use crate::progress::{self, Progress};
use crate::serve::{DEFAULT, DOSES, Limits, Models, Server};
use crate::steered::{Steering, Variant};
use crate::store::Store;
use anyhow::{Context, Result, bail};
use clap::Args;
use reptune_adapters::{Dose, HookPoint};
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::{collections::BTreeSet, time::Duration};

/// The name of the model without changes.
const BASE: &str = "base";

#[derive(Args)]
#[command(after_help = "\
Examples:
  reptune serve -m DIR --steer honest=honesty.safetensors:layers=14-16,total=19
  reptune serve -m DIR --steer a=d.safetensors:layers=2,coeff=20 \\
      --steer b=d.safetensors:layers=2,coeff=-20
  reptune serve -m DIR --adapter tuned=ADAPTER \\
      --steer both=d.safetensors:layers=1-2,fraction=0.5,on=tuned
  curl localhost:8080/v1/models
  curl localhost:8080/v1/chat/completions -H 'Content-Type: application/json' \\
      -d '{\"model\": \"honest\", \"messages\": [{\"role\": \"user\", \"content\": \"Is it true?\"}]}'
  curl localhost:8080/v1/steering -H 'Content-Type: application/json' \\
      -d '{\"model\": \"honest\", \"total\": 12}'

The model without changes is called base; it answers requests that name no model. Every
variant is a full copy of the weights in memory. Requests to one model are answered one
after the other, requests to different models at the same time.

GET /v1/steering lists the steered variants. POST changes a dose while the server runs:
the old weights answer until the new ones are loaded.

A request body has at most 2 MiB and must arrive within 30 seconds. Ctrl-C or SIGTERM
stops new requests; the server exits when all answers are complete, or after --drain
seconds. A second signal exits at once. Derived weights are kept in the cache; see
`reptune cache --help`.")]
pub struct ServeArgs {
    /// Model directory, .uqff or .gguf file, or Hugging Face id
    #[arg(short, long)]
    pub model: String,
    /// Steered variant, as NAME=FILE:layers=1-2,DOSE=40. Layers are 1-3,5 or all; DOSE is
    /// coeff, total, fraction or strength, as in `reptune generate`. Options: hook=resid_pre,
    /// resid_mid or resid_post; on=NAME to steer a tuned variant
    #[arg(long, value_name = "VARIANT", value_parser = steer)]
    pub steer: Vec<SteeredVariant>,
    /// Tuned variant, as NAME=DIR with a PEFT adapter, which is merged into the weights
    #[arg(long, value_name = "VARIANT", value_parser = named)]
    pub adapter: Vec<(String, PathBuf)>,
    /// Type of the weights of all variants, such as q8_0 or q4k [default: as they are]
    #[arg(long, value_name = "TYPE")]
    pub quantize: Option<String>,
    /// Address to listen on; any other than a loopback address opens the server to the network
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 chooses a free one
    #[arg(short, long, default_value_t = 8080)]
    pub port: u16,
    /// Seconds to wait for unfinished answers after a signal to stop
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub drain: u64,
    /// Print address, models and bytes of weights as one line of JSON when ready
    #[arg(long)]
    pub json: bool,
}

pub fn serve(a: &ServeArgs) -> Result<()> {
    let found = ModelDir::resolve(&a.model)?;
    open_checked(&found)?;
    let model = found.path().to_owned();
    let variants = named_variants(a, &model)?;
    let limits = Limits {
        drain: Duration::from_secs(a.drain),
        ..Limits::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(async {
        // Before the models are loaded, so that a port in use fails at once.
        let address = SocketAddr::new(a.host, a.port);
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}; choose another --port"))?;
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            progress::line(format_args!(
                "warning: {address} can be reached from other machines; everyone who reaches it can send requests and change doses"
            ));
        }
        let (mut total, shown) = (0, Progress::new("load", variants.len()));
        let models = Models::load(model, variants, Store::open()?, |name, size| {
            total += size;
            shown.step();
            progress::line(format_args!("loaded {name}: about {} of weights", bytes(size)));
        })
        .await?;
        drop(shown);
        progress::line(format_args!("weights in memory: about {}", bytes(total)));
        let (names, url) = (models.names(), format!("http://{address}/v1"));
        match a.json {
            true => print_json(&json!({"url": url, "models": names, "bytes": total}))?,
            false => print(format_args!("serving {} on {url}", names.join(", ")))?,
        }
        Server::new(models, limits).run(listener, stop()).await?;
        anyhow::Ok(())
    });
    // Does not wait for engines that still compute an answer nobody reads.
    runtime.shutdown_background();
    served
}

/// The base and the variants, each with its name.
fn named_variants(a: &ServeArgs, model: &Path) -> Result<Vec<(String, Variant)>> {
    let base = Variant {
        quantize: a.quantize.as_deref().map(WeightType::parse).transpose()?,
        ..Variant::default()
    };
    let mut variants = vec![(BASE.to_owned(), base.clone())];
    for (name, directory) in &a.adapter {
        let tuned = Variant {
            adapter: Some(directory.clone()),
            ..base.clone()
        };
        variants.push((name.clone(), tuned));
    }
    for steer in &a.steer {
        let tuned = |on: &String| variants.iter().find(|(name, _)| name == on);
        let on = match steer.on.as_ref().map(|on| (on, tuned(on))) {
            None => &base,
            Some((_, Some((_, tuned)))) => tuned,
            Some((on, None)) => bail!(
                "--steer {}: expected on= to name an --adapter, found `{on}`",
                steer.name
            ),
        };
        let spec = Source::open(model)?.spec;
        let layers = layers(&steer.layers, spec.layers);
        let layers = layers.with_context(|| format!("--steer {}", steer.name))?;
        let steering = Steering::from_file(&steer.file)?.layers(layers);
        let steering = steering.at(steer.hook).dose(steer.dose);
        // Fails now, before anything is loaded.
        steering.interventions(&spec)?;
        let variant = Variant {
            steering: Some(steering),
            ..on.clone()
        };
        variants.push((steer.name.clone(), variant));
    }
    let mut names = BTreeSet::from([DEFAULT]);
    for (name, _) in &variants {
        if !names.insert(name) {
            bail!(
                "names of models: expected a different one for every --steer and --adapter, found `{name}` twice, or reserved; name them, as in --steer NAME=FILE:.."
            );
        }
    }
    Ok(variants)
}

/// Ctrl-C or SIGTERM. A second one ends the process.
async fn stop() {
    signal().await;
    progress::line("stopping after the answers in progress; a second signal stops at once");
    tokio::spawn(async {
        signal().await;
        std::process::exit(130);
    });
}

async fn signal() {
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                () = interrupted => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    interrupted.await;
}

/// `NAME=FILE:layers=..,total=..`
#[derive(Debug, Clone, PartialEq)]
pub struct SteeredVariant {
    pub name: String,
    pub file: PathBuf,
    pub layers: String,
    pub dose: Dose,
    pub hook: HookPoint,
    /// The tuned variant that is steered, instead of the base.
    pub on: Option<String>,
}

/// Parses `NAME=FILE:layers=..,DOSE=..`, with `hook=..` and `on=..` as options.
fn steer(text: &str) -> Result<SteeredVariant, String> {
    let (head, settings) = text
        .rsplit_once(':')
        .ok_or_else(|| format!("expected FILE:layers=1-2,total=40, found `{text}`"))?;
    let (name, file) = named(head)?;
    let (mut layers, mut dose, mut hook, mut on) = (None, None, HookPoint::ResidPost, None);
    for (key, value) in pairs(settings)? {
        match (key, DOSES.iter().find(|(name, _)| *name == key)) {
            ("layers", _) => layers = Some(value),
            ("hook", _) => hook = value.parse().map_err(|e| format!("{e}"))?,
            ("on", _) => on = Some(value),
            (_, Some((_, kind))) => {
                let number = value.parse::<f64>().ok().filter(|x| x.is_finite());
                let number =
                    number.ok_or_else(|| format!("expected a number as {key}, found `{value}`"))?;
                if dose.replace(kind(number)).is_some() {
                    return Err("expected one dose, found two".into());
                }
            }
            (other, None) => {
                return Err(format!(
                    "expected layers, coeff, total, fraction, strength, hook or on, found `{other}`"
                ));
            }
        }
    }
    Ok(SteeredVariant {
        name,
        file,
        layers: layers.ok_or("expected layers=.., for example layers=1-2")?,
        dose: dose.ok_or("expected a dose, for example coeff=20, total=40 or fraction=0.5")?,
        hook,
        on,
    })
}

/// `layers=1,3,total=40` is layers 1,3 and total 40: a piece without a key belongs to the last.
fn pairs(settings: &str) -> Result<Vec<(&str, String)>, String> {
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for piece in settings.split(',') {
        match (piece.split_once('='), pairs.last_mut()) {
            (Some((key, value)), _) => pairs.push((key.trim(), value.trim().to_owned())),
            (None, Some((_, value))) => *value = format!("{value},{}", piece.trim()),
            (None, None) => return Err(format!("expected KEY=VALUE, found `{piece}`")),
        }
    }
    Ok(pairs)
}

/// `NAME=PATH`; without a name that of the file.
fn named(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = match text.split_once('=') {
        Some((name, path)) => (name.trim().to_owned(), path),
        None => {
            let stem = Path::new(text).file_stem().unwrap_or_default();
            (stem.to_string_lossy().into_owned(), text)
        }
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        true => Err(format!(
            "expected a name of letters, digits, `.`, `_` and `-`, found `{name}`; for example honest={path}"
        )),
        false => Ok((name, PathBuf::from(path))),
    }
}

#[cfg(test)]
mod tests;
