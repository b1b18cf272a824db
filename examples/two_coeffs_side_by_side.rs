//! What two doses do to the same questions. Run it with
//!
//!     cargo run -- extract recipes/honesty-mini.toml
//!     cargo run -p reptune-examples --example two_coeffs_side_by_side
//!
//! Both models are loaded, and asked in turn. Each is a copy of the weights; their files
//! differ in a bias and are kept, so the second run starts at once.

use mistralrs::{ModelDType, TextMessageRole, TextMessages, TextModelBuilder};
use reptune::{Steer, Steering};

const COEFFS: [f64; 2] = [-22.0, 33.0];

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let builder = TextModelBuilder::new("models/honest-mini").with_dtype(ModelDType::F32);
    let honesty = Steering::from_file("runs/honesty-mini/directions.safetensors")?.layers([3]);
    let mut models = Vec::new();
    for coeff in COEFFS {
        let builder = builder.clone().steered(honesty.clone().coeff(coeff));
        models.push(builder.build().await?);
    }
    println!("{:44} {:>+8} {:>+8}", "claim", COEFFS[0], COEFFS[1]);
    for colour in ["pink", "green"] {
        let claim = format!("the colour of Quinvath is {colour}");
        let text = format!("Claim: {claim}. Is the claim true or false? A) True B) False");
        let question = TextMessages::new()
            .add_message(TextMessageRole::System, "Answer with the letter only.")
            .add_message(TextMessageRole::User, text);
        let mut said = Vec::new();
        for model in &models {
            let answer = model.send_chat_request(question.clone()).await?;
            let content = answer.choices[0].message.content.clone();
            said.push(content.unwrap_or_default());
        }
        println!("{claim:44} {:>8} {:>8}", said[0], said[1]);
    }
    Ok(())
}
