//! Axes and what is drawn between them.

use super::canvas::{Anchor, Canvas, Drawn, Pixel, WIDTH};
use super::ink::Ink;
use super::number::ticks;

/// Height of a chart.
pub(super) const HEIGHT: i32 = 220;

const LEFT: i32 = 42;
const RIGHT: i32 = 14;
const BOTTOM: i32 = 40;

/// The axes of a chart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axes<'a> {
    /// Lowest and highest x.
    pub(super) x: (f64, f64),
    /// Lowest and highest y.
    pub(super) y: (f64, f64),
    /// What x is.
    pub(super) x_name: &'a str,
    /// What y is.
    pub(super) y_name: &'a str,
    /// The least step between ticks of x: 1 where x counts.
    pub(super) x_least: f64,
    /// A second scale of x above: its unit in units of x, and its name.
    pub(super) above: Option<(f64, &'a str)>,
}

/// A chart whose axes are drawn.
pub(super) struct Chart<'c, 'a> {
    canvas: &'c Canvas<'a>,
    axes: Axes<'c>,
    top: i32,
}

/// Puts a value between two pixels.
fn place(value: f64, (low, high): (f64, f64), from: i32, to: i32) -> i32 {
    let share = (value - low) / (high - low);
    (f64::from(from) + share * f64::from(to - from)).round() as i32
}

impl<'c, 'a> Chart<'c, 'a> {
    /// Draws the axes.
    ///
    /// # Errors
    /// When the backend fails.
    pub(super) fn new(
        canvas: &'c Canvas<'a>,
        axes: Axes<'c>,
    ) -> Result<Self, plotters::prelude::DrawingAreaErrorKind<std::io::Error>> {
        let top = if axes.above.is_some() { 40 } else { 24 };
        let chart = Self { canvas, axes, top };
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        canvas.text(axes.y_name, (4, 8), Ink::Faint, Anchor::Start)?;
        canvas.text(
            axes.x_name,
            ((LEFT + right) / 2, HEIGHT - 8),
            Ink::Faint,
            Anchor::Middle,
        )?;
        for (y, label) in ticks(axes.y.0, axes.y.1, 5, 0.) {
            let at = chart.y(y);
            canvas.line(vec![(LEFT, at), (right, at)], Ink::Grid, 1., 1)?;
            canvas.text(&label, (LEFT - 6, at), Ink::Faint, Anchor::End)?;
        }
        for (x, label) in ticks(axes.x.0, axes.x.1, 7, axes.x_least) {
            let at = chart.x(x);
            canvas.line(vec![(at, bottom), (at, bottom + 4)], Ink::Faint, 1., 1)?;
            canvas.text(&label, (at, bottom + 13), Ink::Faint, Anchor::Middle)?;
        }
        canvas.line(vec![(LEFT, bottom), (right, bottom)], Ink::Faint, 1., 1)?;
        if let Some((unit, name)) = axes.above {
            canvas.text(name, (right, 8), Ink::Faint, Anchor::End)?;
            let (low, high) = (axes.x.0 / unit, axes.x.1 / unit);
            for (share, label) in ticks(low, high, 6, 0.) {
                let at = chart.x(share * unit);
                canvas.line(vec![(at, top - 4), (at, top)], Ink::Faint, 1., 1)?;
                canvas.text(&label, (at, top - 12), Ink::Faint, Anchor::Middle)?;
            }
            canvas.line(vec![(LEFT, top), (right, top)], Ink::Grid, 1., 1)?;
        }
        Ok(chart)
    }

    fn x(&self, x: f64) -> i32 {
        place(x, self.axes.x, LEFT, WIDTH - RIGHT)
    }

    fn y(&self, y: f64) -> i32 {
        place(y, self.axes.y, HEIGHT - BOTTOM, self.top)
    }

    fn pixel(&self, (x, y): (f64, f64)) -> Pixel {
        (self.x(x), self.y(y))
    }

    /// A line through `points`; what is not finite breaks it.
    pub(super) fn line(&self, points: &[(f64, f64)], ink: Ink, opacity: f64, width: u32) -> Drawn {
        for run in points.split(|p| !p.1.is_finite()).filter(|r| r.len() > 1) {
            let pixels = run.iter().map(|p| self.pixel(*p)).collect();
            self.canvas.line(pixels, ink, opacity, width)?;
        }
        Ok(())
    }

    /// A dot at each of `points`.
    pub(super) fn dots(&self, points: &[(f64, f64)], ink: Ink, opacity: f64) -> Drawn {
        for p in points.iter().filter(|p| p.1.is_finite()) {
            self.canvas.dot(self.pixel(*p), 3, ink, opacity)?;
        }
        Ok(())
    }

    /// A ring at each of `points`.
    pub(super) fn rings(&self, points: &[(f64, f64)], ink: Ink, opacity: f64) -> Drawn {
        for p in points.iter().filter(|p| p.1.is_finite()) {
            self.canvas.ring(self.pixel(*p), 3, ink, opacity)?;
        }
        Ok(())
    }

    /// The area between `(x, low, high)`.
    pub(super) fn band(&self, edges: &[(f64, f64, f64)], ink: Ink) -> Drawn {
        let low = edges.iter().map(|e| self.pixel((e.0, e.1)));
        let high = edges.iter().rev().map(|e| self.pixel((e.0, e.2)));
        self.canvas.area(low.chain(high).collect(), ink, 0.2)
    }

    /// A bar from 0 to `y` over `from..to`.
    pub(super) fn bar(&self, (from, to): (f64, f64), y: f64, ink: Ink) -> Drawn {
        let corners = [self.pixel((from, y)), self.pixel((to, 0.))];
        self.canvas.block(corners, ink, 0.45)
    }

    /// A horizontal rule at `y`.
    pub(super) fn rule(&self, y: f64) -> Drawn {
        let at = self.y(y);
        self.canvas
            .line(vec![(LEFT, at), (WIDTH - RIGHT, at)], Ink::Faint, 1., 1)
    }
}
