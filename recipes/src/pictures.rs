//! The pictures by which a direction is judged (arXiv 2409.06927), as figures of a report.

use crate::chat::Chat;
use crate::error::{Error, Result};
use crate::extract::{CapturedPairs, Contrast, Extracted, pca};
use candle_core::Tensor;
use reptune_adapters::{Direction, HookedModel};
use reptune_report::{CosineMap, LensRow, ScatterFigure};

/// Cosines of rows with the direction of their own position and layer, the mean of the
/// positive less that of the negative ones; for positions that count back from the last token.
///
/// # Errors
/// When `found` lacks a layer of `captured`, or has more positions.
pub fn cosine_map(captured: &CapturedPairs, found: &[Extracted]) -> Result<CosineMap> {
    let layers: Vec<usize> = (0..captured.layers).collect();
    let difference = |layer: usize, place: usize| {
        let direction = found[place].directions.layer(layer)?;
        let (positive, negative) = captured.contrast(place, layer)?.cosines(direction);
        Ok(positive - negative)
    };
    let of_layer = |layer: &usize| (0..found.len()).map(|p| difference(*layer, p)).collect();
    Ok(CosineMap {
        difference: layers.iter().map(of_layer).collect::<Result<_>>()?,
        offsets: (0..found.len()).collect(),
        layers,
    })
}

/// The rows at `layer` on their first two principal components, about their common mean. The
/// largest entry of a component is positive, so that a picture is never mirrored by chance; a
/// component that does not exist is zero.
pub fn scatter(layer: usize, contrast: &Contrast) -> Result<ScatterFigure> {
    let (rows, _) = pca::centred(contrast);
    let square = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>();
    let total = rows.iter().map(|r| square(r)).sum::<f64>() / rows.len() as f64;
    let mut components = pca::components(&rows, 2)?;
    components.resize(2, vec![0.; contrast.hidden()]);
    let mut explained = [0.; 2];
    for (component, explained) in components.iter_mut().zip(&mut explained) {
        let variance = square(component);
        if variance == 0. {
            continue;
        }
        *explained = variance / total;
        let larger = |a: f64, x: &f64| if x.abs() > a.abs() { *x } else { a };
        let largest = component.iter().fold(0., larger);
        let scale = largest.signum() / variance.sqrt();
        component.iter_mut().for_each(|x| *x *= scale);
    }
    let along =
        |row: &Vec<f64>| [0, 1].map(|k| row.iter().zip(&components[k]).map(|(x, y)| x * y).sum());
    let (positive, negative) = rows.split_at(contrast.pairs());
    Ok(ScatterFigure {
        layer,
        explained: Some(explained),
        positive: positive.iter().map(along).collect(),
        negative: negative.iter().map(along).collect(),
    })
}

/// The logit lens of a direction of `layer`: the `top` likeliest tokens, and those of its
/// opposite, when it is read as the last residual row, after the final norm and the
/// unembedding. Of equal logits the lower token comes first.
///
/// # Errors
/// When the runtime does not offer its unembedding, or the width differs.
pub fn logit_lens(
    model: &dyn HookedModel,
    chat: &Chat,
    (layer, direction): (usize, &Direction),
    top: usize,
) -> Result<LensRow> {
    let (hidden, spec) = (direction.unit.len(), model.spec());
    if hidden != spec.hidden {
        let (expected, found) = (
            format!("width {} of {}", spec.hidden, spec.name),
            hidden.to_string(),
        );
        let hint = "use directions of this model";
        return Err(Error::value("direction", expected, found, hint));
    }
    let opposite = direction.unit.iter().map(|x| -x);
    let rows: Vec<f32> = direction.unit.iter().copied().chain(opposite).collect();
    let rows = Tensor::from_vec(rows, (2, hidden), model.device())?;
    let logits: Vec<Vec<f32>> = model.unembed(&rows)?.to_vec2()?;
    let best = |logits: &[f32]| -> Result<Vec<String>> {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let logit = |token: &u32| logits[*token as usize];
        order.sort_by(|a, b| logit(b).total_cmp(&logit(a)));
        order.truncate(top);
        order.iter().map(|token| chat.decode(&[*token])).collect()
    };
    Ok(LensRow {
        layer,
        top: best(&logits[0])?,
        bottom: best(&logits[1])?,
    })
}

#[cfg(test)]
mod tests;
