//! One row of `heddle check`.

use std::fmt;

use serde::Serialize;

/// The state of one examined thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The thing is as it should be.
    Ok,
    /// heddle runs, but slower than it could, or pods lack something.
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
    /// The subject.
    pub what: String,
    /// The state.
    pub state: State,
    /// The finding.
    pub value: String,
    /// The advice; empty if nothing has to be done.
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
