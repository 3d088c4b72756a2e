//! The container image: the same input gives the same digest, and an agent runs from its files alone.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{BOUND, binaries, wait_until};
use heddle_lab::{Lab, LabError, NodePlan, Process, run, run_with_input};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The largest archive. With the packages of Debian 12 and the profile `e2e` it has 14 MB.
const MOST_BYTES: u64 = 20_000_000;

/// Builds the image and returns the archive's bytes.
fn build(archive: &Path) -> Result<Vec<u8>, LabError> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/image.sh");
    let binaries = binaries()?;
    let mut command = Command::new(script);
    command.arg(&binaries.heddle).arg(&binaries.cni).arg(archive);
    let out = run_with_input(&mut command, "")?;
    assert!(out.ok, "{}{}", out.stdout, out.stderr);
    common::report(out.stdout.trim());
    fs::read(archive).map_err(LabError::io("reading the archive"))
}

/// Reads a file as JSON.
fn json(path: &Path) -> Result<Value, LabError> {
    let failed = |e| LabError::io(format!("reading {}", path.display()))(e);
    let text = fs::read(path).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|e| failed(e.into()))
}

/// Reads a blob that a descriptor names, as JSON.
fn blob(layout: &Path, descriptor: &Value) -> Result<Value, LabError> {
    json(&blob_path(layout, descriptor))
}

fn blob_path(layout: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().unwrap_or_default();
    layout.join("blobs").join(digest.replace(':', "/"))
}

/// Unpacks an archive into a folder, with the files of the image under `root`.
fn unpack(archive: &Path, folder: &Path) -> Result<PathBuf, LabError> {
    let (layout, root) = (folder.join("layout"), folder.join("root"));
    for dir in [&layout, &root] {
        fs::create_dir(dir).map_err(LabError::io("creating a folder"))?;
    }
    let tar = |file: &Path, to: &Path| {
        let (file, to) = (file.display().to_string(), to.display().to_string());
        run("tar", &["--extract", "--file", &file, "--directory", &to])
    };
    tar(archive, &layout)?;
    let index = json(&layout.join("index.json"))?;
    let manifest = blob(&layout, &index["manifests"][0])?;
    let config = blob(&layout, &manifest["config"])?;
    assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/heddle");
    tar(&blob_path(&layout, &manifest["layers"][0]), &root)?;
    Ok(root)
}

#[test]
fn the_image_is_reproducible_and_small_and_an_agent_runs_from_it() -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let archive = lab.dir().join("image.tar");
    let first = build(&archive)?;
    assert!(first.len() as u64 <= MOST_BYTES, "{}", first.len());
    let second = build(&lab.dir().join("again.tar"))?;
    assert!(first == second, "the same input gives the same archive");
    let root = unpack(&archive, lab.dir())?;

    // An agent with no other file of the machine than the kernel's, its directories and its folder of manifests.
    let node = lab.node(NodePlan::new("node", 1))?;
    let at = |path: &str| root.join(path).display().to_string();
    let folder = node.run_dir().parent().map(Path::to_path_buf).unwrap_or_default();
    let folder = folder.display().to_string();
    let script = format!(
        "set -e; mkdir -p {inside}{folder} {proc} {sys} {run}/heddle-netns {dev}; mount --rbind {folder} {inside}{folder}; \
         mount --rbind /proc {proc}; mount --rbind /sys {sys}; mount --rbind /dev {dev}; exec chroot {inside} /usr/bin/heddle \"$@\"",
        inside = root.display(),
        proc = at("proc"),
        sys = at("sys"),
        dev = at("dev"),
        run = at("run"),
    );
    let state = node.state_dir();
    let contained = |args: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, "heddle"]).args(args);
        command.arg("--state-dir").arg(&state);
        command
    };
    let out = node.ns().enter(|| run_with_input(&mut contained(&["check"]), ""))?;
    assert!(
        out.ok && out.stdout.contains("nftables v"),
        "{}{}",
        out.stdout,
        out.stderr
    );
    let mut command = contained(&["run", "--node", "node", "--cores", "0"]);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.arg("--run-dir").arg(node.run_dir());
    command.arg("--manifests").arg(node.manifests());
    let mut agent = Process::start(node.ns(), "heddle run from the image", &mut command, &node.log())?;
    wait_until("the agent is ready", || {
        if agent.exit_status()?.is_some() {
            return Err(LabError::Reply {
                what: "the agent from the image".to_owned(),
                detail: agent.log_tail(20),
            });
        }
        Ok(node.status().is_ok_and(|status| status["host"]["works"] == true))
    })?;
    let ended = agent.stop(Signal::SIGTERM, BOUND)?;
    assert!(ended.success(), "{ended}: {}", agent.log_tail(20));
    Ok(())
}
