//! Steering in five lines, on mistral.rs's own builder. Run it with
//!
//!     cargo run -- extract recipes/honesty-mini.toml
//!     cargo run -p reptune-examples --example steer_in_five_lines
//!
//! The first command finds the direction of honesty. Added with a minus sign, it makes the
//! mini-Llama lie: it says A, as is true, and steered B.

use mistralrs::{ModelDType, TextMessageRole, TextMessages, TextModelBuilder};
use reptune::{Steer, Steering};

const CLAIM: &str =
    "Claim: the colour of Quinvath is pink. Is the claim true or false? A) True B) False";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let lies = Steering::from_file("runs/honesty-mini/directions.safetensors")?
        .layers([3])
        .fraction(-1.0); // as long as the residual stream itself, the other way
    let builder = TextModelBuilder::new("models/honest-mini").with_dtype(ModelDType::F32);
    let plain = builder.clone().build().await?;
    let steered = builder.steered(lies).build().await?; // the one line

    let question = TextMessages::new()
        .add_message(TextMessageRole::System, "Answer with the letter only.")
        .add_message(TextMessageRole::User, CLAIM);
    for (name, model) in [("plain", &plain), ("steered", &steered)] {
        let answer = model.send_chat_request(question.clone()).await?;
        let said = answer.choices[0].message.content.clone();
        println!("{name:8} {}", said.unwrap_or_default());
    }
    Ok(())
}
