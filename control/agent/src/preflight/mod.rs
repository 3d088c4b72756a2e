//! `heddle check`: is this machine fit for heddle, and what is to be done where it is not?
//!
//! Every row is one question with its answer. Nothing of the node is changed: AF_XDP is tried in a network namespace of
//! its own, and everything else is read.

pub mod firewall;
pub mod marker;
mod rows;
pub mod scratch;

use std::fmt;
use std::path::Path;

use heddle_config::Config;
use serde::Serialize;

/// The meaning of an answer.
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
    /// The subject of the look.
    pub what: String,
    /// The row's meaning.
    pub state: State,
    /// The finding.
    pub value: String,
    /// The advice; empty where nothing has to be done.
    pub advice: String,
}

impl Row {
    /// Builds a row.
    #[must_use]
    pub fn new(what: &str, state: State, value: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            state,
            value: value.into(),
            advice: advice.into(),
        }
    }

    /// Builds a row without advice, for something that is as it should be.
    #[must_use]
    pub fn ok(what: &str, value: impl Into<String>) -> Self {
        Self::new(what, State::Ok, value, "")
    }
}

/// All answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Returns whether no row is bad.
    pub fit: bool,
    /// The answers, in the order in which they matter.
    pub rows: Vec<Row>,
}

/// Examines this machine for a configuration. The AF_XDP test leaves its marker in `state_dir`.
#[must_use]
pub fn report(config: &Config, state_dir: &Path) -> Report {
    let rows = rows::all(config, state_dir);
    Report {
        fit: rows.iter().all(|row| row.state < State::Bad),
        rows,
    }
}
