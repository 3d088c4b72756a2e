//! Requests of `heddle simulate` and their outcomes: reads the files, compiles the tables and answers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use heddle_config::{Config, ConfigError};
use heddle_model::{Event, Kind, ObjectKey, ObjectRef};
use heddle_source::decode::Decoded;
use heddle_source::manifest;
use serde::Serialize;

use super::cluster_tables::ClusterTables;
use super::end_syntax::{Destination, NamedEnd};
use super::explain::{Explanation, explain};
use super::explain_error::ExplainError;
use super::path;
use super::probe::{Answer, Probe, ProbeError};
use super::rules::Rules;
use super::what_if::{self, Difference};
use crate::cluster_source::{ClusterSource, ReadError};

/// A request that cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// The agents' configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cluster cannot be read.
    #[error(transparent)]
    Cluster(#[from] ReadError),
    /// The file of probes cannot be read.
    #[error("cannot read the probes {path:?}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file of probes is not valid.
    #[error("{path:?} is not a JSON array of probes: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// The file of objects to add or replace cannot be used.
    #[error("cannot use {path:?}: {message}")]
    WhatIf {
        /// The file.
        path: PathBuf,
        /// The cause.
        message: String,
    },
    /// An object to remove does not exist.
    #[error("there is no {0} that could be removed")]
    Absent(ObjectRef),
    /// A connection cannot be explained.
    #[error(transparent)]
    Explain(#[from] ExplainError),
    /// A probe cannot be answered.
    #[error("probe {id:?}: {source}")]
    Probe {
        /// The probe's identifier.
        id: String,
        /// The cause.
        source: ProbeError,
    },
}

/// The name of an object on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName(ObjectRef);

/// A text that is not the name of an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the name of an object that heddle reads: write NetworkPolicy/NAMESPACE/NAME or ClusterNetworkPolicy/NAME, for example"
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

/// A request: a question about a cluster.
#[derive(Clone, Debug)]
pub struct SimulateRequest {
    /// The place of the cluster's objects.
    pub cluster: ClusterSource,
    /// The question.
    pub question: Question,
    /// A file of objects to add or to replace.
    pub what_if: Option<PathBuf>,
    /// Objects to remove.
    pub without: Vec<ObjectName>,
    /// The agents' configuration file.
    pub config: Option<PathBuf>,
    /// The node where packets enter, for probes that name none.
    pub node: Option<String>,
}

/// The kinds of questions.
#[derive(Clone, Debug)]
pub enum Question {
    /// Answers for the probes of a file.
    Probes(PathBuf),
    /// An explanation of one connection.
    Connection {
        /// The source.
        from: NamedEnd,
        /// The destination with its port.
        to: Destination,
    },
    /// The pairs of pods whose traffic the changed objects affect.
    Differences,
}

/// The answer to a [`SimulateRequest`].
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The answer to [`Question::Probes`].
    Answers {
        /// The probes of the file.
        probes: Vec<Probe>,
        /// Their answers, in the same order.
        answers: Vec<Answer>,
    },
    /// The answer to [`Question::Connection`].
    Explanation(Box<Explanation>),
    /// The answer to [`Question::Connection`] with changed objects.
    Comparison(Box<Comparison>),
    /// The answer to [`Question::Differences`].
    Differences(Vec<Difference>),
}

/// The same connection, now and with changed objects.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The explanation with the objects as they are.
    pub now: Explanation,
    /// The explanation with the changed objects.
    pub then: Explanation,
}

/// Answers the probes of a file, explains one connection, or compares with changed objects. Calls `warn` with a message for each
/// refused object.
///
/// # Errors
/// A file cannot be read, a change cannot be applied, or a question cannot be answered.
pub fn run(request: &SimulateRequest, mut warn: impl FnMut(&str)) -> Result<Outcome, SimulateError> {
    let rules = match &request.config {
        Some(path) => Rules::from(&Config::read(path)?),
        None => Rules::default(),
    };
    let events = request.cluster.read()?;
    let mut tables = tables_of(&rules, &events);
    for rejection in tables.cluster().rejections() {
        warn(&format!("refused: {rejection}"));
    }
    let changes = request.what_if.is_some() || !request.without.is_empty();
    let mut then = match changes {
        true => Some(apply_changes(tables_of(&rules, &events), request)?),
        false => None,
    };
    let node = request.node.as_deref();
    Ok(match (&request.question, &mut then) {
        (Question::Probes(path), _) => {
            let probes = read(path)?;
            let answers = answers(&mut tables, &probes, node)?;
            Outcome::Answers { probes, answers }
        }
        (Question::Connection { from, to }, None) => {
            Outcome::Explanation(Box::new(explain(&mut tables, from, to, node)?))
        }
        (Question::Connection { from, to }, Some(then)) => Outcome::Comparison(Box::new(Comparison {
            now: explain(&mut tables, from, to, node)?,
            then: explain(then, from, to, node)?,
        })),
        (Question::Differences, Some(then)) => Outcome::Differences(what_if::differences(&mut tables, then)),
        (Question::Differences, None) => Outcome::Differences(Vec::new()),
    })
}

/// Returns the tables of a cluster with these objects.
fn tables_of(rules: &Rules, events: &[Event]) -> ClusterTables {
    let mut tables = ClusterTables::with_rules(rules.clone());
    for event in events {
        tables.apply_event(event.clone());
    }
    tables
}

/// Answers probes.
fn answers(tables: &mut ClusterTables, probes: &[Probe], node: Option<&str>) -> Result<Vec<Answer>, SimulateError> {
    let answer = |probe: &Probe| {
        path::answer(tables, probe, node).map_err(|source| SimulateError::Probe {
            id: probe.id.clone(),
            source,
        })
    };
    probes.iter().map(answer).collect()
}

/// Adds, replaces and removes the objects that the request names.
fn apply_changes(mut tables: ClusterTables, request: &SimulateRequest) -> Result<ClusterTables, SimulateError> {
    // Objects to add or replace: a refused one fails the request, because its effect is the question.
    if let Some(path) = &request.what_if {
        let wrong = |message: String| SimulateError::WhatIf {
            path: path.clone(),
            message,
        };
        let name = path.to_string_lossy();
        let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let entries = manifest::parse(&name, &text).map_err(|error| wrong(error.to_string()))?;
        if entries.is_empty() {
            return Err(wrong("the file contains no object".to_owned()));
        }
        for entry in entries {
            let object = match entry.decoded {
                Ok(Decoded::Object(object)) => object,
                Ok(Decoded::Partial(_, ignored)) => return Err(wrong(ignored.to_string())),
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
            tables.apply_event(Event::Upsert { origin, object });
            if let Some(rejection) = tables.cluster().rejections_of(&put).next() {
                return Err(wrong(rejection.to_string()));
            }
        }
    }
    // Objects to remove.
    for ObjectName(object) in &request.without {
        let before = tables.cluster().count(object.kind);
        tables.delete(object.clone());
        if tables.cluster().count(object.kind) == before {
            return Err(SimulateError::Absent(object.clone()));
        }
    }
    Ok(tables)
}

/// Reads a file of probes.
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
