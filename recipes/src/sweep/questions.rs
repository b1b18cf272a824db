//! The questions of a sweep: as tokens, packed into forests, scored by their labels.

use super::{Scores, wrong};
use crate::chat::{Chat, Message};
use crate::data::Question;
use crate::error::Result;
use crate::recipe::Recipe;
use crate::trunk::ActivationCache;
use candle_core::{DType, Tensor};
use reptune_adapters::{
    Adapter, ForwardOptions, HookedModel, Intervention, KeyValueCache, Positions, PrefixTree,
    Resume,
};

/// Rows computed in one forward; more are done in turns.
const ROWS: usize = 4096;

/// A two-choice question as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The prompt, up to where the label follows.
    pub prompt: Vec<u32>,
    /// The label tokens.
    pub labels: [u32; 2],
    /// Index of the true label.
    pub right: usize,
}

impl Asked {
    /// `question` as `recipe` words it, under the system prompt `system`.
    ///
    /// # Errors
    /// When a label is more than one token.
    pub fn new(chat: &Chat, recipe: &Recipe, system: &str, question: &Question) -> Result<Self> {
        let messages = Message::conversation(system, &question.text);
        let [first, second] = &recipe.prompt.labels;
        Ok(Self {
            prompt: chat.prompt(&messages)?,
            labels: [
                chat.label_token(&messages, first)?,
                chat.label_token(&messages, second)?,
            ],
            right: question.right,
        })
    }
}

/// Questions of one forward.
pub(super) struct Batch {
    forest: PrefixTree,
    first: usize,
    /// The rows of each.
    paths: Vec<Vec<u32>>,
    /// The last row of each.
    last: Vec<u32>,
}

/// The forests of all questions: they depend on the rows, not on the dose.
pub(super) fn batches(asked: &[Asked], rule: &Positions) -> Result<Vec<Batch>> {
    if asked.is_empty() {
        return Err(wrong("questions", "at least one", "none"));
    }
    let mut batches: Vec<Batch> = Vec::new();
    for (i, question) in asked.iter().enumerate() {
        let n = question.prompt.len();
        if n == 0 || question.right > 1 {
            let found = format!("{n} tokens, label {}", question.right);
            let expected = "a prompt and a true label, 0 or 1";
            return Err(wrong(&format!("question {i}"), expected, found));
        }
        let full = batches.last().is_none_or(|b| b.forest.len() + n > ROWS);
        if full {
            batches.push(Batch {
                forest: PrefixTree::new(),
                first: i,
                paths: Vec::new(),
                last: Vec::new(),
            });
        }
        if let Some(batch) = batches.last_mut() {
            let mark = |p| u64::from(rule.chooses(p, n));
            let rows = batch.forest.insert(None, &question.prompt, mark);
            batch.last.extend(rows.last());
            batch.paths.push(rows);
        }
    }
    Ok(batches)
}

/// What lies below the steered layers, computed once for all that is done above.
#[derive(Default)]
pub(super) struct Below {
    trunk: Option<ActivationCache>,
    /// Its rows by batch.
    rows: Vec<Tensor>,
}

impl Below {
    /// Makes it that at `layer`, from where it is if that is lower.
    fn move_to(&mut self, layer: usize, of: &Questions) -> Result<()> {
        if self.trunk.as_ref().is_some_and(|t| t.layer() == layer) {
            return Ok(());
        }
        let prompts = || of.asked.iter().map(|a| a.prompt.clone()).collect();
        let trunk = ActivationCache::moved(self.trunk.take(), of.host, layer, of.adapter, prompts)?;
        let rows = |batch: &Batch| {
            let asked = &of.asked[batch.first..][..batch.paths.len()];
            let prompts: Vec<&[u32]> = asked.iter().map(|a| a.prompt.as_slice()).collect();
            trunk.rows(&batch.forest, &prompts, &batch.paths)
        };
        self.rows = of.batches.iter().map(rows).collect::<Result<_>>()?;
        self.trunk = Some(trunk);
        Ok(())
    }

    fn start(&self, batch: usize) -> Option<Resume<'_>> {
        let (trunk, rows) = (self.trunk.as_ref()?, self.rows.get(batch)?);
        let layer = trunk.layer();
        Some(Resume { layer, rows })
    }
}

/// The questions and who answers them.
pub(super) struct Questions<'a> {
    pub host: &'a dyn HookedModel,
    pub asked: &'a [Asked],
    pub batches: Vec<Batch>,
    pub adapter: Option<&'a Adapter>,
}

/// Log-odds of the true label over the other, question by question. What lies below
/// `interventions` is taken from `below`, which moves there first.
pub(super) fn score(
    of: &Questions,
    interventions: &[Intervention],
    below: &mut Below,
) -> Result<Scores> {
    let asked = of.asked;
    let lowest = interventions
        .iter()
        .map(Intervention::lowest)
        .min()
        .flatten();
    if let Some(layer) = lowest {
        below.move_to(layer, of)?;
    }
    let mut scores = Vec::new();
    for (i, batch) in of.batches.iter().enumerate() {
        let request = ForwardOptions {
            interventions,
            logits: &batch.last,
            adapter: of.adapter,
            start: lowest.and_then(|_| below.start(i)),
            ..ForwardOptions::default()
        };
        let pass = of
            .host
            .forward(&batch.forest, &mut KeyValueCache::none(), &request)?;
        let Some(logits) = pass.logits else {
            continue;
        };
        let logits: Vec<Vec<f32>> = logits.detach().to_dtype(DType::F32)?.to_vec2()?;
        for (logits, question) in logits.iter().zip(&asked[batch.first..]) {
            let of = |i: usize| {
                let token = question.labels[i] as usize;
                logits.get(token).copied().ok_or_else(|| {
                    let expected = format!("a token below {}", logits.len());
                    wrong("label", &expected, token.to_string())
                })
            };
            let odds = of(question.right)? - of(1 - question.right)?;
            scores.push(odds.is_finite().then_some(odds));
        }
    }
    Ok(scores)
}
