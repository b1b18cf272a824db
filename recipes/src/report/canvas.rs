//! A drawing in pixels, by way of the SVG backend of plotters.
//!
//! The backend writes text with an anchor and leaves its width to the reader's fonts, so no
//! font is needed here.

use super::ink::Ink;
use super::section::failed;
use crate::error::Result;
use plotters::coord::Shift;
use plotters::prelude::{
    Circle, Color, DrawingArea, DrawingAreaErrorKind, IntoDrawingArea, IntoFont, PathElement,
    Polygon, Rectangle, SVGBackend, ShapeStyle, Text,
};
use plotters::style::RGBAColor;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// What a stroke on a canvas comes to.
pub(super) type Drawn = std::result::Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// A place on a canvas, from the upper left.
pub(super) type Pixel = (i32, i32);

/// Width of a figure that stands beside others; on a phone it fills the width nearly unscaled.
pub(super) const WIDTH: i32 = 340;

/// Where a text stands relative to its pixel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    /// Begins there.
    Start,
    /// Ends there.
    End,
    /// Its middle is there.
    Middle,
}

/// Something to draw on.
pub(super) struct Canvas<'a>(DrawingArea<SVGBackend<'a>, Shift>);

/// Draws a figure of `width` x `height`; `alt` says what it shows to who cannot see it.
///
/// # Errors
/// When the backend fails.
pub(super) fn draw(
    alt: &str,
    width: i32,
    height: i32,
    paint: impl FnOnce(&Canvas<'_>) -> Drawn,
) -> Result<String> {
    let mut svg = String::new();
    {
        let size = (width.max(1) as u32, height.max(1) as u32);
        let canvas = Canvas(SVGBackend::with_string(&mut svg, size).into_drawing_area());
        paint(&canvas)
            .and_then(|()| canvas.0.present())
            .map_err(|e| failed(alt, e.to_string()))?;
    }
    let alt = minijinja::HtmlEscape(alt).to_string();
    Ok(Ink::themed(&svg).replacen(
        "<svg ",
        &format!("<svg role=\"img\" aria-label=\"{alt}\" "),
        1,
    ))
}

/// Three decimals are more than an eye can tell, and make short files.
fn shade(ink: Ink, opacity: f64) -> RGBAColor {
    ink.placeholder()
        .mix((opacity.clamp(0., 1.) * 1000.).round() / 1000.)
}

impl Canvas<'_> {
    /// A line through `points`.
    pub(super) fn line(&self, points: Vec<Pixel>, ink: Ink, opacity: f64, width: u32) -> Drawn {
        let style = ShapeStyle::from(shade(ink, opacity)).stroke_width(width);
        self.0.draw(&PathElement::new(points, style))
    }

    /// A filled rectangle.
    pub(super) fn block(&self, corners: [Pixel; 2], ink: Ink, opacity: f64) -> Drawn {
        let style = shade(ink, opacity).filled();
        self.0.draw(&Rectangle::new(corners, style))
    }

    /// The border of a rectangle.
    pub(super) fn frame(&self, corners: [Pixel; 2], ink: Ink) -> Drawn {
        self.0.draw(&Rectangle::new(corners, shade(ink, 1.)))
    }

    /// A filled area.
    pub(super) fn area(&self, points: Vec<Pixel>, ink: Ink, opacity: f64) -> Drawn {
        self.0.draw(&Polygon::new(points, shade(ink, opacity)))
    }

    /// A filled dot.
    pub(super) fn dot(&self, at: Pixel, radius: i32, ink: Ink, opacity: f64) -> Drawn {
        let style = shade(ink, opacity).filled();
        self.0.draw(&Circle::new(at, radius, style))
    }

    /// A ring.
    pub(super) fn ring(&self, at: Pixel, radius: i32, ink: Ink, opacity: f64) -> Drawn {
        self.0.draw(&Circle::new(at, radius, shade(ink, opacity)))
    }

    /// Words, vertically centred at `at`.
    pub(super) fn text(&self, text: &str, at: Pixel, ink: Ink, anchor: Anchor) -> Drawn {
        let horizontal = match anchor {
            Anchor::Start => HPos::Left,
            Anchor::End => HPos::Right,
            Anchor::Middle => HPos::Center,
        };
        // The backend divides sizes by 1.24.
        let style = ("sans-serif", 11. * 1.24).into_font();
        let style = style
            .color(&ink.placeholder())
            .pos(Pos::new(horizontal, VPos::Center));
        self.0.draw(&Text::new(text.to_owned(), at, style))
    }
}
