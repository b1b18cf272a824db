//! A drawing in pixels, as SVG in the colours of the page's style sheet.
//!
//! Text is written with an anchor and leaves its width to the reader's fonts, so no font is
//! needed here.

/// A colour by its role: a variable of the style sheet, which has a value for light and one
/// for dark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ink {
    /// Words.
    Text,
    /// Lesser words: ticks, names of axes.
    Faint,
    /// Lines of axes.
    Grid,
    /// Positives.
    Positive,
    /// Negatives.
    Negative,
    /// Token loss.
    Token,
    /// Representation loss.
    Representation,
}

impl Ink {
    /// Every colour.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 7] = [
        Self::Text,
        Self::Faint,
        Self::Grid,
        Self::Positive,
        Self::Negative,
        Self::Token,
        Self::Representation,
    ];

    /// Its variable in the style sheet, without the dashes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Faint => "faint",
            Self::Grid => "grid",
            Self::Positive => "positive",
            Self::Negative => "negative",
            Self::Token => "token",
            Self::Representation => "representation",
        }
    }
}

/// A place on a canvas, from the upper left.
pub(crate) type Pixel = (i32, i32);

/// Width of a figure that stands beside others; on a phone it fills the width nearly unscaled.
pub(crate) const WIDTH: i32 = 340;

/// Where a text stands relative to its pixel.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Anchor {
    /// Begins there.
    Start,
    /// Ends there.
    End,
    /// Its middle is there.
    Middle,
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

/// How a shape is painted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Paint {
    /// Its inside.
    Fill(Ink),
    /// Its border.
    Border(Ink),
}

impl Paint {
    fn attributes(self) -> String {
        match self {
            Self::Fill(ink) => format!("fill=\"var(--{})\" stroke=\"none\"", ink.name()),
            Self::Border(ink) => format!("fill=\"none\" stroke=\"var(--{})\"", ink.name()),
        }
    }
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
        let path = format!("polyline points=\"{}\"", points(path));
        let paint = Paint::Border(ink).attributes();
        self.shape(&path, opacity, &format!("{paint} stroke-width=\"{width}\""));
    }

    /// A rectangle from its upper left to its lower right.
    pub(crate) fn rectangle(&mut self, [(x, y), to]: [Pixel; 2], paint: Paint, opacity: f64) {
        let (width, height) = (to.0 - x, to.1 - y);
        let shape = format!("rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"");
        self.shape(&shape, opacity, &paint.attributes());
    }

    /// The area within `border`.
    pub(crate) fn area(&mut self, border: &[Pixel], paint: Paint, opacity: f64) {
        let shape = format!("polygon points=\"{}\"", points(border));
        self.shape(&shape, opacity, &paint.attributes());
    }

    /// A small circle around `at`.
    pub(crate) fn circle(&mut self, (x, y): Pixel, paint: Paint, opacity: f64) {
        let shape = format!("circle cx=\"{x}\" cy=\"{y}\" r=\"3\"");
        self.shape(&shape, opacity, &paint.attributes());
    }

    /// Words, vertically centred at `at`.
    pub(crate) fn text(&mut self, text: &str, (x, y): Pixel, ink: Ink, anchor: Anchor) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::End => "end",
            Anchor::Middle => "middle",
        };
        let (ink, text) = (ink.name(), minijinja::HtmlEscape(text));
        self.0 += &format!(
            "<text x=\"{x}\" y=\"{y}\" dy=\"0.5ex\" text-anchor=\"{anchor}\" \
             font-family=\"sans-serif\" font-size=\"11\" opacity=\"1\" fill=\"var(--{ink})\">\n\
             {text}\n</text>\n"
        );
    }
}

#[cfg(test)]
mod tests;
