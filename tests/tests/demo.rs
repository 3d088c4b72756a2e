//! `heddle demo` shows what it expects, and removes everything, after Ctrl-C too.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{binaries, wait_until};
use heddle_lab::{LabError, wait_for_exit};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// The longest that the demo may take, also on a busy machine.
const DEMO_BOUND: Duration = Duration::from_secs(120);

fn start() -> Result<Child, LabError> {
    Command::new(binaries()?.heddle)
        .arg("demo")
        // A group of its own, so that a signal reaches the demo and its agents, as Ctrl-C in a terminal does.
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(LabError::io("starting heddle demo"))
}

/// Returns the namespaces, folders and mounts of a demo.
fn leftovers(pid: u32) -> Vec<String> {
    let prefix = format!("hdt-{pid}-");
    let mut found: Vec<String> = fs::read_to_string("/proc/self/mountinfo")
        .unwrap_or_default()
        .lines()
        .filter(|line| line.contains(&prefix))
        .map(str::to_owned)
        .collect();
    for dir in ["/run/netns".into(), std::env::temp_dir()] {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.path().display().to_string());
        found.extend(names.filter(|name| name.contains(&prefix)));
    }
    found
}

/// Waits for the demo's end, and returns its status and its errors.
fn end(mut demo: Child) -> Result<(std::process::ExitStatus, String), LabError> {
    let status = wait_for_exit(&mut demo, DEMO_BOUND).map_err(LabError::io("waiting for heddle demo"))?;
    let Some(status) = status else {
        let _ = kill(Pid::from_raw(demo.id() as i32), Signal::SIGKILL);
        return Err(LabError::Timeout {
            what: "the end of heddle demo".to_owned(),
            seconds: DEMO_BOUND.as_secs(),
            detail: String::new(),
        });
    };
    let mut errors = String::new();
    if let Some(mut stderr) = demo.stderr.take() {
        stderr
            .read_to_string(&mut errors)
            .map_err(LabError::io("reading the demo's errors"))?;
    }
    Ok((status, errors))
}

#[test]
fn the_demo_succeeds_over_both_ways_between_nodes() -> Result<(), LabError> {
    let mut demo = start()?;
    let pid = demo.id();
    let mut text = String::new();
    demo.stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .map_err(LabError::io("reading the demo's output"))?;
    let (status, errors) = end(demo)?;
    assert!(status.success(), "{status}: {errors}\n{text}");
    for wanted in ["`tunnel: vxlan`", "`tunnel: none`", "All results are as expected."] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    // Two tables for each way, with a row for each pod, each node and each node's port.
    for source in ["a1", "a2", "a3", "b1", "b2", "b3", "node-1", "node-2"] {
        let row = format!("| {source} ");
        let rows = text.lines().filter(|line| {
            let line = line.trim_start();
            line.starts_with(&row) && line.matches("  -  ").count() == 1
        });
        assert_eq!(rows.count(), 4, "{source}: {text}");
    }
    assert_eq!(text.matches("| outside, by node-1:30080 ").count(), 4, "{text}");
    assert_eq!(text.matches("| outside, by node-2:30080 ").count(), 4, "{text}");
    assert_eq!(leftovers(pid), Vec::<String>::new());
    Ok(())
}

#[test]
fn ctrl_c_removes_everything() -> Result<(), LabError> {
    // In the first part, and while the two nodes' pods are probed.
    for moment in ["3. Which connections work", "6. Who reaches whom"] {
        let mut demo = start()?;
        let pid = demo.id();
        let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
        let reached = lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line.starts_with(moment));
        assert!(reached, "{moment}");
        killpg(Pid::from_raw(pid as i32), Signal::SIGINT).map_err(LabError::nix("interrupting the demo"))?;
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        let (status, errors) = end(demo)?;
        assert_eq!(status.code(), Some(1), "{rest:?}");
        assert!(errors.contains("interrupted"), "{errors}");
        wait_until("everything is removed", || Ok(leftovers(pid).is_empty()))?;
    }
    Ok(())
}
