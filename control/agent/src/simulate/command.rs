//! What the command line reads and prints.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use heddle_source::folder;

use super::probe::{Answer, Probe, ProbeError};
use super::way;
use super::world::World;
use crate::cli::{OutputFormat, SimulateArgs};

/// Why `heddle simulate` does not answer.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The manifests cannot be read.
    #[error(transparent)]
    Folder(#[from] folder::FolderError),
    /// The file of probes cannot be read.
    #[error("cannot read the probes {path:?}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file of probes is not what it should be.
    #[error("{path:?} is no JSON array of probes: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A probe cannot be answered.
    #[error("probe {id:?}: {source}")]
    Probe {
        /// Which.
        id: String,
        /// Why.
        source: ProbeError,
    },
    /// The answers cannot be written down.
    #[error("writing the answers: {0}")]
    Write(#[from] serde_json::Error),
}

/// Answers the probes of a file; returns what to print on standard output. Refused objects are told to `warn`.
///
/// # Errors
/// Something cannot be read, or a probe cannot be answered.
pub fn run(args: &SimulateArgs, mut warn: impl FnMut(&str)) -> Result<String, SimulateError> {
    let mut world = World::new();
    for event in folder::read(&args.manifests)? {
        world.take(event);
    }
    for rejection in world.cluster().rejections() {
        warn(&format!("refused: {rejection}"));
    }
    let probes = read(&args.probes)?;
    let mut answers = Vec::with_capacity(probes.len());
    for probe in &probes {
        let answer = way::ask(&mut world, probe, args.node.as_deref());
        answers.push(answer.map_err(|source| SimulateError::Probe {
            id: probe.id.clone(),
            source,
        })?);
    }
    Ok(match args.output {
        OutputFormat::Json => serde_json::to_string_pretty(&answers)? + "\n",
        OutputFormat::Text => table(&probes, &answers),
    })
}

fn read(path: &Path) -> Result<Vec<Probe>, SimulateError> {
    let text = fs::read_to_string(path).map_err(|source| SimulateError::Read {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|source| SimulateError::Parse {
        path: path.to_owned(),
        source,
    })
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
            format!("{}{port}", probe.protocol.proto()),
            answer.verdict.as_str().to_owned(),
            answer.policy.clone(),
        ]);
    }
    format!("{table}\n")
}
