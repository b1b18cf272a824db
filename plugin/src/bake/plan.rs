//! Interventions as weights: biases, a shift of the embeddings, and directions that no
//! weight writes any more.
//!
//! `h_0 = E[token] + s`, and block l adds `o_proj(..) + b_l^o` and `down_proj(..) + b_l^d`.
//! Additions at one place add up: `b = sum_i coeff_i d_i`. The ablation of d everywhere is
//! `W <- W - d (d^T W)` for every W that writes to the stream, and the same for its bias, if the
//! model has one, and for the rows of E;
//! what is added before the ablation at the same place loses its part along d:
//! `b <- b - d (d . b)`.

use crate::error::{Error, Result};
use crate::model::StoredLinear;
use candle_core::{DType, Device, Tensor};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{HookPoint, Intervention, ModelSpec, Operator, Positions, TargetModule};
use std::collections::BTreeMap;

/// Directions with a cosine below this count as orthogonal.
const RIGHT_ANGLE: f32 = 1e-5;

/// The changes of weights that do what some interventions do.
#[derive(Debug, Clone, Default)]
pub struct BakePlan {
    /// Biases (H,): of `o_proj` for additions at `resid_mid`, of `down_proj` at `resid_post`.
    pub biases: BTreeMap<TargetModule, Tensor>,
    /// The vector (H,) that is added to every row of the embedding table.
    pub embeddings: Option<Tensor>,
    /// Orthogonal unit directions (H,) that are taken out of embeddings, `o_proj` and
    /// `down_proj`.
    pub erased: Vec<Tensor>,
}

/// The places where a constant can be added to the residual stream, in the order of the stream:
/// the embeddings (none), then `o_proj` and `down_proj` of every block. Each with the hook points
/// there, in the order in which they act.
fn places(
    spec: &ModelSpec,
) -> impl Iterator<Item = (Option<TargetModule>, Vec<(HookPoint, usize)>)> {
    let blocks = (0..spec.layers).flat_map(|layer| {
        let module = |kind| Some(TargetModule { layer, kind });
        let end = vec![
            (HookPoint::ResidPost, layer),
            (HookPoint::ResidPre, layer + 1),
        ];
        [
            (
                module(ModuleKind::OProj),
                vec![(HookPoint::ResidMid, layer)],
            ),
            (module(ModuleKind::DownProj), end),
        ]
    });
    std::iter::once((None, vec![(HookPoint::ResidPre, 0)])).chain(blocks)
}

impl BakePlan {
    /// The plan for `interventions`, which act in their order.
    ///
    /// # Errors
    /// [`Error::Bake`] for what weights cannot express: operators other
    /// than addition, except an ablation [everywhere](Intervention::ablation_everywhere);
    /// positions other than all tokens; gates; directions of another width; the ablation of
    /// two directions that are not orthogonal; an addition along a direction that was
    /// ablated before. A value error when the model has no such layer.
    pub fn of(spec: &ModelSpec, interventions: &[Intervention]) -> Result<Self> {
        for intervention in interventions {
            check(spec, intervention)?;
        }
        let mut plan = Self::default();
        for intervention in interventions {
            if let (HookPoint::Everywhere, Some(d)) =
                (intervention.point(), intervention.direction(0))
            {
                plan.erase(d)?;
            }
        }
        let last = TargetModule {
            layer: spec.layers.saturating_sub(1),
            kind: ModuleKind::DownProj,
        };
        for (place, points) in places(spec) {
            let Some(sum) = added(&points, interventions)? else {
                continue;
            };
            // No ablation acts after the last block, so an addition there stays.
            if place != Some(last) {
                plan.stays(&sum, place)?;
            }
            match place {
                None => plan.embeddings = Some(sum),
                Some(module) => _ = plan.biases.insert(module, sum),
            }
        }
        Ok(plan)
    }

    /// Whether the plan changes biases and no weight.
    pub fn is_biases_only(&self) -> bool {
        self.embeddings.is_none() && self.erased.is_empty()
    }

    /// `W - sum_d d (d^T W)` over the ablated directions, for a weight (H, I) that writes to
    /// the residual stream.
    ///
    /// # Errors
    /// When its shape is another.
    pub fn erase_from(&self, weight: &Tensor) -> Result<Tensor> {
        let mut weight = weight.clone();
        for d in &self.erased {
            let column = d.unsqueeze(1)?; // (H, 1)
            let along = column.t()?.matmul(&weight)?; // (1, I)
            weight = (weight - column.matmul(&along)?)?;
        }
        Ok(weight)
    }

    /// The same for a linear layer: what its bias writes along an ablated direction goes too.
    ///
    /// # Errors
    /// When its shape is another.
    pub(super) fn erase_from_linear(&self, linear: StoredLinear) -> Result<StoredLinear> {
        let erase = |bias: Tensor| -> Result<Tensor> {
            Ok(self.erase_from(&bias.unsqueeze(1)?)?.squeeze(1)?)
        };
        Ok(StoredLinear {
            weight: self.erase_from(&linear.weight)?,
            bias: linear.bias.map(erase).transpose()?,
            entry: linear.entry,
        })
    }

    /// The embedding table (V, H) under this plan.
    ///
    /// # Errors
    /// When its shape is another.
    pub fn embed(&self, table: &Tensor) -> Result<Tensor> {
        let table = match self.erased.is_empty() {
            true => table.clone(),
            false => {
                let columns = table.t()?.contiguous()?;
                self.erase_from(&columns)?.t()?.contiguous()?
            }
        };
        match &self.embeddings {
            Some(shift) => Ok(table.broadcast_add(shift)?),
            None => Ok(table),
        }
    }

    /// `sum_d |d^T W|^2 + (d . b)^2` over the ablated directions, for a weight (H, I) and the
    /// bias next to it.
    ///
    /// # Errors
    /// When its shape is another.
    pub(super) fn written(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<f64> {
        let mut sum = 0.;
        for d in &self.erased {
            let along = d.unsqueeze(0)?.matmul(weight)?.to_dtype(DType::F64)?;
            sum += along.sqr()?.sum_all()?.to_scalar::<f64>()?;
            let along = bias.map_or(Ok(0.), |bias| dot(d, bias))?;
            sum += f64::from(along).powi(2);
        }
        Ok(sum)
    }

    fn erase(&mut self, d: &Tensor) -> Result<()> {
        let d = d.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        for other in &self.erased {
            let cosine = dot(&d, other)?.abs();
            if cosine > RIGHT_ANGLE {
                return Err(refused(
                    format!("the ablation of two directions with cosine {cosine:.4}"),
                    "the second ablation would write the first direction again; make them orthogonal first",
                ));
            }
        }
        self.erased.push(d);
        Ok(())
    }

    /// Refuses an addition that the ablation at the next place would take away.
    fn stays(&self, sum: &Tensor, place: Option<TargetModule>) -> Result<()> {
        let norm = dot(sum, sum)?.sqrt();
        for d in &self.erased {
            if dot(sum, d)?.abs() > RIGHT_ANGLE * norm {
                let place = place.map_or("the embeddings".to_owned(), |m| m.to_string());
                return Err(refused(
                    format!("an addition at {place} along a direction that is ablated before it"),
                    "the next ablation would take it away, which weights cannot do; name the ablation last",
                ));
            }
        }
        Ok(())
    }
}

/// Whether the outputs of these modules are added to the residual stream.
pub(super) fn writes_to_stream(kind: ModuleKind) -> bool {
    matches!(kind, ModuleKind::OProj | ModuleKind::DownProj)
}

/// Refuses an intervention that weights cannot express.
fn check(spec: &ModelSpec, intervention: &Intervention) -> Result<()> {
    let layers: Vec<usize> = intervention.layers().collect();
    spec.check_layers(&layers)?;
    let (operator, point) = (intervention.operator(), intervention.point());
    let everywhere = point == HookPoint::Everywhere && operator == Operator::Ablate;
    if point == HookPoint::Everywhere && !everywhere {
        let what = format!("operator {operator} at {point}");
        let reason = "only an ablation acts everywhere; choose resid_pre, resid_mid or resid_post";
        return Err(refused(what, reason));
    }
    if !operator.is_constant() && !everywhere {
        let what = format!("operator {operator} at {point} of layers {layers:?}");
        let reason = "its change differs between tokens, and a bias is the same for all; use an \
             addition, ablate everywhere (--operator ablate --hook everywhere), bake the mean change \
             (--approximate), or tune the weights and merge";
        return Err(refused(what, reason));
    }
    if intervention.gate().is_some() {
        let reason = "a bias acts on every token; steer without baking";
        return Err(refused("an intervention with a gate", reason));
    }
    if *intervention.rows() != Positions::All {
        let what = format!("an addition at positions `{}`", intervention.rows());
        let reason = "a bias acts on every token; use positions `all`, bake the mean change \
             (--approximate), or steer without baking";
        return Err(refused(what, reason));
    }
    for layer in layers {
        let dims = intervention.direction(layer).map(Tensor::dims);
        if dims.is_some_and(|dims| dims != [spec.hidden]) {
            let what = format!("a direction of shape {dims:?} at layer {layer}");
            let stream = format!(
                "the residual stream of {} has {} columns",
                spec.name, spec.hidden
            );
            return Err(refused(what, stream + "; use directions of this model"));
        }
    }
    Ok(())
}

/// The sum of what `interventions` add at `points`, after their ablations; none where none adds.
fn added(points: &[(HookPoint, usize)], interventions: &[Intervention]) -> Result<Option<Tensor>> {
    let mut sum: Option<Tensor> = None;
    for &(point, layer) in points {
        for x in interventions {
            if x.point() == HookPoint::Everywhere {
                let at_block_input = point == HookPoint::ResidPre && layer > 0;
                if let (Some(s), Some(d), false) = (&sum, x.direction(0), at_block_input) {
                    sum = Some((s - (d * f64::from(dot(s, d)?))?)?);
                }
            } else if x.point() == point
                && let Some(addition) = x.addition(layer)?
            {
                sum = Some(match sum {
                    Some(earlier) => (earlier + addition)?,
                    None => addition,
                });
            }
        }
    }
    Ok(sum)
}

fn dot(a: &Tensor, b: &Tensor) -> Result<f32> {
    Ok((a * b)?.sum_all()?.to_scalar()?)
}

pub(super) fn refused(what: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Bake {
        what: what.into(),
        reason: reason.into(),
    }
}
