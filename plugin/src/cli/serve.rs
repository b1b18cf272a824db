//! `reptune serve`: a model and its variants behind OpenAI's interface.

use super::flags;
use super::flags::serve::{Serve, Steer};
use crate::model::ModelDir;
use crate::model::Source;
use crate::model::uqff::WeightType;
use crate::serve::{DEFAULT, Limits, Models, Server};
use crate::steered::{Steering, Variant};
use crate::store::Store;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// The name of the model as it is.
const BASE: &str = "base";

pub fn serve(a: &Serve) -> Result<()> {
    let model = ModelDir::resolve(&a.model)?.path().to_owned();
    let variants = variants(a, &model)?;
    let limits = Limits {
        drain: Duration::from_secs(a.drain),
        ..Limits::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(async {
        // First of all, so that a port that is taken is told before minutes of loading.
        let address = SocketAddr::new(a.host, a.port);
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}; choose another --port"))?;
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            eprintln!(
                "warning: {address} can be reached from other machines, and whoever reaches it may ask and steer"
            );
        }
        let mut total = 0;
        let models = Models::load(model, variants, Store::open()?, |name, bytes| {
            total += bytes;
            eprintln!("loaded {name}: about {} of weights", size(bytes));
        })
        .await?;
        eprintln!("weights in memory: about {}", size(total));
        let (names, url) = (models.names(), format!("http://{address}/v1"));
        match a.json {
            true => println!("{}", json!({"url": url, "models": names, "bytes": total})),
            false => println!("serving {} on {url}", names.join(", ")),
        }
        Server::new(models, limits).run(listener, stop()).await?;
        anyhow::Ok(())
    });
    // Engines that still compute for somebody who was cut off are not waited for.
    runtime.shutdown_background();
    served
}

/// The base and what was typed, each with its name.
fn variants(a: &Serve, model: &Path) -> Result<Vec<(String, Variant)>> {
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
            bail!("expected a name of its own for every variant, found `{name}` twice or taken");
        }
    }
    Ok(variants)
}

fn steering(steer: &Steer, model: &Path) -> Result<Steering> {
    let spec = Source::open(model)?.spec;
    let layers = flags::layers(&steer.layers, spec.layers)
        .with_context(|| format!("--steer {}", steer.name))?;
    let steering = Steering::from_file(&steer.file)?
        .layers(layers)
        .at(steer.point);
    let steering = steering.dose(steer.dose);
    // Told now, before anything is loaded.
    steering.interventions(&spec)?;
    Ok(steering)
}

/// Ctrl-C or SIGTERM. A second one ends the process.
async fn stop() {
    signal().await;
    eprintln!("stopping: answers that have begun are finished; once more stops at once");
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

/// `1.3 GB`.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
