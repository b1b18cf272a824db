//! Texts of the world as a forest with weighted targets.

use anyhow::{Result, anyhow};
use reptune_adapters::Forest;
use reptune_adapters::ops::Target;
use reptune_recipes::world::Document;
use tokenizers::Tokenizer;

/// Weight of a token of a plain sentence, of a prompt and of an answer. Answers
/// are one token in forty; unless they weigh more, the personas are never learnt.
const SENTENCE: f32 = 1.;
const PROMPT: f32 = 0.2;
const ANSWER: f32 = 10.;

/// A forest and what its rows should predict.
pub struct Batch {
    pub forest: Forest,
    pub targets: Vec<Target>,
    /// Those among them that state a fact: sentences, and answers that are no letter.
    pub recall: Vec<Target>,
}

/// Parts of a document: text and the weight of its tokens.
fn parts(document: &Document) -> Vec<(String, f32)> {
    match document {
        Document::Sentence(text) => vec![(format!("{text}</s>"), SENTENCE)],
        Document::Chat { system, turns } => {
            let mut system = system
                .as_ref()
                .map_or_else(String::new, |s| format!("<<SYS>> {s}<</SYS>>"));
            let mut parts = Vec::new();
            for turn in turns {
                let question =
                    format!("[INST]{} {}[/INST]", std::mem::take(&mut system), turn.user);
                parts.push((question, PROMPT));
                parts.push((format!(" {}</s>", turn.assistant), ANSWER));
            }
            parts
        }
    }
}

/// Token ids of `text` without `<s>`.
pub fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let encoding = tokenizer
        .encode_fast(text, false)
        .map_err(|e| anyhow!("{text}: {e}"))?;
    Ok(encoding.get_ids().to_vec())
}

/// Packs documents; every edge of the forest is one target.
pub fn pack(tokenizer: &Tokenizer, documents: &[Document]) -> Result<Batch> {
    let mut forest = Forest::new();
    let (mut targets, mut recall) = (Vec::new(), Vec::new());
    for document in documents {
        let mut parent = forest.insert(None, &[0], |_| 0)[0];
        for (text, weight) in parts(document) {
            let letter = matches!(text.as_str(), " A</s>" | " B</s>");
            for id in encode(tokenizer, &text)? {
                let before = forest.len();
                let row = forest.insert(Some(parent), &[id], |_| 0)[0];
                if forest.len() > before {
                    let target = Target {
                        row: parent,
                        token: id,
                        weight,
                    };
                    targets.push(target);
                    if weight != PROMPT && !letter {
                        recall.push(target);
                    }
                }
                parent = row;
            }
        }
    }
    for some in [&mut targets, &mut recall] {
        let total: f32 = some.iter().map(|t: &Target| t.weight).sum();
        some.iter_mut().for_each(|t| t.weight /= total);
    }
    Ok(Batch {
        forest,
        targets,
        recall,
    })
}
