//! A drawing in pixels, as SVG in the colours of the page's style sheet.
//!
//! Text is written with an anchor and leaves its width to the reader's fonts, so no font is
//! needed here.

use serde::Serialize;

/// A colour by its role: a variable of the style sheet, which has a value for light and one
/// for dark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Ink(&'static str);

impl Ink {
    /// Words.
    pub(crate) const TEXT: Self = Self("text");
    /// Lesser words: ticks, names of axes.
    pub(crate) const FAINT: Self = Self("faint");
    /// Lines of axes.
    pub(crate) const GRID: Self = Self("grid");
    /// Positives.
    pub(crate) const POSITIVE: Self = Self("positive");
    /// Negatives.
    pub(crate) const NEGATIVE: Self = Self("negative");
    /// Token loss.
    pub(crate) const TOKEN: Self = Self("token");
    /// Representation loss.
    pub(crate) const REPRESENTATION: Self = Self("representation");

    /// Attributes that paint the inside of a shape.
    pub(crate) fn fill(self) -> String {
        format!("fill=\"var(--{})\" stroke=\"none\"", self.0)
    }

    /// Attributes that paint its border.
    pub(crate) fn border(self) -> String {
        format!("fill=\"none\" stroke=\"var(--{})\"", self.0)
    }
}

/// A place on a canvas, from the upper left.
pub(crate) type Pixel = (i32, i32);

/// Width of a figure; on a phone it fills the width nearly unscaled.
pub(crate) const WIDTH: i32 = 340;

/// Where a text stands relative to its pixel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Anchor(&'static str);

impl Anchor {
    /// It begins there.
    pub(crate) const START: Self = Self("start");
    /// It ends there.
    pub(crate) const END: Self = Self("end");
    /// Its middle is there.
    pub(crate) const MIDDLE: Self = Self("middle");
}

/// Something to draw on.
pub(crate) struct Canvas(String);

/// Draws a figure of [`WIDTH`] x `height`; `alt` says what it shows to who cannot see it.
pub(crate) fn draw(alt: &str, height: i32, paint: impl FnOnce(&mut Canvas)) -> String {
    let height = height.max(1);
    let mut canvas = Canvas(format!(
        "<svg role=\"img\" aria-label=\"{}\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" xmlns=\"http://www.w3.org/2000/svg\">\n",
        minijinja::HtmlEscape(alt)
    ));
    paint(&mut canvas);
    canvas.0 + "</svg>\n"
}

/// A list of points.
fn points(points: &[Pixel]) -> String {
    points.iter().map(|(x, y)| format!("{x},{y} ")).collect()
}

impl Canvas {
    /// Adds `<tag attributes opacity/>`, unless it cannot be seen.
    fn shape(&mut self, shape: &str, opacity: f64, paint: &str) {
        // Three decimals are more than an eye can tell, and make short files.
        let opacity = (opacity.clamp(0., 1.) * 1000.).round() / 1000.;
        if opacity > 0. {
            self.0 += &format!("<{shape} opacity=\"{opacity}\" {paint}/>\n");
        }
    }

    /// A line through `path`.
    pub(crate) fn line(&mut self, path: &[Pixel], ink: Ink, opacity: f64, width: u32) {
        let shape = format!("polyline points=\"{}\"", points(path));
        let paint = format!("{} stroke-width=\"{width}\"", ink.border());
        self.shape(&shape, opacity, &paint);
    }

    /// A rectangle from its upper left to its lower right.
    pub(crate) fn rectangle(&mut self, [(x, y), to]: [Pixel; 2], paint: &str, opacity: f64) {
        let (width, height) = (to.0 - x, to.1 - y);
        let shape = format!("rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"");
        self.shape(&shape, opacity, paint);
    }

    /// The area within `border`.
    pub(crate) fn area(&mut self, border: &[Pixel], paint: &str, opacity: f64) {
        let shape = format!("polygon points=\"{}\"", points(border));
        self.shape(&shape, opacity, paint);
    }

    /// A small circle around `at`.
    pub(crate) fn circle(&mut self, (x, y): Pixel, paint: &str, opacity: f64) {
        let shape = format!("circle cx=\"{x}\" cy=\"{y}\" r=\"3\"");
        self.shape(&shape, opacity, paint);
    }

    /// Words, vertically centred at `at`.
    pub(crate) fn text(&mut self, text: &str, (x, y): Pixel, ink: Ink, anchor: Anchor) {
        let (ink, anchor, text) = (ink.0, anchor.0, minijinja::HtmlEscape(text));
        self.0 += &format!(
            "<text x=\"{x}\" y=\"{y}\" dy=\"0.5ex\" text-anchor=\"{anchor}\" \
             font-family=\"sans-serif\" font-size=\"11\" opacity=\"1\" fill=\"var(--{ink})\">\n\
             {text}\n</text>\n"
        );
    }
}

#[cfg(test)]
mod tests;
