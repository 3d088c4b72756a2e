//! The host task in a real network namespace: a slow `nft`, a deleted interface, the uplink. Needs root, as the agent does.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: a failure is to end the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use heddle_host::{HostConfig, HostHandle, HostLink, INTERFACE, Nft, Plan, Report, start};
use nix::sched::{CloneFlags, unshare};

const SOON: Duration = Duration::from_secs(10);

/// Runs in a network namespace of its own, which goes with its threads.
fn in_namespace(f: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs CAP_SYS_ADMIN");
        f();
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn ip(args: &[&str]) -> String {
    let out = Command::new("ip").args(args).output().unwrap();
    assert!(
        out.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

fn begin(state: &Path, nft: Nft) -> (HostHandle, HostLink, Receiver<Report>) {
    let (sender, reports) = mpsc::channel();
    let config = HostConfig {
        queues: 1,
        mtu: 1500,
        state_dir: state.to_owned(),
        reserved_ports: 61_000..=65_535,
        uplink: None,
        nft,
    };
    let (handle, link) = start(config, move |report| drop(sender.send(report))).unwrap();
    (handle, link, reports)
}

fn plan(address: &str) -> Plan {
    let address: IpAddr = address.parse().unwrap();
    Plan {
        addresses: BTreeSet::from([address]),
        routes: BTreeMap::from([("10.0.0.0/16".parse().unwrap(), address)]),
        mtu: 1400,
        ..Plan::default()
    }
}

/// Waits for a report of this kind; others are skipped.
fn next<T>(reports: &Receiver<Report>, mut pick: impl FnMut(Report) -> Option<T>) -> T {
    let until = Instant::now() + SOON;
    loop {
        let report = reports
            .recv_timeout(until.saturating_duration_since(Instant::now()))
            .unwrap();
        if let Some(picked) = pick(report) {
            return picked;
        }
    }
}

fn reconciled(report: Report) -> Option<(u64, Vec<String>)> {
    match report {
        Report::Reconciled { revision, failures } => {
            Some((revision, failures.iter().map(ToString::to_string).collect()))
        }
        _ => None,
    }
}

#[test]
fn an_nft_that_sleeps_delays_neither_a_deletion_nor_the_end() {
    in_namespace(|| {
        let state = tempfile::tempdir().unwrap();
        let slow = state.path().join("nft-that-sleeps");
        std::fs::write(&slow, "#!/bin/sh\nexec sleep 600\n").unwrap();
        std::fs::set_permissions(&slow, PermissionsExt::from_mode(0o755)).unwrap();
        let (handle, _, _reports) = begin(state.path(), Nft::new(&slow));
        ip(&["link", "add", "leftover", "type", "veth", "peer", "name", "leftoverp"]);
        handle.set_plan(1, plan("10.0.1.1"));
        let until = Instant::now() + SOON;
        while !ip(&["address", "show", "dev", INTERFACE]).contains("10.0.1.1") {
            assert!(Instant::now() < until, "the address is not there");
            std::thread::sleep(Duration::from_millis(10));
        }
        let (sender, deleted) = mpsc::channel();
        handle.delete_interface("leftover", move |result| drop(sender.send(result)));
        assert!(deleted.recv_timeout(Duration::from_secs(2)).unwrap().unwrap());
        assert_eq!(handle.status().revision, 0, "nft still runs");
        let before = Instant::now();
        assert!(handle.stop(Duration::from_secs(2)), "the task has not ended");
        assert!(before.elapsed() < Duration::from_secs(1));
    });
}

#[test]
fn the_newest_plan_is_applied_and_its_failures_are_reported() {
    in_namespace(|| {
        let state = tempfile::tempdir().unwrap();
        let (handle, _, reports) = begin(state.path(), Nft::default());
        for revision in 1..=20 {
            handle.set_plan(revision, plan(&format!("10.0.1.{revision}")));
        }
        let last = next(&reports, |report| {
            reconciled(report).filter(|(revision, _)| *revision == 20)
        });
        assert_eq!(last.1, Vec::<String>::new());
        let shown = ip(&["address", "show", "dev", INTERFACE]);
        assert!(
            shown.contains("10.0.1.20/32") && shown.matches("inet 10.").count() == 1,
            "{shown}"
        );
        assert!(shown.contains("mtu 1400"), "{shown}");
        assert!(handle.status().verified_at.is_some());

        let missing = state.path().join("no-such-nft");
        let (other, _, reports) = begin(state.path(), Nft::new(missing));
        other.set_plan(7, plan("10.0.1.20"));
        let (revision, failures) = next(&reports, reconciled);
        assert_eq!(revision, 7);
        assert!(
            failures.len() == 1 && failures[0].contains("install nftables"),
            "{failures:?}"
        );
        assert_eq!(other.status().differences, Some(failures));
        assert!(other.stop(SOON) && handle.stop(SOON));
    });
}

#[test]
fn a_deleted_pair_is_recreated_with_its_plan() {
    in_namespace(|| {
        let state = tempfile::tempdir().unwrap();
        let (handle, link, reports) = begin(state.path(), Nft::default());
        handle.set_plan(3, plan("10.0.1.1"));
        next(&reports, reconciled);
        ip(&["link", "del", INTERFACE]);
        let new = next(&reports, |report| match report {
            Report::Recreated(link) => Some(link),
            _ => None,
        });
        assert_ne!(new.index, link.index);
        assert_eq!(next(&reports, reconciled), (3, Vec::new()));
        assert!(ip(&["address", "show", "dev", INTERFACE]).contains("10.0.1.1"));
        assert_eq!(handle.status().link, Some(new));
    });
}

#[test]
fn the_uplink_is_reported_when_it_is_found_and_when_it_changes() {
    in_namespace(|| {
        let state = tempfile::tempdir().unwrap();
        let (handle, _, reports) = begin(state.path(), Nft::default());
        let uplink = |report| match report {
            Report::Uplink(uplink) => Some(uplink.map(|u| (u.name, u.mtu))),
            _ => None,
        };
        assert_eq!(next(&reports, uplink), None);
        ip(&["link", "add", "up0", "type", "bridge"]);
        ip(&["address", "add", "192.0.2.1/24", "dev", "up0"]);
        handle.set_node_addresses(vec!["192.0.2.1".parse().unwrap()]);
        assert_eq!(next(&reports, uplink), Some(("up0".to_owned(), 1500)));
        ip(&["link", "set", "up0", "mtu", "1300"]);
        assert_eq!(next(&reports, uplink), Some(("up0".to_owned(), 1300)));
        ip(&["link", "del", "up0"]);
        assert_eq!(next(&reports, uplink), None);
    });
}
