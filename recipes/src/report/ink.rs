//! The colours of the page. Figures are drawn in placeholders; here, and only here, they become
//! variables of the style sheet, which has a value for light and one for dark.

use plotters::style::RGBColor;

/// A colour by its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    /// Words.
    Text,
    /// Lesser words: ticks, names of axes.
    Faint,
    /// Lines of axes.
    Grid,
    /// Positives; honest answers.
    Positive,
    /// Negatives; lies.
    Negative,
    /// Token loss.
    Token,
    /// Representation loss.
    Representation,
}

impl Ink {
    /// Every colour.
    pub(super) const ALL: [Self; 7] = [
        Self::Text,
        Self::Faint,
        Self::Grid,
        Self::Positive,
        Self::Negative,
        Self::Token,
        Self::Representation,
    ];

    /// Its variable in the style sheet, without the dashes.
    pub(super) fn name(self) -> &'static str {
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

    /// What it is drawn in.
    pub(super) fn placeholder(self) -> RGBColor {
        RGBColor(0xFE, 0xED, self as u8)
    }

    /// `svg` with variables for placeholders.
    ///
    /// Only whole attribute values are taken: a quote within a text is escaped, so no label can
    /// look like one.
    pub(super) fn themed(svg: &str) -> String {
        Self::ALL.iter().fold(svg.to_owned(), |svg, ink| {
            let RGBColor(r, g, b) = ink.placeholder();
            svg.replace(
                &format!("=\"#{r:02X}{g:02X}{b:02X}\""),
                &format!("=\"var(--{})\"", ink.name()),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_colour_has_a_value_for_light_and_for_dark() {
        let style = include_str!("style.css");
        for ink in Ink::ALL {
            let variable = format!("--{}:", ink.name());
            assert_eq!(style.matches(&variable).count(), 2, "{variable}");
        }
    }

    #[test]
    fn only_attributes_are_themed() {
        assert_eq!(
            Ink::themed("<text fill=\"#FEED00\">=&quot;#FEED00&quot;</text>"),
            "<text fill=\"var(--text)\">=&quot;#FEED00&quot;</text>"
        );
    }
}
