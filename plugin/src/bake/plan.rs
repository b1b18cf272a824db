//! What interventions come to as weights: biases, a shift of the embeddings, and
//! directions that nothing writes any more.

use super::refused;
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use reptune_adapters::model::ModuleKind;
use reptune_adapters::{HookPoint, Intervention, ModelSpec, Operator, Positions, TargetModule};
use std::collections::BTreeMap;

/// Directions count as at right angles below this cosine.
const RIGHT_ANGLE: f32 = 1e-5;

/// The constants that do what some interventions do.
#[derive(Debug, Clone, Default)]
pub struct BakePlan {
    /// Biases (H,) of the layers that write to the residual stream: `o_proj` for its middle,
    /// `down_proj` for its output.
    pub biases: BTreeMap<TargetModule, Tensor>,
    /// What is added to every row of the embedding table (H,).
    pub embeddings: Option<Tensor>,
    /// Unit directions (H,), at right angles to each other, that embeddings, `o_proj` and
    /// `down_proj` are made to write nothing of: `W - d d^T W`.
    pub erased: Vec<Tensor>,
}

/// A place between two layers where the residual stream can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Embeddings,
    TargetModule(TargetModule),
}

impl Place {
    /// All, in the order of the stream.
    fn all(spec: &ModelSpec) -> impl Iterator<Item = Self> {
        let modules = (0..spec.layers).flat_map(|layer| {
            [ModuleKind::OProj, ModuleKind::DownProj].map(|kind| TargetModule { layer, kind })
        });
        [Self::Embeddings]
            .into_iter()
            .chain(modules.map(Self::TargetModule))
    }

    /// The points that fall here, in the order in which they act.
    fn points(self) -> Vec<(HookPoint, usize)> {
        match self {
            Self::Embeddings => vec![(HookPoint::ResidPre, 0)],
            Self::TargetModule(TargetModule { layer, kind }) => match kind {
                ModuleKind::OProj => vec![(HookPoint::ResidMid, layer)],
                _ => vec![
                    (HookPoint::ResidPost, layer),
                    (HookPoint::ResidPre, layer + 1),
                ],
            },
        }
    }
}

impl BakePlan {
    /// The constants for `interventions`, which act in their order.
    ///
    /// An addition at the input of a block is one at the output of the block below, or of
    /// the embeddings; several add up. The ablation of a direction
    /// [everywhere](Intervention::ablation_everywhere) takes it out of every weight that
    /// writes to the residual stream.
    ///
    /// # Errors
    /// [`Error::Bake`](crate::Error::Bake) for what no constant can do: other operators and
    /// ablations of some modules only, rules about rows, gates, directions of another width, and
    /// ablations that the order of things does not let stand. A value error when
    /// the model has no such layer.
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
        let last = Place::TargetModule(TargetModule {
            layer: spec.layers.saturating_sub(1),
            kind: ModuleKind::DownProj,
        });
        for place in Place::all(spec) {
            let Some(sum) = at(place, interventions)? else {
                continue;
            };
            // Behind the last block nothing ablates any more what was added after the ablation.
            if place != last {
                plan.stays(&sum, place)?;
            }
            match place {
                Place::Embeddings => plan.embeddings = Some(sum),
                Place::TargetModule(module) => {
                    plan.biases.insert(module, sum);
                }
            }
        }
        Ok(plan)
    }

    /// `W - sum of d (d^T W)` for a weight (H, I) that writes to the residual stream.
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

    /// The embedding table (V, H) that goes with the plan.
    ///
    /// # Errors
    /// When its shape is another.
    pub fn embed(&self, table: &Tensor) -> Result<Tensor> {
        let table = match self.erased.is_empty() {
            true => table.clone(),
            false => self
                .erase_from(&table.t()?.contiguous()?)?
                .t()?
                .contiguous()?,
        };
        match &self.embeddings {
            Some(shift) => Ok(table.broadcast_add(shift)?),
            None => Ok(table),
        }
    }

    /// Squared norm of what `weight` (H, I) writes along the erased directions.
    ///
    /// # Errors
    /// When its shape is another.
    pub(super) fn written(&self, weight: &Tensor) -> Result<f64> {
        let mut sum = 0.;
        for d in &self.erased {
            let along = d.unsqueeze(0)?.matmul(weight)?.to_dtype(DType::F64)?;
            sum += along.sqr()?.sum_all()?.to_scalar::<f64>()?;
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
                    "one after the other brings the first one back; make them orthogonal first",
                ));
            }
        }
        self.erased.push(d);
        Ok(())
    }

    /// What is added must not be ablated at the next place.
    fn stays(&self, sum: &Tensor, place: Place) -> Result<()> {
        let norm = dot(sum, sum)?.sqrt();
        for d in &self.erased {
            if dot(sum, d)?.abs() > RIGHT_ANGLE * norm {
                let place = match place {
                    Place::Embeddings => "the embeddings".to_owned(),
                    Place::TargetModule(module) => module.to_string(),
                };
                return Err(refused(
                    format!("an addition at {place} along a direction that is ablated before it"),
                    "the next ablation takes it away again, and a weight cannot; name the ablation last",
                ));
            }
        }
        Ok(())
    }
}

fn check(spec: &ModelSpec, intervention: &Intervention) -> Result<()> {
    let layers: Vec<usize> = intervention.layers().collect();
    spec.check_layers(&layers)?;
    let everywhere = intervention.point() == HookPoint::Everywhere
        && intervention.operator() == Operator::Ablate;
    if intervention.operator() != Operator::Add && !everywhere {
        return Err(refused(
            format!(
                "operator {} at the {} of layers {layers:?}",
                intervention.operator(),
                intervention.point()
            ),
            "what it changes depends on the row, and a bias is the same for all; use an \
             addition, ablate everywhere (--module everywhere), take the mean change \
             (--approximate), or tune the weights and merge",
        ));
    }
    if intervention.gate().is_some() {
        return Err(refused(
            "an intervention with a gate",
            "a bias acts always; steer without baking",
        ));
    }
    if *intervention.rows() != Positions::All {
        return Err(refused(
            format!("an addition on rows `{}`", intervention.rows()),
            "a bias acts on every token; use rows `all`, act on every row all the same \
             (--approximate), or steer without baking",
        ));
    }
    for layer in layers {
        let dims = intervention.direction(layer).map(Tensor::dims);
        if dims.is_some_and(|dims| dims != [spec.hidden]) {
            return Err(refused(
                format!("a direction of shape {dims:?} at layer {layer}"),
                format!(
                    "the residual stream of {} has {} columns; use directions of this model",
                    spec.name, spec.hidden
                ),
            ));
        }
    }
    Ok(())
}

/// What `interventions` make of nothing at `place`; none where none adds.
fn at(place: Place, interventions: &[Intervention]) -> Result<Option<Tensor>> {
    let mut sum: Option<Tensor> = None;
    for (point, layer) in place.points() {
        for x in interventions {
            if x.point() == HookPoint::Everywhere {
                let behind = point == HookPoint::ResidPre && layer > 0;
                if let (Some(s), Some(d), false) = (&sum, x.direction(0), behind) {
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
