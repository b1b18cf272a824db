//! AdamW whose state can be written down and taken up again.
//!
//! candle_nn's AdamW keeps its moments to itself, so a run that used it cannot
//! be continued where it was cut off. This one does the same arithmetic in the
//! same order (its results are equal bit for bit), shows its moments, and takes a
//! learning rate for each variable.

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
    /// Share of a variable, times the learning rate, that each step takes away.
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
    /// When memory cannot be had.
    pub fn new(vars: Vec<Var>, constants: Constants) -> Result<Self> {
        let slot = |var: Var| -> Result<(Var, Moments)> {
            let moments = Moments {
                first: var.as_tensor().zeros_like()?,
                second: var.as_tensor().zeros_like()?,
            };
            Ok((var, moments))
        };
        Ok(Self {
            constants,
            steps: 0,
            slots: vars.into_iter().map(slot).collect::<Result<_>>()?,
        })
    }

    /// Moves every variable against its gradient, at its own learning rate; one
    /// without a gradient stays, and so do its moments.
    ///
    /// # Errors
    /// When there are not as many gradients and rates as variables, or a shape differs.
    pub fn step(&mut self, gradients: &[Option<Tensor>], rates: &[f64]) -> Result<()> {
        let n = self.slots.len();
        if gradients.len() != n || rates.len() != n {
            return Err(Error::value(
                "step of AdamW",
                format!("{n} gradients and rates, one a variable"),
                format!("{} and {}", gradients.len(), rates.len()),
                "give them in the order of the variables",
            ));
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
            let kept = (var.as_tensor().detach() * (1. - lr * c.weight_decay))?;
            var.set(&(kept - (direction * lr)?)?)?;
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

    /// Goes on from `steps` steps with these `moments`, in the order of the variables.
    ///
    /// # Errors
    /// When their number or a shape differs from the variables'.
    pub fn restore(&mut self, steps: usize, moments: Vec<Moments>) -> Result<()> {
        let shapes = |t: &[&Tensor]| t.iter().map(|t| t.dims().to_vec()).collect::<Vec<_>>();
        let ours: Vec<&Tensor> = self.slots.iter().map(|(v, _)| v.as_tensor()).collect();
        let first: Vec<&Tensor> = moments.iter().map(|m| &m.first).collect();
        let second: Vec<&Tensor> = moments.iter().map(|m| &m.second).collect();
        for theirs in [&first, &second] {
            if shapes(&ours) != shapes(theirs) {
                return Err(Error::value(
                    "moments of AdamW",
                    format!("shapes {:?}", shapes(&ours)),
                    format!("{:?}", shapes(theirs)),
                    "they belong to another run",
                ));
            }
        }
        for ((var, slot), m) in self.slots.iter_mut().zip(moments) {
            let device = var.as_tensor().device().clone();
            *slot = Moments {
                first: m.first.to_device(&device)?,
                second: m.second.to_device(&device)?,
            };
        }
        self.steps = steps;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use candle_nn::optim::{Optimizer, ParamsAdamW};

    const CONSTANTS: Constants = Constants {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
    };

    fn vars() -> Result<Vec<Var>> {
        let wave = |n: usize, phase: f32| (0..n).map(move |i| (i as f32 * 0.7 + phase).sin());
        let var = |shape: (usize, usize), phase| {
            let data: Vec<f32> = wave(shape.0 * shape.1, phase).collect();
            Ok(Var::from_tensor(&Tensor::from_vec(
                data,
                shape,
                &Device::Cpu,
            )?)?)
        };
        [((3, 5), 0.1), ((4, 3), 1.3), ((2, 2), 2.2)]
            .into_iter()
            .map(|(shape, phase)| var(shape, phase))
            .collect()
    }

    /// A loss that the third variable is not part of.
    fn gradients(vars: &[Var], step: usize) -> Result<candle_core::backprop::GradStore> {
        let y = vars[1].as_tensor().matmul(vars[0].as_tensor())?;
        Ok((y.sin()? * (1. + step as f64 * 0.1))?
            .sqr()?
            .sum_all()?
            .backward()?)
    }

    fn bits(vars: &[Var]) -> Result<Vec<u32>> {
        let mut bits = Vec::new();
        for var in vars {
            let values: Vec<f32> = var.as_tensor().flatten_all()?.to_vec1()?;
            bits.extend(values.into_iter().map(f32::to_bits));
        }
        Ok(bits)
    }

    fn rate(step: usize) -> f64 {
        0.03 / (1. + step as f64)
    }

    fn ours(optimizer: &mut AdamW, vars: &[Var], step: usize) -> Result<()> {
        let store = gradients(vars, step)?;
        let gradients: Vec<_> = vars
            .iter()
            .map(|v| store.get(v.as_tensor()).cloned())
            .collect();
        optimizer.step(&gradients, &[rate(step); 3])
    }

    #[test]
    fn fifty_steps_are_those_of_candle_bit_for_bit() -> Result<()> {
        let (a, b) = (vars()?, vars()?);
        let start = bits(&a)?;
        let mut ours_of_it = AdamW::new(a.clone(), CONSTANTS)?;
        let params = ParamsAdamW {
            lr: 0.,
            beta1: CONSTANTS.beta1,
            beta2: CONSTANTS.beta2,
            eps: CONSTANTS.epsilon,
            weight_decay: CONSTANTS.weight_decay,
        };
        let mut theirs = candle_nn::AdamW::new(b.clone(), params)?;
        for step in 0..50 {
            ours(&mut ours_of_it, &a, step)?;
            theirs.set_learning_rate(rate(step));
            theirs.step(&gradients(&b, step)?)?;
            assert_eq!(bits(&a)?, bits(&b)?, "step {step}");
        }
        let end = bits(&a)?;
        assert_ne!(start[..27], end[..27]);
        assert_eq!(start[27..], end[27..], "what has no gradient stays");
        Ok(())
    }

    #[test]
    fn it_goes_on_from_written_moments() -> Result<()> {
        let whole = vars()?;
        let mut optimizer = AdamW::new(whole.clone(), CONSTANTS)?;
        for step in 0..6 {
            ours(&mut optimizer, &whole, step)?;
        }
        let cut = vars()?;
        let mut before = AdamW::new(cut.clone(), CONSTANTS)?;
        for step in 0..3 {
            ours(&mut before, &cut, step)?;
        }
        let mut after = AdamW::new(cut.clone(), CONSTANTS)?;
        after.restore(before.steps(), before.moments().cloned().collect())?;
        for step in 3..6 {
            ours(&mut after, &cut, step)?;
        }
        assert_eq!(bits(&whole)?, bits(&cut)?);
        let one = before.moments().take(1).cloned().collect();
        let message = after.restore(3, one).expect_err("too few").to_string();
        assert!(
            message.contains("moments of AdamW") && message.contains("another run"),
            "{message}"
        );
        let message = after.step(&[], &[]).expect_err("none").to_string();
        assert!(message.contains("3 gradients"), "{message}");
        Ok(())
    }

    #[test]
    fn each_variable_has_its_own_rate() -> Result<()> {
        let (a, b) = (vars()?, vars()?);
        let start = bits(&a)?;
        let store = gradients(&a, 0)?;
        let given: Vec<_> = a
            .iter()
            .map(|v| store.get(v.as_tensor()).cloned())
            .collect();
        AdamW::new(a.clone(), CONSTANTS)?.step(&given, &[0.01, 0., 0.01])?;
        AdamW::new(b.clone(), CONSTANTS)?.step(&given, &[0.01; 3])?;
        assert_eq!(bits(&a[..1])?, bits(&b[..1])?);
        assert_eq!(start[15..], bits(&a)?[15..]);
        assert_ne!(start[15..27], bits(&b)?[15..27]);
        Ok(())
    }
}
