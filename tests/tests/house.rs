//! The walls of the house: who may depend on whom, and where `unsafe` and foreign names may stand.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a failure is to end the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// For each crate of ours the crates of ours that it may name outside of its tests.
const MAY_USE: &[(&str, &[&str])] = &[
    ("heddle-wire", &[]),
    ("heddle-port", &[]),
    ("heddle-tables", &["wire", "port"]),
    ("heddle-flow", &["wire", "tables"]),
    ("heddle-engine", &["port", "tables", "flow", "wire"]),
    ("heddle-io", &["port", "wire"]),
    ("heddle-model", &["wire"]),
    ("heddle-source", &["model"]),
    ("heddle-compile", &["model", "tables", "wire", "port"]),
    ("heddle-proto", &["wire"]),
    ("heddle-cni", &["proto", "wire"]),
    ("heddle-lab", &[]),
    ("heddle-tests", &[]),
];

/// Crates from outside that only some of ours may name.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("kube", &["heddle-source"]),
    ("k8s-openapi", &["heddle-source"]),
    ("xsk-rs", &["heddle-io"]),
    ("libbpf-rs", &["heddle-io"]),
    ("libxdp-sys", &["heddle-io"]),
    ("libbpf-sys", &["heddle-io"]),
];

/// Where `unsafe` may stand, as paths below the workspace.
const UNSAFE_IN: &[&str] = &[
    "dataplane/port/",
    "dataplane/io/",
    "dataplane/flow/",
    "dataplane/tables/src/publish",
    "dataplane/wire/src/simd",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
        .to_owned()
}

/// Crate → the names of its normal and build dependencies.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let needs = package["dependencies"].as_array().expect("dependencies").iter();
            let names = needs
                .filter(|d| d["kind"].as_str() != Some("dev"))
                .map(|d| d["name"].as_str().expect("name").to_owned());
            (package["name"].as_str().expect("name").to_owned(), names.collect())
        })
        .collect()
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder of the workspace").flatten() {
        let path = entry.path();
        if path.is_dir() {
            if entry.file_name() != "target" {
                rust_files(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn crates_use_only_what_they_may() {
    let dependencies = dependencies();
    let mut broken = Vec::new();
    for (name, may) in MAY_USE {
        let needs = dependencies
            .get(*name)
            .unwrap_or_else(|| panic!("{name} is not in the workspace"));
        for need in needs.iter().filter_map(|need| need.strip_prefix("heddle-")) {
            if !may.contains(&need) {
                broken.push(format!("{name} uses heddle-{need}"));
            }
        }
    }
    for (name, needs) in &dependencies {
        for (foreign, only) in ONLY_IN {
            if needs.contains(*foreign) && !only.contains(&name.as_str()) {
                broken.push(format!("{name} uses {foreign}"));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}

#[test]
fn unsafe_stands_only_where_it_may() {
    let root = root();
    let mut files = Vec::new();
    for part in ["dataplane", "control", "cni", "bench", "tests"] {
        rust_files(&root.join(part), &mut files);
    }
    assert!(
        files.len() > 50,
        "only {} Rust files found below {}",
        files.len(),
        root.display()
    );
    let mut broken = Vec::new();
    for file in files {
        let below = file.strip_prefix(&root).expect("below the root").display().to_string();
        if UNSAFE_IN.iter().any(|place| below.starts_with(place)) || below == "tests/tests/house.rs" {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a source file");
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if code
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|word| word == "unsafe")
            {
                broken.push(format!("{below}:{}", number + 1));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}
