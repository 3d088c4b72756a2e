//! The state of the source of objects.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The source of objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// The kind: `manifests` or `kubernetes`.
    pub kind: String,
    /// The folder or the API server's address.
    pub from: String,
    /// Seconds since every kind of object was read for the first time. `None`: not yet, and nothing is published.
    pub synced_seconds: Option<u64>,
    /// Seconds since the source was last known to be current; grows while it cannot be reached.
    pub age_seconds: u64,
    /// Objects in the cluster model, by kind.
    #[serde(default)]
    pub objects: BTreeMap<String, u64>,
    /// The state of each kind that is followed at an API server; empty for a folder.
    #[serde(default)]
    pub kinds: BTreeMap<String, SourceKindStatus>,
    /// The writes to the API server that fail, by resource, with the reason and the remedy.
    #[serde(default)]
    pub write_faults: BTreeMap<String, String>,
}

/// A kind of objects that is followed at an API server.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SourceKindStatus {
    /// All its objects were listed once.
    pub synced: bool,
    /// The API server does not have the kind, for example because its CustomResourceDefinition is not installed.
    pub absent: bool,
    /// The fault that keeps it from being read now.
    pub error: Option<String>,
    /// The objects that the API server has.
    #[serde(default)]
    pub objects: u64,
    /// The objects that are refused, wholly or in part.
    #[serde(default)]
    pub rejected: u64,
    /// The number of times that reading it began again after a fault.
    pub reconnects: u64,
    /// `metadata.resourceVersion` of the last object.
    pub resource_version: String,
    /// Seconds since the API server answered last; `None`: not yet.
    pub age_seconds: Option<u64>,
    /// Seconds since an earlier agent saved the objects that are served, until the API server has listed its own.
    #[serde(default)]
    pub saved_seconds: Option<u64>,
}
