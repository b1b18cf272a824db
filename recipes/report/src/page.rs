//! The files of a report: one HTML page that fetches nothing, and its data.

use crate::error::{Error, Result};
use crate::report::Report;
use crate::section::Section;
use minijinja::{Environment, context};
use std::path::PathBuf;

/// The page, which also tells a report from any other directory.
pub const PAGE: &str = "index.html";

/// What stands in the head of every page that this crate writes.
pub const MARK: &str = "<meta name=\"generator\" content=\"reptune\">";

impl Report {
    /// Every file of the report with its content: `index.html`, `recipe.toml` and `data/`.
    ///
    /// The same report gives the same bytes.
    ///
    /// # Errors
    /// When parts do not fit together.
    pub fn files(&self) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let sections = self.sections()?;
        let page = self.html(&sections).map_err(|e| Error::write("page", e))?;
        let mut files = vec![(PathBuf::from(PAGE), page.into_bytes())];
        if !self.recipe.is_empty() {
            files.push(("recipe.toml".into(), self.recipe.clone().into_bytes()));
        }
        for sheet in sections.iter().filter_map(|s| s.sheet.as_ref()) {
            let path = |ending: &str| PathBuf::from(format!("data/{}.{ending}", sheet.name));
            files.push((path("csv"), sheet.csv()?));
            files.push((path("json"), sheet.json()));
        }
        Ok(files)
    }

    /// The page. The template's name makes minijinja escape every value.
    fn html(&self, sections: &[Section]) -> std::result::Result<String, minijinja::Error> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.add_template(PAGE, include_str!("index.html.jinja"))?;
        let sections = sections.iter().map(|s| {
            let data = s.sheet.as_ref().map(|t| t.name);
            context! { data, ..minijinja::Value::from_serialize(s) }
        });
        environment.get_template(PAGE)?.render(context! {
            style => include_str!("style.css"),
            recipe => self.results.recipe,
            recipe_hash => self.results.recipe_hash,
            model => self.results.model,
            header => self.header.lines(),
            recipe_text => self.recipe,
            sections => sections.collect::<Vec<_>>(),
        })
    }
}
