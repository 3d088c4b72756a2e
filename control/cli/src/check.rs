//! `heddle check`: renders the rows of the agent's preflight report.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use heddle_agent::preflight::{self, Report, State};
use heddle_config::{Config, ConfigError};

use crate::args::{CheckArgs, OutputFormat};

/// A report that cannot be made or printed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The problems cannot be written to the file of `--termination-log`.
    #[error("cannot write the problems to {}: {source}", path.display())]
    TerminationLog {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The report cannot be written as JSON.
    #[error("cannot write the report as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Examines the machine. Returns the text to print, and true if the machine is fit. Writes the problems to the file of
/// `--termination-log`.
///
/// # Errors
/// The configuration cannot be read, or the file cannot be written.
pub fn run(args: &CheckArgs) -> Result<(String, bool), CheckError> {
    let config = match &args.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    let state_dir = args.state_dir.as_ref().unwrap_or(&config.state_dir);
    let report = preflight::report(&config, state_dir);
    if let (Some(path), false) = (&args.termination_log, report.fit) {
        write_termination_log(path, &problems(&report))?;
    }
    let text = match args.output {
        OutputFormat::Json => serde_json::to_string_pretty(&report)? + "\n",
        OutputFormat::Text => text(&report),
    };
    Ok((text, report.fit))
}

/// Writes an error to the file of `--termination-log` and returns it, with the error of the file, if it has one.
pub fn terminated(args: &CheckArgs, message: String) -> String {
    let written = args
        .termination_log
        .as_ref()
        .map(|path| write_termination_log(path, &message));
    match written {
        Some(Err(e)) => format!("{message}; {e}"),
        _ => message,
    }
}

/// Writes a text for the pod's status. The kubelet keeps its first [`TERMINATION_BYTES`].
fn write_termination_log(path: &Path, text: &str) -> Result<(), CheckError> {
    let mut ends = (0..=text.len().min(TERMINATION_BYTES)).rev();
    let end = ends.find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    fs::write(path, &text[..end]).map_err(|source| CheckError::TerminationLog {
        path: path.to_owned(),
        source,
    })
}

/// The longest termination message that the kubelet keeps (`MaxContainerTerminationMessageLength`).
const TERMINATION_BYTES: usize = 4096;

/// Returns one line for each problem, with its advice.
fn problems(report: &Report) -> String {
    let mut out = "this node is not fit for heddle\n".to_owned();
    for row in report.rows.iter().filter(|row| row.state == State::Bad) {
        out += &format!("{}: {}", row.what, row.value);
        if !row.advice.is_empty() {
            out += &format!(": {}", row.advice);
        }
        out.push('\n');
    }
    out
}

/// Renders the report for people.
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
        (0, warn) => format!("\nthis machine is fit for heddle; warnings: {warn}\n"),
        (bad, _) => format!("\nthis machine is NOT fit for heddle; problems: {bad}\n"),
    };
    out
}

#[cfg(test)]
mod tests {
    use heddle_agent::preflight::Row;

    use super::*;

    #[test]
    fn the_termination_message_has_the_problems_alone_and_ends_at_the_kubelets_bound() {
        let rows = vec![
            Row::ok("kernel", "6.18.0"),
            Row::new("nft", State::Bad, "not found", "install nftables"),
            Row::new("cores", State::Warn, "one", "have two"),
        ];
        let shown = problems(&Report { fit: false, rows });
        assert_eq!(
            shown,
            "this node is not fit for heddle\nnft: not found: install nftables\n"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        write_termination_log(file.path(), &"\u{e4}".repeat(3000)).unwrap();
        assert_eq!(fs::metadata(file.path()).unwrap().len(), 4096);
    }

    #[test]
    fn every_row_is_one_line() {
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
        assert!(shown.ends_with("NOT fit for heddle; problems: 1\n"), "{shown}");
    }
}
