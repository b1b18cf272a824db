//! A recipe on the command line, with its model and the directory of its run.

use super::LoadingArgs;
use crate::Result;
use crate::pipeline::Run;
use crate::session::Session;
use clap::Args;
use std::path::PathBuf;

/// What commands on a recipe start from.
#[derive(Args)]
pub struct RecipeArgs {
    /// Recipe file
    #[arg(value_name = "RECIPE.toml")]
    pub recipe: PathBuf,
    /// Directory of the run [default: runs/NAME, with the name of the recipe]
    #[arg(short, long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Model directory, .uqff or .gguf file, or Hugging Face id, instead of the recipe's
    #[arg(short, long, help_heading = "Model")]
    pub model: Option<String>,
    #[command(flatten)]
    pub loading: LoadingArgs,
}

impl RecipeArgs {
    /// Reads the recipe and its data, and loads the model.
    pub fn session(&self) -> Result<Session> {
        Session::open(&self.recipe, self.model.as_deref(), self.loading.options()?)
    }

    /// Opens the directory of the run for `session`.
    pub fn run(&self, session: Session) -> Result<Run> {
        Run::open(session, self.out.as_deref())
    }
}
