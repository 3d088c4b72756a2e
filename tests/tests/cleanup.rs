//! `heddle cleanup` leaves nothing, and refuses while an agent runs.

mod common;

use std::fs;

use common::{binaries, wait_until};
use heddle_lab::shop::Shop;
use heddle_lab::{LabError, NodePlan};
use nix::sys::signal::Signal;

/// Links, addresses, routes, rules, neighbours, nftables, and the sysctl that heddle adds to.
fn everything_of(shop: &Shop) -> Result<String, LabError> {
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
fn nothing_is_left() -> Result<(), LabError> {
    let mut shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    // The node's own addresses settle by themselves (duplicate address detection takes a second).
    wait_until("the uplink is at rest", || {
        let state = shop.node.ns().run("ip", &["address"])?;
        Ok(!state.contains("tentative") && !state.contains("NO-CARRIER"))
    })?;
    let before = everything_of(&shop)?;
    shop.node.start_agent()?;
    for name in ["one", "two"] {
        shop.add_pod(name, "any")?;
    }
    assert_ne!(everything_of(&shop)?, before);

    let refused = shop.node.cleanup()?;
    let pid = shop
        .node
        .agent()
        .map(|agent| agent.id().to_string())
        .unwrap_or_default();
    assert!(
        !refused.ok && refused.stderr.contains(&pid),
        "it names the running agent: {}",
        refused.stderr
    );
    assert!(shop.node.status().is_ok(), "and leaves it running");

    shop.node.stop_agent(Signal::SIGKILL)?;
    let out = shop.node.cleanup()?;
    assert!(out.ok, "{}{}", out.stdout, out.stderr);
    assert_eq!(everything_of(&shop)?, before);
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(LabError::io("reading mountinfo"))?;
    assert!(!mounts.contains(&*shop.lab.dir().to_string_lossy()), "{mounts}");
    for dir in [shop.node.run_dir(), shop.node.state_dir()] {
        let left = fs::read_dir(&dir).map(|entries| entries.count()).unwrap_or(0);
        assert_eq!(left, 0, "in {}", dir.display());
    }
    let again = shop.node.cleanup()?;
    assert!(
        again.ok,
        "a second time there is nothing to do: {}{}",
        again.stdout, again.stderr
    );
    Ok(())
}
