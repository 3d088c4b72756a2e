//! What the command line reads and prints.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use comfy_table::{Table, presets};
use heddle_model::{Event, Kind, ObjectKey, ObjectRef};
use heddle_source::decode::Decoded;
use heddle_source::{folder, manifest};
use serde::Serialize;

use super::explain::{ExplainError, Explanation, explain};
use super::probe::{Answer, Probe, ProbeError};
use super::way;
use super::what_if::{self, Difference, Stretch};
use super::world::{Rules, World};
use crate::cli::{OutputFormat, SimulateArgs};
use crate::config::{Config, ConfigError};

/// Why `heddle simulate` does not answer.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The agents' configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
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
    /// A file of objects to put in cannot be used.
    #[error("cannot use {path:?}: {message}")]
    WhatIf {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// An object to take away is not there.
    #[error("there is no {0} that could be taken away")]
    Absent(ObjectRef),
    /// A connection cannot be explained.
    #[error(transparent)]
    Explain(#[from] ExplainError),
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

/// An object as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName(ObjectRef);

/// A text that names no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no object that heddle reads: write NetworkPolicy/NAMESPACE/NAME or ClusterNetworkPolicy/NAME, for example"
)]
pub struct ObjectNameError(String);

impl FromStr for ObjectName {
    type Err = ObjectNameError;

    fn from_str(text: &str) -> Result<Self, ObjectNameError> {
        let wrong = || ObjectNameError(text.to_owned());
        let parts: Vec<&str> = text.split('/').collect();
        let kind = Kind::ALL
            .into_iter()
            .find(|kind| {
                parts
                    .first()
                    .is_some_and(|first| first.eq_ignore_ascii_case(kind.as_str()))
            })
            .ok_or_else(wrong)?;
        match parts[..] {
            [_, namespace, name] if kind.is_namespaced() && !namespace.is_empty() && !name.is_empty() => {
                Ok(Self(ObjectRef::new(kind, ObjectKey::new(namespace, name))))
            }
            [_, name] if !kind.is_namespaced() && !name.is_empty() => {
                Ok(Self(ObjectRef::new(kind, ObjectKey::cluster(name))))
            }
            _ => Err(wrong()),
        }
    }
}

/// The same connection, now and with other objects.
#[derive(Debug, Serialize)]
struct Compared {
    now: Explanation,
    then: Explanation,
}

/// Answers the probes of a file, explains one connection, or compares with other objects; returns what to print on
/// standard output. Refused objects are told to `warn`.
///
/// # Errors
/// Something cannot be read, or a probe cannot be answered.
pub fn run(args: &SimulateArgs, mut warn: impl FnMut(&str)) -> Result<String, SimulateError> {
    let rules = match &args.config {
        Some(path) => Rules::from(&Config::read(path)?),
        None => Rules::default(),
    };
    let events = folder::read(&args.manifests)?;
    let mut world = filled(&rules, &events);
    for rejection in world.cluster().rejections() {
        warn(&format!("refused: {rejection}"));
    }
    let changes = args.what_if.is_some() || !args.without.is_empty();
    let mut then = match changes {
        true => Some(changed(filled(&rules, &events), args)?),
        false => None,
    };
    let node = args.node.as_deref();
    match (&args.probes, &args.from, &args.to, &mut then) {
        (Some(path), ..) => {
            let probes = read(path)?;
            let answers = answers(&mut world, &probes, node)?;
            print(args.output, &answers, || table(&probes, &answers))
        }
        (None, Some(from), Some(to), None) => {
            let explanation = explain(&mut world, from, to, node)?;
            print(args.output, &explanation, || explanation.to_string())
        }
        (None, Some(from), Some(to), Some(then)) => {
            let compared = Compared {
                now: explain(&mut world, from, to, node)?,
                then: explain(then, from, to, node)?,
            };
            print(args.output, &compared, || {
                format!("now:  {}then: {}", compared.now, compared.then)
            })
        }
        (.., Some(then)) => {
            let found = what_if::differences(&mut world, then);
            print(args.output, &found, || changes_table(&found))
        }
        // The command line asks for one of them.
        (.., None) => Ok(String::new()),
    }
}

fn filled(rules: &Rules, events: &[Event]) -> World {
    let mut world = World::by(rules.clone());
    for event in events {
        world.take(event.clone());
    }
    world
}

fn answers(world: &mut World, probes: &[Probe], node: Option<&str>) -> Result<Vec<Answer>, SimulateError> {
    let answer = |probe: &Probe| {
        way::ask(world, probe, node).map_err(|source| SimulateError::Probe {
            id: probe.id.clone(),
            source,
        })
    };
    probes.iter().map(answer).collect()
}

fn print<T: Serialize>(
    format: OutputFormat,
    value: &T,
    text: impl FnOnce() -> String,
) -> Result<String, SimulateError> {
    Ok(match format {
        OutputFormat::Json => serde_json::to_string_pretty(value)? + "\n",
        OutputFormat::Text => text(),
    })
}

/// Puts objects in and takes others out.
fn changed(mut world: World, args: &SimulateArgs) -> Result<World, SimulateError> {
    if let Some(path) = &args.what_if {
        let wrong = |message: String| SimulateError::WhatIf {
            path: path.clone(),
            message,
        };
        let name = path.to_string_lossy();
        let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let entries = manifest::parse(&name, &text).map_err(|error| wrong(error.to_string()))?;
        if entries.is_empty() {
            return Err(wrong("it holds no object".to_owned()));
        }
        for entry in entries {
            let object = match entry.decoded {
                Ok(Decoded::Object(object)) => object,
                Ok(Decoded::Other(kind)) => return Err(wrong(format!("heddle does not read {kind}"))),
                Err(refusal) => {
                    let what = refusal
                        .object
                        .as_ref()
                        .map(|object| format!("{object}: "))
                        .unwrap_or_default();
                    return Err(wrong(format!("{what}{refusal}")));
                }
            };
            let put = object.object_ref();
            let origin = Arc::from(&*name);
            world.take(Event::Upsert { origin, object });
            if let Some(rejection) = world.cluster().rejections_of(&put).next() {
                return Err(wrong(rejection.to_string()));
            }
        }
    }
    for ObjectName(object) in &args.without {
        let before = world.cluster().count(object.kind);
        world.delete(object.clone());
        if world.cluster().count(object.kind) == before {
            return Err(SimulateError::Absent(object.clone()));
        }
    }
    Ok(world)
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
            format!("{}{port}", probe.protocol.as_str()),
            answer.verdict.as_str().to_owned(),
            answer.policy.clone(),
        ]);
    }
    format!("{table}\n")
}
