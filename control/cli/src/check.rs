//! `heddle check`: renders the rows of the agent's preflight report.

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
    /// The report cannot be written as JSON.
    #[error("cannot write the report as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Examines the machine. Returns the text to print, and true if the machine is fit.
///
/// # Errors
/// The configuration cannot be read.
pub fn run(args: &CheckArgs) -> Result<(String, bool), CheckError> {
    let config = match &args.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    let state_dir = args.state_dir.as_ref().unwrap_or(&config.state_dir);
    let report = preflight::report(&config, state_dir);
    let text = match args.output {
        OutputFormat::Json => serde_json::to_string_pretty(&report)? + "\n",
        OutputFormat::Text => text(&report),
    };
    Ok((text, report.fit))
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
