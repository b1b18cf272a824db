//! Which tokens each token of a prefix tree attends to.

use crate::gemm::{Table, row};
use candle_core::{Device, Result, Tensor};
use ndarray::{Array2, CowArray, Ix2, s};
use std::ops::Range;
use std::sync::OnceLock;

/// A half-open run of consecutive tokens.
pub type Span = (u32, u32);

/// The ancestors of some querying tokens, as runs of token numbers: what attention may see.
///
/// One value serves all blocks of a forward: what attention derives from it (groups of
/// tokens that see much the same, dense masks) is computed once, when it is first needed.
#[derive(Debug)]
pub struct Ancestors {
    spans: Vec<Span>,
    offsets: Vec<u32>,
    neighbours: OnceLock<Vec<Neighbours>>,
    /// Dense masks, one for every so many querying tokens.
    masks: OnceLock<(usize, Vec<Tensor>)>,
}

impl Ancestors {
    /// The i-th querying token sees `spans[offsets[i]..offsets[i + 1]]`, in ascending order.
    ///
    /// # Panics
    /// When `offsets` do not ascend from 0 to the number of spans.
    pub fn new(spans: Vec<Span>, offsets: Vec<u32>) -> Self {
        assert!(offsets.first() == Some(&0) && offsets.is_sorted());
        assert_eq!(offsets.last().map(|end| *end as usize), Some(spans.len()));
        Self {
            spans,
            offsets,
            neighbours: OnceLock::new(),
            masks: OnceLock::new(),
        }
    }

    /// The same querying tokens, each of which sees only the last `window` of its ancestors, itself
    /// included; none if no token sees more than that.
    pub fn within(&self, window: usize) -> Option<Self> {
        let width = |spans: &[Span]| -> usize {
            let widths = spans.iter().map(|(from, to)| (to - from) as usize);
            widths.sum()
        };
        if (0..self.len()).all(|i| width(self.spans(i)) <= window) {
            return None;
        }
        let (mut kept, mut offsets) = (Vec::new(), vec![0]);
        for i in 0..self.len() {
            let mut cut = width(self.spans(i)).saturating_sub(window) as u32;
            for &(from, to) in self.spans(i) {
                let start = to.min(from + cut);
                cut -= start - from;
                if start < to {
                    kept.push((start, to));
                }
            }
            offsets.push(kept.len() as u32);
        }
        Some(Self::new(kept, offsets))
    }

    /// Number of querying tokens.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// True without tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Runs of the i-th querying token, itself included, in ascending order of position.
    pub fn spans(&self, i: usize) -> &[Span] {
        &self.spans[self.offsets[i] as usize..self.offsets[i + 1] as usize]
    }

    /// The querying tokens in groups that see much the same.
    pub(crate) fn neighbours(&self) -> &[Neighbours] {
        self.neighbours
            .get_or_init(|| Neighbours::all(self.len(), |i| self.spans(i)))
    }

    /// Masks to add to attention scores, one for every `piece` querying tokens: 0 where a
    /// token may look, minus infinity elsewhere; f32. Those made first are kept.
    ///
    /// Shapes: (1, piece, n) with n the tokens up to the last that is seen.
    ///
    /// # Errors
    /// When memory cannot be allocated on `device`.
    pub fn masks(&self, piece: usize, device: &Device) -> Result<Vec<Tensor>> {
        if let Some((known, pieces)) = self.masks.get()
            && *known == piece
            && pieces.iter().all(|mask| mask.device().same_device(device))
        {
            return Ok(pieces.clone());
        }
        let starts = (0..self.len()).step_by(piece);
        let pieces = starts.map(|from| self.mask(from, piece.min(self.len() - from), device));
        let pieces: Vec<Tensor> = pieces.collect::<Result<_>>()?;
        let _ = self.masks.set((piece, pieces.clone()));
        Ok(pieces)
    }

    fn mask(&self, from: usize, rows: usize, device: &Device) -> Result<Tensor> {
        let spans = |row: usize| self.spans(from + row);
        let seen = (0..rows).flat_map(spans).map(|&(_, to)| to as usize);
        let n = seen.max().unwrap_or(0);
        let mut mask = vec![f32::NEG_INFINITY; rows * n];
        for row in 0..rows {
            for &(from, to) in spans(row) {
                mask[row * n + from as usize..row * n + to as usize].fill(0.);
            }
        }
        Tensor::from_vec(mask, (1, rows, n), device)
    }
}

/// Most rows of a group.
const MOST: usize = 64;

/// Scores that a group may compute in excess of those that are needed: a fraction of those,
/// plus a number too small to matter.
const SHARE: f64 = 0.3;
const ANYWAY: usize = 1024;

/// Groups of fewer rows, or that compute more than this multiple of the scores they need, are
/// computed row by row instead.
const FEWEST: usize = 4;
const TWICE: usize = 2;

/// Neighbouring querying rows, whose attention is computed as matrix products, and all that any
/// of them sees.
#[derive(Debug)]
pub(crate) struct Neighbours {
    /// The rows.
    pub rows: Range<usize>,
    /// Runs of rows that are seen, in ascending order; together they are the columns of a table
    /// of scores.
    pub runs: Vec<Range<usize>>,
    /// Of each row, what it sees, as runs of columns.
    seen: Vec<Vec<Range<usize>>>,
}

impl Neighbours {
    /// All of `n` querying rows, in their order, in groups that see much the same; `spans`
    /// are what a row sees.
    pub(crate) fn all<'a>(n: usize, spans: impl Fn(usize) -> &'a [Span]) -> Vec<Self> {
        let (mut groups, mut at) = (Vec::new(), 0);
        while at < n {
            let (mut runs, mut asked, mut end) = (Vec::new(), 0, at);
            while end < n && end - at < MOST {
                let wider = union(&runs, spans(end));
                let own = spans(end).iter().map(|(from, to)| (to - from) as usize);
                asked += own.sum::<usize>();
                let most = asked as f64 * (1. + SHARE) + ANYWAY as f64;
                if end > at && ((end + 1 - at) * width(&wider)) as f64 > most {
                    break;
                }
                runs = wider;
                end += 1;
            }
            groups.push(Self {
                seen: (at..end).map(|row| columns(&runs, spans(row))).collect(),
                rows: at..end,
                runs,
            });
            at = end;
        }
        groups
    }

    /// Columns of a table of scores.
    pub(crate) fn width(&self) -> usize {
        width(&self.runs)
    }

    /// Whether its rows are better computed one by one: they are few, or see little in common.
    pub(crate) fn one_by_one(&self) -> bool {
        let asked: usize = self.seen.iter().flatten().map(Range::len).sum();
        let rows = self.rows.len();
        rows < FEWEST || rows * self.width() > TWICE * asked
    }

    /// Every run, with the columns that it is.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + '_ {
        let mut at = 0;
        self.runs.iter().map(move |run| {
            at += run.len();
            (run.clone(), at - run.len()..at)
        })
    }

    /// What is seen of a table of all rows.
    pub(crate) fn seen_of<'a>(&self, table: Table<'a>) -> CowArray<'a, f32, Ix2> {
        if let [run] = self.runs.as_slice() {
            return table.slice_move(s![run.clone(), ..]).into();
        }
        let columns = table.ncols();
        let mut seen = Vec::with_capacity(self.width() * columns);
        for run in &self.runs {
            for of in table.slice(s![run.clone(), ..]).rows() {
                seen.extend_from_slice(row(of));
            }
        }
        let seen = Array2::from_shape_vec((self.width(), columns), seen);
        seen.expect("one row for each token of the runs").into()
    }

    /// Columns that the i-th row of the group sees, in ascending order.
    pub(crate) fn seen(&self, i: usize) -> &[Range<usize>] {
        &self.seen[i]
    }
}

fn width(runs: &[Range<usize>]) -> usize {
    runs.iter().map(Range::len).sum()
}

/// Both sets of runs as one, ascending, none touching the next.
fn union(runs: &[Range<usize>], spans: &[Span]) -> Vec<Range<usize>> {
    let spans = spans.iter().map(|&(from, to)| from as usize..to as usize);
    let mut all: Vec<Range<usize>> = runs.iter().cloned().chain(spans).collect();
    all.sort_unstable_by_key(|run| run.start);
    let mut joined: Vec<Range<usize>> = Vec::new();
    for run in all {
        match joined.last_mut() {
            Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
            _ => joined.push(run),
        }
    }
    joined
}

/// `spans` as runs of the columns that `runs` make.
fn columns(runs: &[Range<usize>], spans: &[Span]) -> Vec<Range<usize>> {
    let mut columns = Vec::new();
    let (mut at, mut runs) = (0, runs.iter().peekable());
    for &(from, to) in spans {
        let (from, to) = (from as usize, to as usize);
        while let Some(run) = runs.next_if(|run| run.end <= from) {
            at += run.len();
        }
        if let Some(run) = runs.peek() {
            columns.push(at + from - run.start..at + to - run.start);
        }
    }
    columns
}

#[cfg(test)]
mod tests;
