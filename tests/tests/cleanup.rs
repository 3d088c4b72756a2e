//! `heddle cleanup` removes everything that heddle made, and refuses while an agent runs.

mod common;

use std::fs;

use common::{binaries, wait_until};
use heddle_lab::shop::Shop;
use heddle_lab::{LabError, NodePlan};
use nix::sys::signal::Signal;

/// Returns the kernel state that heddle changes: links, addresses, routes, rules, nftables, and the reserved ports.
fn kernel_state(shop: &Shop) -> Result<String, LabError> {
    let ns = shop.node.ns();
    let mut all = String::new();
    for args in [
        &["-o", "link"][..],
        &["-o", "address"],
        &["-o", "route", "show", "table", "all"],
        &["-o", "-6", "route", "show", "table", "all"],
        &["rule"],
        &["-6", "rule"],
    ] {
        all.push_str(&ns.run("ip", args)?);
    }
    all.push_str(&ns.run("nft", &["list", "ruleset"])?);
    all.push_str(&ns.run("cat", &["/proc/sys/net/ipv4/ip_local_reserved_ports"])?);
    Ok(all)
}

#[test]
fn cleanup_restores_the_kernel_state_and_empties_the_folders() -> Result<(), LabError> {
    let mut shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    // Duplicate address detection of the node's own addresses takes a second, and its end changes their flags.
    wait_until("duplicate address detection on the uplink ends", || {
        let state = shop.node.ns().run("ip", &["address"])?;
        Ok(!state.contains("tentative") && !state.contains("NO-CARRIER"))
    })?;
    let before = kernel_state(&shop)?;
    shop.node.start_agent()?;
    for name in ["one", "two"] {
        shop.add_pod(name, "any")?;
    }
    assert_ne!(kernel_state(&shop)?, before);

    let refused = shop.node.cleanup()?;
    let pid = shop
        .node
        .agent()
        .map(|agent| agent.id().to_string())
        .unwrap_or_default();
    assert!(
        !refused.ok && refused.stderr.contains(&pid),
        "the error names the running agent: {}",
        refused.stderr
    );
    assert!(
        shop.node.status().is_ok(),
        "the refused cleanup leaves the agent running"
    );

    shop.node.stop_agent(Signal::SIGKILL)?;
    let out = shop.node.cleanup()?;
    assert!(out.ok, "{}{}", out.stdout, out.stderr);
    assert_eq!(kernel_state(&shop)?, before);
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(LabError::io("reading mountinfo"))?;
    assert!(!mounts.contains(&*shop.lab.dir().to_string_lossy()), "{mounts}");
    for dir in [shop.node.run_dir(), shop.node.state_dir()] {
        let left = fs::read_dir(&dir).map(|entries| entries.count()).unwrap_or(0);
        assert_eq!(left, 0, "in {}", dir.display());
    }
    let again = shop.node.cleanup()?;
    assert!(
        again.ok,
        "a second cleanup finds nothing to do and succeeds: {}{}",
        again.stdout, again.stderr
    );
    Ok(())
}
