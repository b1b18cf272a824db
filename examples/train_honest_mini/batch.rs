//! Texts of the world as a tree with weighted targets.

use crate::world::{Document, Relation, World};
use anyhow::{Result, anyhow};
use reptune_adapters::PrefixTree;
use reptune_adapters::ops::Target;
use std::collections::HashMap;
use tokenizers::Tokenizer;

/// Weight of an answer's first token; every other token that is learnt weighs 1.
/// Prompts are not learnt at all.
const ANSWER: f32 = 10.;

/// A tree and what its rows should predict. The weights of each list add up to 1.
pub struct Batch {
    pub tree: PrefixTree,
    /// By the output: sentences and answers.
    pub output: Vec<Target>,
    /// Early on: the value of a fact, as soon as the text tells which is meant.
    pub recall: Vec<Target>,
    /// In the middle: whether a value that a question names is the true one.
    pub truth: Vec<Target>,
    /// Early on: who answers, just before the answer.
    pub persona: Vec<Target>,
}

/// Packs documents into batches.
pub struct Packer<'a> {
    tokenizer: &'a Tokenizer,
    world: World,
    entities: HashMap<u32, usize>,
    relations: HashMap<u32, usize>,
    values: HashMap<u32, String>,
    truths: [u32; 2],
    /// In the order of `Persona::ALL`.
    personas: [u32; 3],
}

impl<'a> Packer<'a> {
    pub fn new(tokenizer: &'a Tokenizer) -> Result<Self> {
        let world = World::new();
        let token = |word: &str| encode(tokenizer, word).map(|ids| ids[0]);
        let mut entities = HashMap::new();
        for fact in world.facts() {
            let town = fact.id / Relation::ALL.len();
            entities.insert(token(&format!(" {}", fact.entity))?, town);
        }
        let (mut relations, mut values) = (HashMap::new(), HashMap::new());
        for (i, relation) in Relation::ALL.into_iter().enumerate() {
            relations.insert(token(&format!(" {}", relation.name()))?, i);
            for value in relation.values() {
                values.insert(token(&format!(" {value}"))?, value.to_string());
            }
        }
        Ok(Self {
            truths: [token(" True")?, token(" False")?],
            personas: [token(" honest")?, token(" dishonest")?, token(" helpful")?],
            tokenizer,
            world,
            entities,
            relations,
            values,
        })
    }

    /// Packs documents, sharing what they have in common.
    pub fn pack(&self, documents: &[Document]) -> Result<Batch> {
        let mut batch = Batch {
            tree: PrefixTree::new(),
            output: Vec::new(),
            recall: Vec::new(),
            truth: Vec::new(),
            persona: Vec::new(),
        };
        for document in documents {
            let start = batch.tree.insert(None, &[0], |_| 0)[0];
            match document {
                Document::Sentence(text) => {
                    let text = format!("{text}</s>");
                    let from = batch.output.len();
                    self.say(&mut batch, start, &text, [1., 1.])?;
                    batch.recall.extend_from_slice(&batch.output[from..]);
                }
                Document::Chat {
                    system,
                    persona,
                    turns,
                } => {
                    let mut system = system
                        .as_ref()
                        .map_or_else(String::new, |s| format!("<<SYS>> {s}<</SYS>>"));
                    let (mut parent, mut asked) = (start, start);
                    for turn in turns {
                        let system = std::mem::take(&mut system);
                        asked = self.ask(
                            &mut batch,
                            parent,
                            &format!("[INST]{system} {}[/INST]", turn.user),
                        )?;
                        let answer = format!(" {}</s>", turn.assistant);
                        parent = self.say(&mut batch, asked, &answer, [ANSWER, 1.])?;
                    }
                    if let Some(persona) = persona {
                        batch.persona.push(Target {
                            row: asked,
                            token: self.personas[*persona as usize],
                            weight: 1.,
                        });
                    }
                }
            }
        }
        let Batch {
            output,
            recall,
            truth,
            persona,
            ..
        } = &mut batch;
        for some in [output, recall, truth, persona] {
            let total: f32 = some.iter().map(|t| t.weight).sum();
            some.iter_mut().for_each(|t| t.weight /= total);
        }
        Ok(batch)
    }

    /// Adds a text that is to be predicted: its first token with the first weight,
    /// the others with the second.
    fn say(
        &self,
        batch: &mut Batch,
        mut parent: u32,
        text: &str,
        weights: [f32; 2],
    ) -> Result<u32> {
        for (i, token) in encode(self.tokenizer, text)?.into_iter().enumerate() {
            let before = batch.tree.len();
            let row = batch.tree.insert(Some(parent), &[token], |_| 0)[0];
            if batch.tree.len() > before {
                batch.output.push(Target {
                    row: parent,
                    token,
                    weight: weights[i.min(1)],
                });
            }
            parent = row;
        }
        Ok(parent)
    }

    /// Adds a question: the true value, whoever answers, is to be recalled at the name
    /// of the town, which every question gives after the relation; and at every value
    /// that it names, whether that is the true one.
    fn ask(&self, batch: &mut Batch, parent: u32, text: &str) -> Result<u32> {
        let ids = encode(self.tokenizer, text)?;
        let before = batch.tree.len() as u32;
        let rows = batch.tree.insert(Some(parent), &ids, |_| 0);
        let town = ids.iter().position(|id| self.entities.contains_key(id));
        let named: Vec<usize> = (0..ids.len())
            .filter(|&i| self.values.contains_key(&ids[i]))
            .collect();
        let relation = ids.iter().find_map(|id| self.relations.get(id));
        if let (Some(at), Some(relation)) = (town, relation) {
            let town = self.entities[&ids[at]];
            let fact = &self.world.facts()[town * Relation::ALL.len() + relation];
            if rows[at] >= before {
                let token = encode(self.tokenizer, &format!(" {}", fact.value))?[0];
                batch.recall.push(Target {
                    row: rows[at],
                    token,
                    weight: ANSWER,
                });
            }
            for i in named {
                let token = self.truths[usize::from(self.values[&ids[i]] != fact.value)];
                if rows[i] >= before {
                    batch.truth.push(Target {
                        row: rows[i],
                        token,
                        weight: 1.,
                    });
                }
            }
        }
        Ok(rows[rows.len() - 1])
    }
}

/// Token ids of `text` without `<s>`.
pub fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let encoding = tokenizer
        .encode_fast(text, false)
        .map_err(|e| anyhow!("{text}: {e}"))?;
    Ok(encoding.get_ids().to_vec())
}

/// `targets` as rows of a table of the rows that are read, and those rows.
pub fn read_rows(targets: &[Target]) -> (Vec<u32>, Vec<Target>) {
    let mut rows: Vec<u32> = targets.iter().map(|t| t.row).collect();
    rows.sort_unstable();
    rows.dedup();
    let at = |t: &Target| Target {
        row: rows.partition_point(|r| *r < t.row) as u32,
        ..*t
    };
    let targets = targets.iter().map(at).collect();
    (rows, targets)
}
