//! Axes and what is drawn between them.

use crate::canvas::{Anchor, Canvas, Ink, Pixel, WIDTH, draw};
use crate::number::ticks;
use crate::section::Plot;

const HEIGHT: i32 = 220;
const LEFT: i32 = 42;
const RIGHT: i32 = 14;
const BOTTOM: i32 = 40;

/// A point in the units of the axes.
pub(crate) type Point = (f64, f64);

/// The axes of a chart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axes<'a> {
    /// What x and y are.
    pub(crate) names: [&'a str; 2],
    /// Lowest and highest x.
    pub(crate) x: (f64, f64),
    /// Lowest and highest y.
    pub(crate) y: (f64, f64),
    /// The least step between ticks of x: 1 where x counts.
    pub(crate) x_least: f64,
    /// A second scale of x above: its unit in units of x, and its name.
    pub(crate) above: Option<(f64, &'a str)>,
}

impl<'a> Axes<'a> {
    /// Axes with ticks at any step and one scale of x.
    pub(crate) fn new(names: [&'a str; 2], x: (f64, f64), y: (f64, f64)) -> Self {
        Self {
            names,
            x,
            y,
            x_least: 0.,
            above: None,
        }
    }
}

/// A chart whose axes are drawn.
pub(crate) struct Chart<'a> {
    canvas: &'a mut Canvas,
    axes: Axes<'a>,
    top: i32,
}

/// A figure called `title` with a chart; `alt` says what it shows to who cannot see it.
pub(crate) fn plot(title: &str, alt: &str, axes: Axes, paint: impl FnOnce(&mut Chart)) -> Plot {
    let svg = draw(alt, HEIGHT, |canvas| paint(&mut Chart::new(canvas, axes)));
    (title.to_owned(), svg)
}

/// Puts a value between two pixels.
fn place(value: f64, (low, high): (f64, f64), from: i32, to: i32) -> i32 {
    let share = (value - low) / (high - low);
    (f64::from(from) + share * f64::from(to - from)).round() as i32
}

impl<'a> Chart<'a> {
    /// Draws the axes.
    fn new(canvas: &'a mut Canvas, axes: Axes<'a>) -> Self {
        let top = if axes.above.is_some() { 40 } else { 24 };
        let mut chart = Self { canvas, axes, top };
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        chart.label(axes.names[1], (4, 8), Anchor::START);
        let middle = (LEFT + right) / 2;
        chart.label(axes.names[0], (middle, HEIGHT - 8), Anchor::MIDDLE);
        for (y, label) in ticks(axes.y.0, axes.y.1, 5, 0.) {
            let at = chart.y(y);
            chart.stroke([(LEFT, at), (right, at)], Ink::GRID);
            chart.label(&label, (LEFT - 6, at), Anchor::END);
        }
        for (x, label) in ticks(axes.x.0, axes.x.1, 7, axes.x_least) {
            let at = chart.x(x);
            chart.stroke([(at, bottom), (at, bottom + 4)], Ink::FAINT);
            chart.label(&label, (at, bottom + 13), Anchor::MIDDLE);
        }
        chart.stroke([(LEFT, bottom), (right, bottom)], Ink::FAINT);
        if let Some((unit, name)) = axes.above {
            chart.label(name, (right, 8), Anchor::END);
            for (share, label) in ticks(axes.x.0 / unit, axes.x.1 / unit, 6, 0.) {
                let at = chart.x(share * unit);
                chart.stroke([(at, top - 4), (at, top)], Ink::FAINT);
                chart.label(&label, (at, top - 12), Anchor::MIDDLE);
            }
            chart.stroke([(LEFT, top), (right, top)], Ink::GRID);
        }
        chart
    }

    fn stroke(&mut self, ends: [Pixel; 2], ink: Ink) {
        self.canvas.line(&ends, ink, 1., 1);
    }

    fn label(&mut self, text: &str, at: Pixel, anchor: Anchor) {
        self.canvas.text(text, at, Ink::FAINT, anchor);
    }

    fn x(&self, x: f64) -> i32 {
        place(x, self.axes.x, LEFT, WIDTH - RIGHT)
    }

    fn y(&self, y: f64) -> i32 {
        place(y, self.axes.y, HEIGHT - BOTTOM, self.top)
    }

    fn pixel(&self, (x, y): Point) -> Pixel {
        (self.x(x), self.y(y))
    }

    /// A line through `points`; what is not finite breaks it.
    pub(crate) fn line(&mut self, points: &[Point], ink: Ink, opacity: f64, width: u32) {
        for run in points.split(|p| !p.1.is_finite()).filter(|r| r.len() > 1) {
            let pixels: Vec<Pixel> = run.iter().map(|p| self.pixel(*p)).collect();
            self.canvas.line(&pixels, ink, opacity, width);
        }
    }

    /// A thick line through `points`, with a dot at each.
    pub(crate) fn dotted_line(&mut self, points: &[Point], ink: Ink) {
        self.line(points, ink, 1., 2);
        self.circles(points, &ink.fill(), 1.);
    }

    /// A small circle at each of `points`.
    pub(crate) fn circles(&mut self, points: &[Point], paint: &str, opacity: f64) {
        for p in points.iter().filter(|p| p.1.is_finite()) {
            self.canvas.circle(self.pixel(*p), paint, opacity);
        }
    }

    /// The area between `(x, (low, high))`.
    pub(crate) fn band(&mut self, edges: &[(f64, (f64, f64))], ink: Ink) {
        let low = edges.iter().map(|(x, y)| self.pixel((*x, y.0)));
        let high = edges.iter().rev().map(|(x, y)| self.pixel((*x, y.1)));
        let border: Vec<Pixel> = low.chain(high).collect();
        self.canvas.area(&border, &ink.fill(), 0.2);
    }

    /// A bar from 0 to `y` over `from..to`.
    pub(crate) fn bar(&mut self, (from, to): (f64, f64), y: f64, ink: Ink) {
        let corners = [self.pixel((from, y)), self.pixel((to, 0.))];
        self.canvas.rectangle(corners, &ink.fill(), 0.45);
    }
}
