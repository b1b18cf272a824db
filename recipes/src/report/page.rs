//! The page: one HTML file that fetches nothing.

use super::section::{Section, failed};
use super::study::Study;
use crate::error::Result;
use minijinja::{Environment, context};

/// The page of `study` with `sections`. The template's name makes minijinja escape every value.
///
/// # Errors
/// When the template fails.
pub(super) fn html(study: &Study, sections: &[Section]) -> Result<String> {
    let failed = |e: minijinja::Error| failed("page", e);
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment
        .add_template("index.html", include_str!("index.html.jinja"))
        .map_err(failed)?;
    let sections: Vec<_> = sections
        .iter()
        .map(|s| context! { data => s.sheet.as_ref().map(|t| t.name), ..minijinja::Value::from_serialize(s) })
        .collect();
    let template = environment.get_template("index.html").map_err(failed)?;
    template
        .render(context! {
            style => include_str!("style.css"),
            recipe => study.results.recipe,
            recipe_hash => study.results.recipe_hash,
            model => study.results.model,
            header => study.header.lines(),
            recipe_text => study.recipe,
            sections,
        })
        .map_err(failed)
}
