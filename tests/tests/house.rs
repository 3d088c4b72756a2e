//! The rules of the layout: which crate may depend on which, and where `unsafe`, foreign crates and changes of the
//! kernel's state may stand. ARCHITECTURE.md gives the reasons.

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

/// For each crate of the workspace the crates of the workspace that it may use outside of its tests.
const MAY_USE: &[(&str, &[&str])] = &[
    // Below everything: identifiers, and headers.
    ("ids", &[]),
    ("wire", &[]),
    // The dataplane.
    ("port", &["ids", "wire"]),
    ("tables", &["ids", "wire"]),
    ("flow", &["ids", "wire"]),
    ("engine", &["ids", "wire", "port", "tables", "flow"]),
    ("linux", &["ids", "wire"]),
    ("io", &["ids", "wire", "port", "linux"]),
    // The control plane.
    ("model", &["wire"]),
    ("source", &["model"]),
    ("compile", &["ids", "wire", "tables", "model"]),
    (
        "config",
        &["ids", "wire", "port", "tables", "flow", "engine", "model", "proto"],
    ),
    ("proto", &["ids", "wire"]),
    ("host", &["ids", "wire", "linux", "model", "tables", "config"]),
    (
        "agent",
        &[
            "ids", "wire", "port", "tables", "flow", "engine", "io", "model", "source", "compile", "config", "proto",
            "host",
        ],
    ),
    (
        "offline",
        &[
            "ids", "wire", "port", "tables", "flow", "engine", "model", "source", "compile", "config",
        ],
    ),
    ("cli", &["wire", "model", "config", "proto", "agent", "offline", "lab"]),
    ("cni", &["wire", "linux", "proto"]),
    // Measurements and tests.
    ("lab", &["wire", "linux"]),
    (
        "bench",
        &[
            "ids", "wire", "port", "tables", "flow", "engine", "io", "linux", "lab", "model", "source", "compile",
        ],
    ),
    ("tests", &["wire", "lab"]),
    ("cluster", &["lab"]),
];

/// Crates that another crate must not reach, over however many others.
const NEVER_REACHES: &[(&str, &[&str])] = &[
    ("offline", &["agent", "host", "io", "linux", "cli"]),
    ("agent", &["cli", "offline"]),
    ("compile", &["engine", "flow", "io", "linux", "source"]),
    ("cni", &["agent", "engine", "io", "tests", "lab"]),
];

/// Crates from outside that only some crates of the workspace may name.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("kube", &["source"]),
    ("k8s-openapi", &["source"]),
    ("xsk-rs", &["io"]),
    ("libbpf-rs", &["io"]),
    ("libxdp-sys", &["io"]),
    ("libbpf-sys", &["io"]),
    ("clap", &["config", "cli", "bench", "cluster"]),
    ("comfy-table", &["cli"]),
];

/// Where `unsafe` may stand, as paths below the workspace.
const UNSAFE_IN: &[&str] = &[
    "dataplane/port/",
    "dataplane/io/",
    "dataplane/linux/",
    "dataplane/flow/",
    "dataplane/tables/src/publish",
    "dataplane/wire/src/simd",
];

/// Code that changes the node's network state, and the folders whose `src` may contain it. `io` has a network namespace
/// of its own for its anchor and for its trial.
const CHANGES_THE_NETWORK: &[&str] = &[
    "Command::new(\"nft\")",
    "Command::new(\"ip\")",
    "Command::new(\"sysctl\")",
    "Command::new(\"ethtool\")",
    "\"/proc/sys/net/",
    "rtnetlink",
    "netlink_packet_route",
];
const MAY_CHANGE_THE_NETWORK: &[&str] = &["control/host/", "cni/", "dataplane/linux/", "dataplane/io/"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
        .to_owned()
}

/// Returns, for each crate of the workspace, the names of its normal and build dependencies. The workspace's own crates
/// go by their names without `heddle-`, foreign ones by their full names.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let short = |name: &Value| {
        let name = name.as_str().expect("name");
        name.strip_prefix("heddle-").unwrap_or(name).to_owned()
    };
    packages
        .iter()
        .map(|package| {
            let needs = package["dependencies"].as_array().expect("dependencies").iter();
            let names = needs
                .filter(|d| d["kind"].as_str() != Some("dev"))
                .map(|d| short(&d["name"]));
            (short(&package["name"]), names.collect())
        })
        .collect()
}

/// Returns every crate of the workspace that `name` depends on, directly or over others.
fn reached<'a>(dependencies: &'a BTreeMap<String, BTreeSet<String>>, name: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open = vec![name];
    while let Some(next) = open.pop() {
        for need in dependencies.get(next).into_iter().flatten() {
            if dependencies.contains_key(need) && reached.insert(need.as_str()) {
                open.push(need);
            }
        }
    }
    reached
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

fn assert_none(broken: &[String], what_to_do: &str) {
    assert!(broken.is_empty(), "{}\n{what_to_do}", broken.join("\n"));
}

#[test]
fn crates_use_only_what_they_may() {
    let mut broken = Vec::new();
    for (name, needs) in &dependencies() {
        let Some((_, may)) = MAY_USE.iter().find(|(listed, _)| listed == name) else {
            broken.push(format!("heddle-{name} has no line in MAY_USE"));
            continue;
        };
        for need in needs {
            let is_ours = MAY_USE.iter().any(|(listed, _)| listed == need);
            if is_ours && !may.contains(&need.as_str()) {
                broken.push(format!("heddle-{name} uses heddle-{need}"));
            }
        }
    }
    assert_none(
        &broken,
        "Move the code that needs the dependency up, or the type that both need down (often to heddle-ids or \
         heddle-wire). If the layout itself is to change, change MAY_USE in tests/tests/house.rs and the map in \
         ARCHITECTURE.md in the same commit. A new crate gets a line in both.",
    );
}

#[test]
fn crates_never_reach_what_they_must_not() {
    let dependencies = dependencies();
    let mut broken = Vec::new();
    for (name, never) in NEVER_REACHES {
        let reached = reached(&dependencies, name);
        for other in never.iter().filter(|other| reached.contains(*other)) {
            broken.push(format!("heddle-{name} reaches heddle-{other}"));
        }
    }
    assert_none(
        &broken,
        "`cargo tree --locked -e no-dev -p CRATE -i OTHER` shows the way. Cut it where a lower crate began to depend \
         on a higher one.",
    );
}

#[test]
fn foreign_crates_stay_behind_their_wrappers() {
    let mut broken = Vec::new();
    for (name, needs) in &dependencies() {
        for (foreign, only) in ONLY_IN {
            if needs.contains(*foreign) && !only.contains(&name.as_str()) {
                broken.push(format!(
                    "heddle-{name} uses {foreign}; only heddle-{} may",
                    only.join(", heddle-")
                ));
            }
        }
    }
    assert_none(
        &broken,
        "Add what is missing to the crate that wraps the foreign one, and use that.",
    );
}

/// Returns the places, as `path:line`, where `matches` finds something in the code (not the comments) of a Rust file
/// below one of `parts`; files below `excepted` are skipped.
fn places(parts: &[&str], excepted: &[&str], matches: impl Fn(&str) -> bool) -> Vec<String> {
    let root = root();
    let mut files = Vec::new();
    for part in parts {
        rust_files(&root.join(part), &mut files);
    }
    assert!(
        files.len() > 50,
        "only {} Rust files found below {}",
        files.len(),
        root.display()
    );
    let mut found = Vec::new();
    for file in files {
        let below = file.strip_prefix(&root).expect("below the root").display().to_string();
        if excepted.iter().any(|place| below.starts_with(place)) || below == "tests/tests/house.rs" {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a source file");
        for (number, line) in text.lines().enumerate() {
            if matches(line.split("//").next().unwrap_or_default()) {
                found.push(format!("{below}:{}", number + 1));
            }
        }
    }
    found
}

#[test]
fn only_the_host_crate_and_the_plugin_change_the_network() {
    let changes = |code: &str| CHANGES_THE_NETWORK.iter().any(|change| code.contains(change));
    let mut broken = places(&["dataplane", "control", "cni"], MAY_CHANGE_THE_NETWORK, changes);
    // Tests prepare their own namespaces.
    broken.retain(|place| place.contains("/src/"));
    assert_none(
        &broken,
        "Put the change into control/host, where it is planned from the objects and repaired when others undo it; \
         heddle-linux has the calls.",
    );
}

#[test]
fn unsafe_stands_only_where_it_may() {
    // Texts do not count: etcd has a flag of this name.
    let has_unsafe = |code: &str| {
        let outside_of_texts = code.split('"').step_by(2);
        outside_of_texts
            .flat_map(|part| part.split(|c: char| !c.is_alphanumeric() && c != '_'))
            .any(|word| word == "unsafe")
    };
    let broken = places(
        &["dataplane", "control", "cni", "bench", "tests"],
        UNSAFE_IN,
        has_unsafe,
    );
    assert_none(
        &broken,
        "Use a safe wrapper (rustix, nix, heddle-linux), or put the unsafe code behind a safe function of one of the \
         crates in UNSAFE_IN, with a SAFETY comment.",
    );
}
