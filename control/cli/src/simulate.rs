//! `heddle simulate`: turns the arguments into a request and prints the outcome.

use comfy_table::{Table, presets};
use heddle_offline::simulate::what_if::{Difference, Stretch};
use heddle_offline::simulate::{self, Answer, Outcome, Probe, Question, Request, SimulateError};
use serde::Serialize;

use crate::args::{OutputFormat, SimulateArgs};

/// The question cannot be answered, or the answer not be printed.
#[derive(Debug, thiserror::Error)]
pub enum SimulateCommandError {
    /// No answer.
    #[error(transparent)]
    Simulate(#[from] SimulateError),
    /// The answer cannot be written as JSON.
    #[error("writing the answers as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Answers the question of the command line. Returns the text to print; `warn` gets each refused object.
///
/// # Errors
/// Something cannot be read, or a question cannot be answered.
pub fn run(args: SimulateArgs, warn: impl FnMut(&str)) -> Result<String, SimulateCommandError> {
    let output = args.output;
    let outcome = simulate::run(&request(args), warn)?;
    let text = match &outcome {
        Outcome::Answers { probes, answers } => print(output, answers, || table(probes, answers)),
        Outcome::Explanation(explanation) => print(output, explanation, || explanation.to_string()),
        Outcome::Comparison(both) => print(output, both, || format!("now:  {}then: {}", both.now, both.then)),
        Outcome::Differences(found) => print(output, found, || changes_table(found)),
    };
    Ok(text?)
}

/// The plain request behind the arguments.
fn request(args: SimulateArgs) -> Request {
    let question = match (args.probes, args.from, args.to) {
        (Some(path), ..) => Question::Probes(path),
        (None, Some(from), Some(to)) => Question::Connection { from, to },
        _ => Question::Differences,
    };
    Request {
        manifests: args.manifests,
        question,
        what_if: args.what_if,
        without: args.without,
        config: args.config,
        node: args.node,
    }
}

fn print<T: Serialize>(
    format: OutputFormat,
    value: &T,
    text: impl FnOnce() -> String,
) -> Result<String, serde_json::Error> {
    Ok(match format {
        OutputFormat::Json => serde_json::to_string_pretty(value)? + "\n",
        OutputFormat::Text => text(),
    })
}

fn changes_table(found: &[Difference]) -> String {
    if found.is_empty() {
        return "nothing would change between pods\n".to_owned();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["FROM", "TO", "TRAFFIC", "NOW", "THEN", "BECAUSE"]);
    for row in Row::of(found) {
        let one = row.one;
        table.add_row([
            one.from.clone(),
            one.to.clone(),
            format!("{}{}", row.family, row.traffic().join(" ")),
            one.before.as_str().to_owned(),
            one.after.as_str().to_owned(),
            one.decided_after.clone(),
        ]);
    }
    format!("{table}\n")
}

/// Differences that a person reads as one: of the same pair, with the same outcome.
struct Row<'a> {
    one: &'a Difference,
    /// Protocols, with ports where it has them.
    traffic: Vec<(&'static str, Option<Stretch>)>,
    /// Empty: it is the same in both, or there is but one.
    family: &'static str,
}

impl<'a> Row<'a> {
    fn of(found: &'a [Difference]) -> Vec<Self> {
        let outcome = |d: &'a Difference| (&d.from, &d.to, d.before, d.after, &d.decided_after);
        let mut rows: Vec<Self> = Vec::new();
        for one in found {
            match rows.last_mut() {
                Some(row) if outcome(row.one) == outcome(one) && row.one.family == one.family => row.add(one),
                _ => {
                    let mut row = Self {
                        one,
                        traffic: Vec::new(),
                        family: match one.family {
                            _ if one.only_family => "",
                            4 => "IPv4 ",
                            _ => "IPv6 ",
                        },
                    };
                    row.add(one);
                    rows.push(row);
                }
            }
        }
        // The same of the other family is not said again.
        let mut told: Vec<Self> = Vec::new();
        for row in rows {
            let same = |other: &&mut Self| {
                outcome(other.one) == outcome(row.one)
                    && other.one.family != row.one.family
                    && other.traffic == row.traffic
            };
            match told
                .iter_mut()
                .rev()
                .take_while(|other| other.one.from == row.one.from)
                .find(same)
            {
                Some(twin) => twin.family = "",
                None => told.push(row),
            }
        }
        told
    }

    fn add(&mut self, one: &Difference) {
        let protocol = if one.ports.is_none() { "ping" } else { one.protocol };
        match (self.traffic.last_mut(), one.ports) {
            (Some((last, Some(known))), Some(ports))
                if *last == protocol && known.last.checked_add(1) == Some(ports.first) =>
            {
                known.last = ports.last;
            }
            (_, ports) => self.traffic.push((protocol, ports)),
        }
    }

    fn traffic(&self) -> Vec<String> {
        let of = |(protocol, ports): &(&str, Option<Stretch>)| match ports {
            Some(ports) => format!("{protocol}{ports}"),
            None => (*protocol).to_owned(),
        };
        self.traffic.iter().map(of).collect()
    }
}

fn table(probes: &[Probe], answers: &[Answer]) -> String {
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
