//! The order in which prompts are trained on: shuffled anew for each epoch.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Batches of a seed. Which batch a step has depends on nothing but the seed, so a
/// run that is taken up again finds its place by shuffling from the start.
pub(super) struct Order {
    rng: ChaCha8Rng,
    indices: Vec<usize>,
    batch: usize,
    shuffled: usize,
}

impl Order {
    pub(super) fn new(seed: u64, prompts: usize, batch: usize) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            indices: (0..prompts).collect(),
            batch,
            shuffled: 0,
        }
    }

    /// Steps of an epoch.
    pub(super) fn an_epoch(&self) -> usize {
        self.indices.len().div_ceil(self.batch)
    }

    /// Prompts of step `step`, counted from 0; steps may be left out, but not taken back.
    pub(super) fn batch(&mut self, step: usize) -> &[usize] {
        let an_epoch = self.an_epoch();
        while self.shuffled <= step / an_epoch {
            self.indices.shuffle(&mut self.rng);
            self.shuffled += 1;
        }
        let from = step % an_epoch * self.batch;
        &self.indices[from..self.indices.len().min(from + self.batch)]
    }
}

/// The prompts of the first `steps` steps, by their number.
pub(crate) fn batches(seed: u64, prompts: usize, batch: usize, steps: usize) -> Vec<Vec<usize>> {
    let mut order = Order::new(seed, prompts, batch);
    (0..steps).map(|step| order.batch(step).to_vec()).collect()
}

#[cfg(test)]
mod tests;
