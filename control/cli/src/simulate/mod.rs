//! `heddle simulate`: turns the arguments into a request and renders the outcome.
//!
//! - [`explanation`]: one connection, for people.
//! - [`differences`]: a table of the pairs of pods whose traffic changes.

mod differences;
mod explanation;

use comfy_table::{Table, presets};
use heddle_offline::simulate::{self, Answer, Outcome, Probe, Question, SimulateError, SimulateRequest};
use serde::Serialize;

use crate::args::{OutputFormat, SimulateArgs};

/// A question that cannot be answered, or an answer that cannot be printed.
#[derive(Debug, thiserror::Error)]
pub enum SimulateCommandError {
    /// The question cannot be answered.
    #[error(transparent)]
    Simulate(#[from] SimulateError),
    /// The answer cannot be written as JSON.
    #[error("cannot write the answers as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Answers the question of the command line and returns the text to print. Calls `warn` with a message for each refused object.
///
/// # Errors
/// A file cannot be read, or a question cannot be answered.
pub fn run(args: SimulateArgs, warn: impl FnMut(&str)) -> Result<String, SimulateCommandError> {
    let output = args.output;
    let outcome = simulate::run(&request(args), warn)?;
    let text = match &outcome {
        Outcome::Answers { probes, answers } => render(output, answers, || answers_table(probes, answers)),
        Outcome::Explanation(explanation) => render(output, explanation, || explanation::text(explanation)),
        Outcome::Comparison(both) => render(output, both, || {
            format!(
                "now:  {}then: {}",
                explanation::text(&both.now),
                explanation::text(&both.then)
            )
        }),
        Outcome::Differences(found) => render(output, found, || differences::table(found)),
    };
    Ok(text?)
}

/// Returns the request for the arguments.
fn request(args: SimulateArgs) -> SimulateRequest {
    let question = match (args.probes, args.from, args.to) {
        (Some(path), ..) => Question::Probes(path),
        (None, Some(from), Some(to)) => Question::Connection { from, to },
        _ => Question::Differences,
    };
    SimulateRequest {
        cluster: args.cluster.into(),
        question,
        what_if: args.what_if,
        without: args.without,
        config: args.config,
        node: args.node,
    }
}

/// Returns a value as JSON or as text.
fn render<T: Serialize>(
    format: OutputFormat,
    value: &T,
    text: impl FnOnce() -> String,
) -> Result<String, serde_json::Error> {
    Ok(match format {
        OutputFormat::Json => serde_json::to_string_pretty(value)? + "\n",
        OutputFormat::Text => text(),
    })
}

/// Returns a table with one row for each probe.
fn answers_table(probes: &[Probe], answers: &[Answer]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["PROBE", "FROM", "TO", "PORT", "VERDICT", "WHY"]);
    for (probe, answer) in probes.iter().zip(answers) {
        let port = probe.port.map(|port| format!("/{port}")).unwrap_or_default();
        table.add_row([
            probe.id.clone(),
            probe.src.to_string(),
            probe.dst.to_string(),
            format!("{}{port}", probe.protocol.as_str()),
            answer.verdict.as_str().to_owned(),
            answer.policy.clone(),
        ]);
    }
    format!("{table}\n")
}
