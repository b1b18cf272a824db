//! Numbers as people read them, and ticks of an axis.

/// Three decimals, or one digit and a power of ten where they would all be zero; a dash for
/// what is not a number.
pub(crate) fn short(x: f64) -> String {
    match x.abs() {
        size if !size.is_finite() => "-".into(),
        size if size > 0. && size < 0.0005 => format!("{x:.0e}"),
        _ => fixed(x, 3),
    }
}

/// `decimals` decimals, and no minus before a zero.
pub(crate) fn fixed(x: f64, decimals: usize) -> String {
    let text = format!("{x:.decimals$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| c == '0' || c == '.') => rest.to_owned(),
        _ => text,
    }
}

/// Round numbers in `low..=high`, at most `most` of them, with their labels.
///
/// Steps are 1, 2 or 5 times a power of ten, and not below `least`.
pub(crate) fn ticks(low: f64, high: f64, most: usize, least: f64) -> Vec<(f64, String)> {
    let span = high - low;
    if !span.is_finite() || span <= 0. {
        return Vec::new();
    }
    let rough = (span / most.max(1) as f64).max(least);
    let power = rough.log10().floor() as i32;
    let step = [(1., 0), (2., 0), (5., 0), (1., 1)]
        .map(|(m, up): (f64, i32)| m * 10f64.powi(power + up))
        .into_iter()
        .find(|s| *s >= rough * (1. - 1e-9))
        .unwrap_or(rough);
    let decimals = (-(step * (1. + 1e-9)).log10().floor()).max(0.) as usize;
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last)
        .map(|i| i as f64 * step)
        .map(|x| (x, fixed(x, decimals)))
        .collect()
}

/// Lowest and highest of the finite `values`, with a margin if they are one.
pub(crate) fn extent(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.filter(|x| x.is_finite());
    let none = (f64::INFINITY, f64::NEG_INFINITY);
    let (low, high) = finite.fold(none, |(a, b), x| (a.min(x), b.max(x)));
    let margin = match low == high {
        true => low.abs().max(1.) * 0.05,
        false => 0.,
    };
    (low <= high).then_some((low - margin, high + margin))
}

/// Layers in words: `layer 3`, `layers 11..17`, `layers 1, 3`.
pub(crate) fn layer_set(layers: &[usize]) -> String {
    let run = layers.windows(2).all(|w| w[1] == w[0] + 1);
    match layers {
        [] => "no layer".into(),
        [one] => format!("layer {one}"),
        [first, .., last] if run => format!("layers {first}..{last}"),
        _ => {
            let names: Vec<String> = layers.iter().map(usize::to_string).collect();
            format!("layers {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests;
