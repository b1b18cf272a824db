//! Steering with a file that another tool made: a control vector that repeng wrote. Run it with
//!
//!     cargo run -p reptune-examples --example steer_with_a_file_of_repeng
//!
//! repeng's vectors are not unit vectors, and are added as they are, times a strength. Its
//! `direction.N` acts behind block N, counted from 0, as everywhere here. The model is the
//! random one that the file was made for, so what it says has no meaning but changes.

use mistralrs::{ModelDType, TextModelBuilder};
use reptune::testing::Interview;
use reptune::{Chat, Steer, Steering};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let vectors = Steering::from_file("tests/interop/fixtures/llama_cpp/repeng.gguf")?
        .layers(1..=3)
        .strength(3.0);
    let directory = "tests/fixtures/tiny-llama2";
    let chat = Chat::load(directory.as_ref())?;
    let builder = TextModelBuilder::new(directory).with_dtype(ModelDType::F32);
    let plain = builder.clone().with_force_cpu().build().await?;
    let steered = builder.with_force_cpu().steered(vectors).build().await?;

    let question = Interview::default().raw("Is it true?").max_tokens(12);
    println!("plain\n{}\n", question.ask(&plain, &chat).await?);
    println!("steered\n{}", question.ask(&steered, &chat).await?);
    Ok(())
}
