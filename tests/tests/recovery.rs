//! Failures that end by themselves leave nothing broken: a pod's port that could not be opened, an ADD in the middle of a restart, and a
//! disk that was full.

mod common;

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use common::{binaries, wait_until};
use heddle_lab::shop::Shop;
use heddle_lab::{LabError, NodePlan, run, traffic};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Returns the attachment of a pod of the shop.
fn attachment<'a>(status: &'a Value, pod: &str) -> &'a Value {
    let all = status["attachments"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().find(|one| one["pod"]["name"] == pod).unwrap_or(&Value::Null)
}

#[test]
fn a_port_that_was_down_during_a_restart_forwards_once_it_is_up() -> Result<(), LabError> {
    let mut shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    let web = shop.member("web-1")?.attached.ip(false)?;
    let client = shop.member("client")?.pod.ns().clone();
    let interface = attachment(&shop.node.status()?, "client")["host_ifname"].clone();
    let interface = interface.as_str().unwrap_or_default().to_owned();
    shop.node.stop_agent(Signal::SIGTERM)?;
    shop.node.ns().run("ip", &["link", "set", &interface, "down"])?;
    shop.node.start_agent()?;

    let status = shop.node.status()?;
    let closed = attachment(&status, "client");
    assert!(
        closed["state"] == "closed" && closed["why"].as_str().is_some_and(|why| why.contains("is down")),
        "{closed}"
    );
    assert_eq!(traffic::ping(shop.member("db")?.pod.ns(), web, 2)?, 2);

    shop.node.ns().run("ip", &["link", "set", &interface, "up"])?;
    wait_until("the port is tried again", || {
        Ok(attachment(&shop.node.status()?, "client")["state"] == "forwarding")
    })?;
    assert_eq!(traffic::ping(&client, web, 3)?, 3);
    Ok(())
}

#[test]
fn an_add_that_spans_a_restart_succeeds_when_it_is_repeated() -> Result<(), LabError> {
    let mut shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    let web = shop.member("web-1")?.attached.ip(false)?;
    // Without its object the pod's ADD waits, with its port open.
    let pod = shop.lab.pod("shop", "late", &[("app", "any")])?;
    let first = std::thread::scope(|scope| {
        let add = scope.spawn(|| shop.node.cni("ADD", &pod, None));
        let waits = wait_until("ADD waits for the pod", || {
            Ok(attachment(&shop.node.status()?, "late")["state"] == "waiting")
        });
        let killed = waits.and_then(|()| {
            let pid = shop.node.agent().map_or(0, heddle_lab::Process::id);
            run("kill", &["-9", &pid.to_string()]).map(drop)
        });
        let added = add.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        killed.and(added)
    })?;
    assert!(!first.ok, "the agent was killed: {}", first.stdout);
    shop.node.stop_agent(Signal::SIGKILL)?;
    shop.node.start_agent()?;

    let added = shop.node.start_pod(&pod)?;
    assert_eq!(traffic::ping(pod.ns(), web, 3)?, 3);
    assert_eq!(traffic::ping(pod.ns(), added.ip(false)?, 1)?, 1);
    let status = shop.node.status()?;
    let ports = status["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let of_pod = ports.iter().filter(|port| port["name"] == "pod:shop/late").count();
    assert_eq!(
        (of_pod, &attachment(&status, "late")["state"]),
        (1, &Value::from("forwarding"))
    );
    Ok(())
}

/// Fills the file system of a folder. Removing the returned file makes room again.
fn fill(dir: &Path) -> Result<std::path::PathBuf, LabError> {
    let path = dir.join("filler");
    let mut file = File::create(&path).map_err(LabError::io("creating the filler"))?;
    loop {
        match file.write(&[b'x'; 4096]) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::StorageFull => return Ok(path),
            Err(e) => return Err(LabError::io("filling the disk")(e)),
        }
    }
}

#[test]
fn a_full_disk_stops_neither_del_nor_traffic_nor_a_restart() -> Result<(), LabError> {
    let mut shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    let state_dir = shop.node.state_dir();
    // Unmounted with the node.
    let dir = state_dir.display().to_string();
    run("mount", &["-t", "tmpfs", "-o", "size=256k", "heddle-test", &dir])?;
    shop.node.start_agent()?;
    for name in ["one", "two", "three"] {
        shop.add_pod(name, "any")?;
    }
    let to = shop.member("two")?.attached.ip(false)?;
    let filler = fill(&state_dir)?;

    // A new pod is refused, and its DEL succeeds; so does the DEL of another pod.
    let refused = shop.lab.pod("shop", "refused", &[("app", "any")])?;
    let add = shop.node.start_pod(&refused);
    assert!(
        add.as_ref().is_err_and(|e| e.to_string().contains("No space left")),
        "an address that is not on disk must not be handed out: {add:?}"
    );
    shop.node.end_pod(&refused)?;
    shop.node.end_pod(&shop.member("three")?.pod)?;
    let status = shop.node.status()?;
    assert_eq!(attachment(&status, "three"), &Value::Null);
    let not_kept = status["state_not_kept"].as_str().unwrap_or_default();
    assert!(not_kept.contains("No space left"), "{status}");
    assert_eq!(traffic::ping(shop.member("one")?.pod.ns(), to, 3)?, 3);

    // A restart works on the full disk, and leaves no marker that forbids the next one.
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        shop.node.stop_agent(signal)?;
        shop.node.start_agent()?;
        assert_eq!(traffic::ping(shop.member("one")?.pod.ns(), to, 3)?, 3);
        assert!(!state_dir.join("afxdp-test").exists());
    }

    // Its last change was lost by the kill. With room again, the state is written without a further change, and kept.
    shop.node.end_pod(&shop.member("one")?.pod)?;
    assert!(shop.node.status()?["state_not_kept"].is_string());
    fs::remove_file(&filler).map_err(LabError::io("removing the filler"))?;
    wait_until("the state is kept", || {
        Ok(shop.node.status()?["state_not_kept"].is_null())
    })?;
    shop.node.stop_agent(Signal::SIGKILL)?;
    shop.node.start_agent()?;
    assert_eq!(attachment(&shop.node.status()?, "one"), &Value::Null);
    shop.add_pod("four", "any")?;
    assert_eq!(traffic::ping(shop.member("four")?.pod.ns(), to, 3)?, 3);
    Ok(())
}
