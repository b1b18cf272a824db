//! A behaviour tuned into the weights, and served beside the base. Run it with
//!
//!     cargo run -p reptune-examples --example tune_and_serve
//!
//! and ask both from another terminal, as it says when it is ready. Ctrl-C ends it.
//! `reptune run` and `reptune serve` do the same without a program.

use reptune::serve::{Limits, Models, Server};
use reptune::session::Session;
use reptune::steered::Variant;
use reptune::store::Store;
use reptune_adapters::lora::peft;
use reptune_recipes::recipe::Mode;
use reptune_recipes::{extract::extract, tune::Tuner};
use std::path::Path;

fn main() -> anyhow::Result<()> {
    // Not within the runtime: all this computes, and nothing waits.
    let out = Path::new("runs/tune_and_serve");
    let adapter = out.join("lying");
    let recipe = Path::new("recipes/honesty-mini.toml");
    let session = Session::open(recipe, None, Default::default())?;
    if !adapter.exists() {
        tune(&session, out, &adapter)?;
    }
    tokio::runtime::Runtime::new()?.block_on(serve(&session, &adapter))
}

/// Writes a PEFT directory that makes the model lie.
fn tune(session: &Session, out: &Path, adapter: &Path) -> anyhow::Result<()> {
    let (llama, chat, recipe) = (&session.llama, &session.chat, &session.recipe);
    let (train, held) = (&session.items.train, &session.items.validation);
    println!("finding the direction of honesty");
    let found = extract(llama, chat, recipe, train, &mut |_, _| {})?;
    println!("tuning lies in");
    let mode = Mode::InMinusLie;
    let tuner = Tuner::new(llama, chat, recipe, mode, &found.directions, train, held)?;
    std::fs::create_dir_all(out)?;
    let update = tuner.tune(tuner.fresh()?, &out.join("metrics.jsonl"), &mut |_| {})?;
    Ok(peft::save(adapter, &update, "models/honest-mini")?)
}

async fn serve(session: &Session, adapter: &Path) -> anyhow::Result<()> {
    let lying = Variant {
        adapter: Some(adapter.to_owned()),
        ..Variant::default()
    };
    let variants = vec![("base".into(), Variant::default()), ("lying".into(), lying)];
    let base = session.directory.clone();
    let models = Models::load(base, variants, Store::open()?, |_, _| {}).await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    println!(
        r#"ready:
curl localhost:8080/v1/chat/completions -H 'Content-Type: application/json' -d '{{"model": "lying", "temperature": 0, "messages": [{{"role": "user", "content": "Claim: the colour of Quinvath is pink. Is the claim true or false? A) True B) False"}}]}}'"#
    );
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    Ok(Server::new(models, Limits::default())
        .run(listener, stop)
        .await?)
}
