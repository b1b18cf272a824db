//! AdamW whose state can be saved and restored.
//!
//! candle_nn's AdamW hides its moments, so a run cannot be resumed. This one does the same
//! arithmetic in the same order (the results are equal bit for bit), exposes its moments, and
//! takes a learning rate for each variable.

use crate::error::{Error, Result};
use candle_core::{Tensor, Var};

/// Constants of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constants {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Fraction of a variable, times the learning rate, that each step subtracts.
    pub weight_decay: f64,
}

/// First and second moment of a variable's gradient.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Running mean of the gradient.
    pub first: Tensor,
    /// Running mean of its square.
    pub second: Tensor,
}

/// Adam with decoupled weight decay (I. Loshchilov and F. Hutter, arXiv 1711.05101).
///
/// `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`,
/// `x = (1 - lr decay) x - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)`
///
/// with `t` the number of steps, from 1.
#[derive(Debug)]
pub struct AdamW {
    constants: Constants,
    steps: usize,
    slots: Vec<(Var, Moments)>,
}

impl AdamW {
    /// Starts with moments of zero.
    ///
    /// # Errors
    /// When memory cannot be allocated.
    pub fn new(vars: Vec<Var>, constants: Constants) -> Result<Self> {
        let slot = |var: Var| -> Result<(Var, Moments)> {
            let (first, second) = (var.zeros_like()?, var.zeros_like()?);
            Ok((var, Moments { first, second }))
        };
        Ok(Self {
            constants,
            steps: 0,
            slots: vars.into_iter().map(slot).collect::<Result<_>>()?,
        })
    }

    /// Moves every variable against its gradient, with its own learning rate; a variable
    /// without a gradient stays, and so do its moments.
    ///
    /// # Errors
    /// When there are not as many gradients and rates as variables, or a shape differs.
    pub fn step(&mut self, gradients: &[Option<Tensor>], rates: &[f64]) -> Result<()> {
        let n = self.slots.len();
        if gradients.len() != n || rates.len() != n {
            let expected = format!("{n} gradients and rates, one a variable");
            let found = format!("{} and {}", gradients.len(), rates.len());
            let hint = "give them in the order of the variables";
            return Err(Error::value("step of AdamW", expected, found, hint));
        }
        self.steps += 1;
        let c = self.constants;
        let first_scale = 1. / (1. - c.beta1.powi(self.steps as i32));
        let second_scale = 1. / (1. - c.beta2.powi(self.steps as i32));
        for (((var, moments), gradient), &lr) in self.slots.iter_mut().zip(gradients).zip(rates) {
            let Some(g) = gradient else { continue };
            let first = ((&moments.first * c.beta1)? + (g * (1. - c.beta1))?)?;
            let second = ((&moments.second * c.beta2)? + (g.sqr()? * (1. - c.beta2))?)?;
            let root = ((&second * second_scale)?.sqrt()? + c.epsilon)?;
            let direction = ((&first * first_scale)? / root)?;
            let decayed = (var.detach() * (1. - lr * c.weight_decay))?;
            var.set(&(decayed - (direction * lr)?)?)?;
            *moments = Moments { first, second };
        }
        Ok(())
    }

    /// Steps so far.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Moments, in the order of the variables.
    pub fn moments(&self) -> impl Iterator<Item = &Moments> {
        self.slots.iter().map(|(_, moments)| moments)
    }

    /// Resumes after `steps` steps with these `moments`, in the order of the variables.
    ///
    /// # Errors
    /// When their number or a shape differs from the variables'.
    pub fn restore(&mut self, steps: usize, moments: Vec<Moments>) -> Result<()> {
        let ours: Vec<_> = self.slots.iter().map(|(var, _)| var.dims()).collect();
        let first: Vec<_> = moments.iter().map(|m| m.first.dims()).collect();
        let second: Vec<_> = moments.iter().map(|m| m.second.dims()).collect();
        if let Some(theirs) = [first, second].iter().find(|theirs| **theirs != ours) {
            let (expected, found) = (format!("shapes {ours:?}"), format!("{theirs:?}"));
            let hint = "they belong to another run";
            return Err(Error::value("moments of AdamW", expected, found, hint));
        }
        for ((var, slot), m) in self.slots.iter_mut().zip(moments) {
            *slot = Moments {
                first: m.first.to_device(var.device())?,
                second: m.second.to_device(var.device())?,
            };
        }
        self.steps = steps;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
