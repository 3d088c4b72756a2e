//! `heddle check`: is this machine fit for heddle, and what is to be done where it is not?
//!
//! Every row is one question with its answer. Nothing of the node is changed: AF_XDP is tried in a network namespace of
//! its own, and everything else is read.

pub mod firewall;
pub mod marker;
mod rows;
pub mod scratch;

use std::fmt;
use std::path::PathBuf;

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::cli::{CheckArgs, OutputFormat};
use crate::config::{Config, ConfigError};

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// heddle runs, but something is weaker than it could be, or of no use to pods.
    Warn,
    /// heddle does not run.
    Bad,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Bad => "BAD",
        })
    }
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What was looked at.
    pub what: String,
    /// What it means.
    pub state: State,
    /// What was found.
    pub value: String,
    /// What to do; empty where nothing is.
    pub advice: String,
}

impl Row {
    fn new(what: &str, state: State, value: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            state,
            value: value.into(),
            advice: advice.into(),
        }
    }

    fn ok(what: &str, value: impl Into<String>) -> Self {
        Self::new(what, State::Ok, value, "")
    }
}

/// All answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing is bad.
    pub fit: bool,
    /// The answers, in the order in which they matter.
    pub rows: Vec<Row>,
}

/// The question cannot be put.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The answers cannot be written as JSON.
    #[error("writing the answers as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// What the machine is to be fit for.
#[derive(Debug)]
struct Wanted {
    config: Config,
    state_dir: PathBuf,
}

/// Looks at the machine. Gives what is to be printed, and whether it is fit.
///
/// # Errors
/// The configuration cannot be read.
pub fn run(args: &CheckArgs) -> Result<(String, bool), CheckError> {
    let config = match &args.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    let state_dir = args.state_dir.clone().unwrap_or_else(|| config.state_dir.clone());
    let rows = rows::all(&Wanted { config, state_dir });
    let report = Report {
        fit: rows.iter().all(|row| row.state < State::Bad),
        rows,
    };
    let text = match args.output {
        OutputFormat::Json => serde_json::to_string_pretty(&report)? + "\n",
        OutputFormat::Text => text(&report),
    };
    Ok((text, report.fit))
}

fn text(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["what", "state", "value", "what to do"]);
    for row in &report.rows {
        table.add_row([&row.what, &row.state.to_string(), &row.value, &row.advice]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut out: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let count = |state| report.rows.iter().filter(|row| row.state == state).count();
    out += &match (count(State::Bad), count(State::Warn)) {
        (0, 0) => "\nthis machine is fit for heddle\n".to_owned(),
        (0, warn) => format!("\nthis machine is fit for heddle; {warn} to look at\n"),
        (bad, _) => format!("\nthis machine is NOT fit for heddle: {bad} bad\n"),
    };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_stands_in_one_line() {
        let rows = vec![
            Row::ok("kernel", "6.18.0"),
            Row::new("nft", State::Bad, "not found", "install nftables"),
        ];
        let shown = text(&Report { fit: false, rows });
        assert!(
            shown.lines().any(|line| ["nft", "BAD", "not found", "install nftables"]
                .iter()
                .all(|part| line.contains(part))),
            "{shown}"
        );
        assert!(shown.ends_with("NOT fit for heddle: 1 bad\n"), "{shown}");
    }
}
