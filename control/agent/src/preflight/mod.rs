//! `heddle check`: examines this machine, and says what to do where it is not fit for heddle.
//!
//! The agent asks the questions about what others can change at its start and twice a minute ([`Watcher`]).
//!
//! Every row is one question with its answer. The node is not changed: AF_XDP is tried in a network namespace of its own,
//! and everything else is only read.

mod afxdp_rows;
pub mod firewall;
pub mod kube_proxy;
pub mod marker;
pub mod program;
mod row;
mod rows;
pub mod scratch;
mod watcher;

use std::path::Path;

use heddle_config::Config;
use serde::Serialize;

pub use row::{Row, State};
pub use watcher::{CheckRows, Watcher};

/// The result of `heddle check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `true` if no row is bad.
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
