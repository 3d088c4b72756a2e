//! `heddle cleanup`: prints the list of removed things.

use heddle_agent::cleanup::{self, CleanupError, Removed};

use crate::args::{CleanupArgs, OutputFormat};

/// Something cannot be removed, or the list not be printed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupCommandError {
    /// An agent runs, or something stays.
    #[error(transparent)]
    Cleanup(#[from] CleanupError),
    /// The list cannot be written as JSON.
    #[error("writing the list as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Removes everything that an agent made. Returns the text to print.
///
/// # Errors
/// An agent runs there, or something cannot be removed.
pub async fn run(args: &CleanupArgs) -> Result<String, CleanupCommandError> {
    let removed = cleanup::run(&args.run_dir, &args.state_dir).await?;
    Ok(match args.output {
        OutputFormat::Json => serde_json::to_string_pretty(&removed)? + "\n",
        OutputFormat::Text => text(&removed),
    })
}

fn text(Removed { removed }: &Removed) -> String {
    match removed[..] {
        [] => "there was nothing to remove\n".to_owned(),
        _ => removed.iter().map(|thing| format!("removed {thing}\n")).collect(),
    }
}
