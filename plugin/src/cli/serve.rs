//! `reptune serve`: a model and its variants over an OpenAI-compatible API.

mod variants;

use super::args::layers;
use super::output::{bytes, print, print_json};
use crate::model::ModelDir;
use crate::model::Source;
use crate::model::uqff::WeightType;
use crate::progress;
use crate::serve::{DEFAULT, Limits, Models, Server};
use crate::steered::{Steering, Variant};
use crate::store::Store;
use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use variants::{Adapter, Steer, adapter, steer};

pub const EXAMPLES: &str = "\
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
`reptune cache --help`.";

/// The name of the model without changes.
const BASE: &str = "base";

#[derive(Args)]
pub struct ServeArgs {
    /// Model directory, .uqff or .gguf file, or Hugging Face id
    #[arg(short, long)]
    pub model: String,
    /// Steered variant, as NAME=FILE:layers=1-2,DOSE=40. Layers are 1-3,5 or all; DOSE is
    /// coeff, total, fraction or strength, as in `reptune generate`. Options: hook=resid_pre,
    /// resid_mid or resid_post; on=NAME to steer a tuned variant
    #[arg(long, value_name = "VARIANT", value_parser = steer)]
    pub steer: Vec<Steer>,
    /// Tuned variant, as NAME=DIR with a PEFT adapter, which is merged into the weights
    #[arg(long, value_name = "VARIANT", value_parser = adapter)]
    pub adapter: Vec<Adapter>,
    /// Type of the weights of all variants, such as q8_0 or q4k [default: as they are]
    #[arg(long, value_name = "TYPE")]
    pub quantize: Option<String>,
    /// Address to listen on; any but a loopback address admits the network
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 chooses a free one
    #[arg(short, long, default_value_t = 8080)]
    pub port: u16,
    /// Seconds in which answers may complete after a signal to stop
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub drain: u64,
    /// Print address, models and bytes of weights as one line of JSON when ready
    #[arg(long)]
    pub json: bool,
}

pub fn serve(a: &ServeArgs) -> Result<()> {
    let model = ModelDir::resolve(&a.model)?.path().to_owned();
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
        let mut total = 0;
        let models = Models::load(model, variants, Store::open()?, |name, size| {
            total += size;
            progress::line(format_args!("loaded {name}: about {} of weights", bytes(size)));
        })
        .await?;
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
    let quantize = a.quantize.as_deref().map(WeightType::parse).transpose()?;
    let base = Variant {
        quantize,
        ..Variant::default()
    };
    let mut variants = vec![(BASE.to_owned(), base.clone())];
    for adapter in &a.adapter {
        let tuned = Variant {
            adapter: Some(adapter.directory.clone()),
            ..base.clone()
        };
        variants.push((adapter.name.clone(), tuned));
    }
    for steer in &a.steer {
        let on = match &steer.on {
            None => &base,
            Some(on) => match variants.iter().find(|(name, _)| name == on) {
                Some((_, tuned)) => tuned,
                None => bail!(
                    "--steer {}: expected on= to name an --adapter, found `{on}`",
                    steer.name
                ),
            },
        };
        let steered = Variant {
            steering: Some(steering(steer, model)?),
            ..on.clone()
        };
        variants.push((steer.name.clone(), steered));
    }
    let mut names = BTreeSet::from([DEFAULT]);
    for (name, _) in &variants {
        if !names.insert(name) {
            bail!("expected a different name for every variant, found `{name}` twice, or reserved");
        }
    }
    Ok(variants)
}

fn steering(steer: &Steer, model: &Path) -> Result<Steering> {
    let spec = Source::open(model)?.spec;
    let layers =
        layers(&steer.layers, spec.layers).with_context(|| format!("--steer {}", steer.name))?;
    let steering = Steering::from_file(&steer.file)?
        .layers(layers)
        .at(steer.hook);
    let steering = steering.dose(steer.dose);
    // Fails now, before anything is loaded.
    steering.interventions(&spec)?;
    Ok(steering)
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
