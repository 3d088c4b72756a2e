//! `heddle replay`: turns the arguments into a request and renders the report.

use comfy_table::{Table, presets};
use heddle_offline::replay::{self, ReplayError, ReplayRequest, Report};

use crate::args::{OutputFormat, ReplayArgs};

/// A replay that failed, or a report that cannot be printed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayCommandError {
    /// The replay failed.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The report cannot be written as JSON.
    #[error("cannot write the report as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Replays the captures and returns the text to print. Calls `warn` with a message for each refused object.
///
/// # Errors
/// A file cannot be read or written, or the pipeline cannot be set up.
pub fn run(args: ReplayArgs, warn: impl FnMut(&str)) -> Result<String, ReplayCommandError> {
    let output = args.output;
    let request = ReplayRequest {
        cluster: args.cluster.into(),
        node: args.node,
        inputs: args.inputs,
        out: args.out,
        config: args.config,
    };
    let report = replay::run(&request, warn)?;
    Ok(match output {
        OutputFormat::Json => serde_json::to_string_pretty(&report)? + "\n",
        OutputFormat::Text => text(&report),
    })
}

/// Returns a table with one row for each port.
fn text(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "PORT",
        "RECEIVED",
        "FORWARDED",
        "ANSWERED",
        "ABSORBED",
        "DROPPED",
        "SENT",
    ]);
    for (name, port) in &report.ports {
        let dropped: Vec<String> = port.dropped.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        table.add_row([
            name.clone(),
            port.received.to_string(),
            port.forwarded.to_string(),
            port.answered.to_string(),
            port.absorbed.to_string(),
            if dropped.is_empty() {
                "0".to_owned()
            } else {
                dropped.join(", ")
            },
            port.sent.to_string(),
        ]);
    }
    format!("{}\n", table.trim_fmt())
}
