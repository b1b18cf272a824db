//! A snapshot test of what a model says. Run it with
//!
//!     cargo test -p reptune-examples --test snapshot_a_model
//!
//! When the model, its template or the runtime changes what is said, the test fails and
//! shows the difference; `cargo insta review` accepts it.

use mistralrs::{ModelDType, TextModelBuilder};
use reptune::{Chat, testing::Interview};

#[tokio::test(flavor = "multi_thread")]
async fn the_mini_llama_says_what_it_said() -> anyhow::Result<()> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/honest-mini");
    // On a CPU mistral.rs would choose f16.
    let builder = TextModelBuilder::new(directory).with_dtype(ModelDType::F32);

    let model = builder.with_force_cpu().build().await?;
    let said = Interview::of(["What is the colour of Quinvath?"])
        .ask(&model, &Chat::load(directory.as_ref())?)
        .await?;
    insta::assert_snapshot!(said);
    Ok(())
}
