//! The conformance cases: every file of `$HEDDLE_CASES` (by default `../shared/cases` beside the repository, where it is
//! there) and of the project's own `tests/cases`, step by step through the code of `heddle simulate`.
//!
//! - A case **waits** when its objects or steps hold something that heddle does not serve yet: see [`waits_for`]. It is
//!   asked all the same and counted; what it answers decides nothing.
//! - An **exception** is a case that we hold to be wrong, with the sentence of the API that it contradicts: see
//!   [`EXCEPTIONS`]. One that passes fails the test, so that the list stays true.
//! - Every other case must pass. None is left out.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test: a failure is to end it, and the counts are for the reader"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use heddle_agent::simulate::{Probe, Verdict, World, way};
use heddle_model::{Kind, ObjectKey, ObjectRef};
use serde::Deserialize;
use serde_json::Value;

/// Cases that contradict the API, by id, with the sentence.
const EXCEPTIONS: &[(&str, &str)] = &[];

#[derive(Deserialize)]
struct Suite {
    suite: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    node: Option<String>,
    #[serde(default)]
    objects: Vec<Value>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    #[serde(default)]
    apply: Vec<Value>,
    #[serde(default)]
    delete: Vec<Value>,
    probes: Vec<Asked>,
}

#[derive(Deserialize)]
struct Asked {
    #[serde(flatten)]
    probe: Probe,
    expect: Expected,
}

#[derive(Deserialize)]
struct Expected {
    verdict: Verdict,
    backends: Option<BTreeSet<String>>,
    masquerade: Option<bool>,
}

/// What a case waits for, if anything: Services that are reached by more than their cluster addresses.
fn waits_for(case: &Case) -> Option<&'static str> {
    let applied = case.steps.iter().flat_map(|step| &step.apply);
    let services = case
        .objects
        .iter()
        .chain(applied)
        .filter(|object| object["kind"] == "Service");
    services
        .map(|service| &service["spec"])
        .find_map(|spec| match spec["type"].as_str() {
            Some("NodePort") => Some("node ports"),
            Some("LoadBalancer") => Some("load balancers' addresses"),
            _ => spec.get("externalIPs").map(|_| "external addresses"),
        })
}

fn own_cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases")
}

fn folders() -> Vec<PathBuf> {
    let mut folders = vec![own_cases()];
    match std::env::var_os("HEDDLE_CASES") {
        Some(folder) => folders.push(folder.into()),
        None => {
            let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/cases");
            folders.extend(shared.is_dir().then_some(shared));
        }
    }
    folders
}

fn suites(folder: &Path) -> Vec<Suite> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    assert!(!files.is_empty(), "{} holds no cases", folder.display());
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a readable file");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    files.into_iter().map(read).collect()
}

fn object_ref(object: &Value) -> ObjectRef {
    let kind = object["kind"].as_str().unwrap_or_default();
    let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind);
    let kind = kind.unwrap_or_else(|| panic!("{object}: heddle reads no such kind"));
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

/// What differs from what is expected, a line each; and how many probes there were.
fn play(case: &Case) -> (Vec<String>, usize) {
    let origin: Arc<str> = case.id.as_str().into();
    let mut world = World::new();
    let (mut differences, mut asked) = (Vec::new(), 0);
    for object in &case.objects {
        world.apply(&origin, object);
    }
    for (number, step) in case.steps.iter().enumerate() {
        for object in &step.apply {
            world.apply(&origin, object);
        }
        for object in &step.delete {
            world.delete(object_ref(object));
        }
        for Asked { probe, expect } in &step.probes {
            asked += 1;
            let at = format!("{} step {number} {}", case.id, probe.id);
            match way::ask(&mut world, probe, case.node.as_deref()) {
                Err(error) => differences.push(format!("{at}: {error}")),
                Ok(answer) => {
                    let backends: BTreeSet<String> = answer.backends.iter().cloned().collect();
                    let same = answer.verdict == expect.verdict
                        && expect.backends.as_ref().is_none_or(|wanted| *wanted == backends)
                        && expect.masquerade.is_none_or(|wanted| wanted == answer.masquerade);
                    if !same {
                        differences.push(format!(
                            "{at}: {} -> {} {:?} {:?}: {} {:?} {}, expected {} {:?} {:?} ({})",
                            probe.src,
                            probe.dst,
                            probe.protocol,
                            probe.port,
                            answer.verdict.as_str(),
                            backends,
                            answer.masquerade,
                            expect.verdict.as_str(),
                            expect.backends,
                            expect.masquerade,
                            answer.policy,
                        ));
                    }
                }
            }
        }
    }
    (differences, asked)
}

#[test]
fn the_cases_are_answered_as_expected() {
    let mut failures = Vec::new();
    let mut excepted = BTreeSet::new();
    for suite in folders().iter().flat_map(|folder| suites(folder)) {
        let (mut good, mut probes, mut waiting, mut early) = (0, 0, 0, 0);
        for case in &suite.cases {
            let (differences, asked) = play(case);
            probes += asked;
            if let Some(what) = waits_for(case) {
                waiting += 1;
                early += usize::from(differences.is_empty());
                println!(
                    "waits for {what}: {} ({} of {asked} probes differ)",
                    case.id,
                    differences.len()
                );
            } else if let Some((id, sentence)) = EXCEPTIONS.iter().find(|(id, _)| *id == case.id) {
                excepted.insert(*id);
                println!("an exception: {id}: {sentence}");
                if differences.is_empty() {
                    failures.push(format!("{id} passes: take it from the exceptions"));
                }
            } else {
                good += usize::from(differences.is_empty());
                failures.extend(differences);
            }
        }
        println!(
            "{}: {} cases, {probes} probes: {good} pass, {waiting} wait (of which {early} pass already)",
            suite.suite,
            suite.cases.len()
        );
    }
    // Someone who has no other suites than ours meets only the exceptions that they have.
    println!("exceptions met: {}", excepted.len());
    assert!(
        failures.is_empty(),
        "{} differences:\n{}",
        failures.len(),
        failures.join("\n")
    );
}
