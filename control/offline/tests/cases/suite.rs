//! The format of the files: suites, cases, steps and probes (`tests/cases/README.md`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use heddle_model::{Cause, Kind, ObjectKey, ObjectRef, Rejection};
use heddle_offline::simulate::{ClusterTables, Probe, Verdict, path};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
pub struct Suite {
    pub suite: String,
    pub cases: Vec<Case>,
}

#[derive(Deserialize)]
pub struct Case {
    pub id: String,
    pub node: Option<String>,
    #[serde(default)]
    objects: Vec<Value>,
    pub steps: Vec<Step>,
}

#[derive(Deserialize)]
pub struct Step {
    #[serde(default)]
    apply: Vec<Value>,
    #[serde(default)]
    delete: Vec<Value>,
    pub probes: Vec<ExpectedProbe>,
}

#[derive(Deserialize)]
pub struct ExpectedProbe {
    #[serde(flatten)]
    pub probe: Probe,
    pub expect: Expected,
}

#[derive(Deserialize)]
pub struct Expected {
    pub verdict: Verdict,
    pub backends: Option<BTreeSet<String>>,
    pub masquerade: Option<bool>,
}

impl Suite {
    /// Returns the number of probes in all cases.
    pub fn probes(&self) -> usize {
        let steps = self.cases.iter().flat_map(|case| &case.steps);
        steps.map(|step| step.probes.len()).sum()
    }
}

impl Case {
    /// Returns the tables at the start of the case.
    pub fn tables(&self) -> ClusterTables {
        let mut tables = ClusterTables::new();
        let origin: Arc<str> = self.id.as_str().into();
        for object in &self.objects {
            tables.apply(&origin, object);
        }
        tables
    }
}

impl Case {
    /// Returns the same tables as [`Self::tables`], after the objects have come in another order, some of them several times or
    /// with a deletion in between, and with tables that were compiled on the way. `None` if the order decides: two objects claim
    /// one address.
    pub fn tables_in_another_order(&self, seed: u64) -> Option<ClusterTables> {
        let is_conflict = |rejection: &Rejection| rejection.cause == Cause::Conflict;
        if self.tables().cluster().rejections().any(is_conflict) {
            return None;
        }
        let mut random = fastrand::Rng::with_seed(seed);
        let mut arrivals: Vec<&Value> = self.objects.iter().collect();
        arrivals.extend(self.objects.iter().filter(|_| random.bool()));
        random.shuffle(&mut arrivals);
        let mut tables = ClusterTables::new();
        let origin: Arc<str> = self.id.as_str().into();
        let mut absent: Vec<&Value> = Vec::new();
        let probes = self.steps.iter().flat_map(|step| &step.probes);
        let mut probes = probes.cycle();
        for object in arrivals {
            tables.apply(&origin, object);
            if random.u8(..) < 40 && is_read(object) {
                tables.delete(object_ref(object));
                absent.push(object);
            }
            // The answer is one of a cluster on its way; asking for it compiles the tables.
            if random.u8(..) < 40
                && let Some(ExpectedProbe { probe, .. }) = probes.next()
            {
                drop(path::answer(&mut tables, probe, self.node.as_deref()));
            }
        }
        absent.iter().for_each(|object| tables.apply(&origin, object));
        Some(tables)
    }
}

/// Returns true for an object of a kind that heddle reads.
fn is_read(object: &Value) -> bool {
    Kind::ALL.iter().any(|kind| object["kind"] == kind.as_str())
}

impl Step {
    /// Applies the step's changes to the tables.
    pub fn change(&self, tables: &mut ClusterTables) {
        let origin: Arc<str> = "step".into();
        for object in &self.apply {
            tables.apply(&origin, object);
        }
        for object in &self.delete {
            tables.delete(object_ref(object));
        }
    }
}

/// Returns the reference to an object in the form of the Kubernetes API.
fn object_ref(object: &Value) -> ObjectRef {
    let kind = object["kind"].as_str().unwrap_or_default();
    let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind);
    let kind = kind.unwrap_or_else(|| panic!("{object}: heddle does not read this kind"));
    let name = object["metadata"]["name"].as_str().expect("a name");
    let namespace = object["metadata"]["namespace"].as_str();
    ObjectRef::new(
        kind,
        match namespace {
            Some(namespace) if kind.is_namespaced() => ObjectKey::new(namespace, name),
            _ if kind.is_namespaced() => ObjectKey::new("default", name),
            _ => ObjectKey::cluster(name),
        },
    )
}

/// Returns the suites of all folders.
pub fn all() -> impl Iterator<Item = Suite> {
    folders().into_iter().flat_map(|folder| suites(&folder))
}

/// Returns the folders of suites.
fn folders() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![here.join("../../tests/cases")];
    match std::env::var_os("HEDDLE_CASES") {
        Some(folder) => folders.push(folder.into()),
        None => {
            let shared = here.join("../../../shared/cases");
            folders.extend(shared.is_dir().then_some(shared));
        }
    }
    folders
}

/// Reads the suites of a folder.
fn suites(folder: &Path) -> Vec<Suite> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    assert!(!files.is_empty(), "{} contains no cases", folder.display());
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a readable file");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    files.into_iter().map(read).collect()
}
