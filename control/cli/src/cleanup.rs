//! `heddle cleanup`: removes everything that an agent created, and prints a list of it.

use heddle_agent::cleanup::{self, CleanupError, Removed};

use crate::args::{CleanupArgs, OutputFormat};

/// A cleanup that failed, or a list that cannot be printed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupCommandError {
    /// An agent is running, or something cannot be removed.
    #[error(transparent)]
    Cleanup(#[from] CleanupError),
    /// The list cannot be written as JSON.
    #[error("cannot write the list as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Removes everything that an agent created. Returns the text to print.
///
/// # Errors
/// An agent is running, or something cannot be removed.
pub async fn run(args: &CleanupArgs) -> Result<String, CleanupCommandError> {
    let removed = cleanup::run(&args.run_dir, &args.state_dir).await?;
    Ok(match args.output {
        OutputFormat::Json => serde_json::to_string_pretty(&removed)? + "\n",
        OutputFormat::Text => text(&removed),
    })
}

/// Renders the list for people.
fn text(Removed { removed }: &Removed) -> String {
    match removed[..] {
        [] => "there was nothing to remove\n".to_owned(),
        _ => removed.iter().map(|thing| format!("removed {thing}\n")).collect(),
    }
}
