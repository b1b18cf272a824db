//! Principal components of rows.

use super::contrast::{Contrast, dot64};
use crate::error::{Error, Result};
use crate::recipe::{Pca, PcaRows};
use nalgebra::{DMatrix, SymmetricEigen};

/// Least share of the total variance that a component must have.
const LEAST: f64 = 1e-10;

/// The component that `pca` names, of length its standard deviation; its sign says nothing.
///
/// Raw rows are centred on their mean. Differences are not: a pair's order is only a
/// name, and with both orders, d and -d, the mean is zero. (Centring would take away
/// just what the pairs have in common.)
///
/// Shapes: result (H,).
///
/// # Errors
/// When there are fewer components, or the decomposition does not settle.
pub(super) fn component(contrast: &Contrast, pca: Pca) -> Result<Vec<f64>> {
    let rows = match pca.on {
        PcaRows::Raw => centred(contrast).0,
        PcaRows::Differences => {
            let wide = |d: Vec<f32>| d.into_iter().map(f64::from).collect();
            contrast.differences().map(wide).collect()
        }
    };
    let mut found = components(&rows, pca.component + 1)?;
    match found.pop() {
        Some(component) if found.len() == pca.component => Ok(component),
        last => {
            let what = "extraction.method.pca.component";
            let expected = format!("below {}", found.len() + last.iter().len());
            let hint = format!("{} rows hold no more; components count from 0", rows.len());
            let asked = pca.component.to_string();
            Err(Error::value(what, expected, asked, hint))
        }
    }
}

/// Positive, then negative rows less their common mean, and that mean.
///
/// Shapes: (2P, H) and (H,).
pub(crate) fn centred(contrast: &Contrast) -> (Vec<Vec<f64>>, Vec<f64>) {
    let rows = contrast.positive().chain(contrast.negative());
    let wide = |row: &[f32]| row.iter().copied().map(f64::from).collect();
    let mut rows: Vec<Vec<f64>> = rows.map(wide).collect();
    let mut mean = vec![0f64; contrast.hidden()];
    for row in &rows {
        mean.iter_mut().zip(row).for_each(|(m, x)| *m += x);
    }
    let n = rows.len() as f64;
    mean.iter_mut().for_each(|m| *m /= n);
    for row in &mut rows {
        row.iter_mut().zip(&mean).for_each(|(x, m)| *x -= m);
    }
    (rows, mean)
}

/// At most `many` principal components of `rows` about zero, of length their
/// standard deviation (`X^T X / n = sum_k c_k c_k^T`), the longest first.
///
/// Decomposes the smaller of `X^T X` (H, H) and `X X^T` (n, n), whose eigenvectors
/// u give those of the other as `X^T u`.
///
/// Shapes: `rows` (n, H); every component (H,).
pub(crate) fn components(rows: &[Vec<f64>], many: usize) -> Result<Vec<Vec<f64>>> {
    let (n, hidden) = (rows.len(), rows.first().map_or(0, Vec::len));
    let wide = n <= hidden;
    let gram = match wide {
        true => gram(rows),
        false => {
            let column = |i: usize| rows.iter().map(|r| r[i]).collect();
            gram(&(0..hidden).map(column).collect::<Vec<_>>())
        }
    };
    let total = gram.trace();
    let eigen = SymmetricEigen::try_new(gram, f64::EPSILON, 1000 * n.min(hidden).max(1));
    let eigen = eigen.ok_or_else(|| {
        let (what, expected) = ("principal components", "rows of finite numbers");
        let found = format!("{n} rows whose decomposition does not settle");
        let hint = "look for infinite values in the residual stream";
        Error::value(what, expected, found, hint)
    })?;
    let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
    order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
    let variance = |k: &usize| eigen.eigenvalues[*k];
    let component = |k: usize| {
        let u = eigen.eigenvectors.column(k);
        let mut v = vec![0f64; hidden];
        match wide {
            true => {
                for (row, u) in rows.iter().zip(u.iter()) {
                    v.iter_mut().zip(row).for_each(|(v, x)| *v += u * x);
                }
            }
            false => v.copy_from_slice(u.as_slice()),
        }
        let scale = (variance(&k) / n as f64).sqrt() / dot64(&v, &v).sqrt();
        v.into_iter().map(|x| x * scale).collect()
    };
    let first = order.into_iter().take(many);
    let first = first.filter(|k| variance(k) > LEAST * total);
    Ok(first.map(component).collect())
}

/// Products of all pairs of `rows`.
pub(super) fn gram(rows: &[Vec<f64>]) -> DMatrix<f64> {
    let mut gram = DMatrix::zeros(rows.len(), rows.len());
    for (i, a) in rows.iter().enumerate() {
        for (j, b) in rows.iter().enumerate().take(i + 1) {
            let product = dot64(a, b);
            gram[(i, j)] = product;
            gram[(j, i)] = product;
        }
    }
    gram
}
