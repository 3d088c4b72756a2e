//! `heddle status`: the kernel's view of each port, and `--watch` until nobody looks any more.

mod common;

use std::io::BufRead;

use common::{binaries, exits_successfully, follow, interrupt, port};
use heddle_lab::shop::Shop;
use heddle_lab::{LabError, NodePlan, traffic};
use serde_json::Value;

fn line(out: &mut impl BufRead) -> Result<String, LabError> {
    let mut line = String::new();
    out.read_line(&mut line)
        .map_err(LabError::io("reading heddle status"))?;
    Ok(line)
}

#[test]
fn rings_bursts_and_sleeps_are_shown() -> Result<(), LabError> {
    let mut shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    shop.node.start_agent()?;
    for name in ["one", "two"] {
        shop.add_pod(name, "any")?;
    }
    let to = shop.member("two")?.attached.ip(false)?;
    assert_eq!(traffic::ping(shop.member("one")?.pod.ns(), to, 5)?, 5);
    let status = shop.node.status()?;
    for name in ["pod:shop/one", "pod:shop/two", "host"] {
        let rings = &port(&status, name)["rings"];
        assert!(
            rings["fill"].as_u64().is_some_and(|fill| (32..=512).contains(&fill)),
            "{name}: {rings}"
        );
        assert!(
            rings["tx"] == 0 && rings["rx"].is_u64() && rings["completion"].is_u64(),
            "{name}: {rings}"
        );
    }
    // 64 frames were put into the ring, which nothing has emptied: the kernel has dropped nothing.
    let xsk = &port(&status, "pod:shop/one")["xsk"];
    assert!(xsk["rx_dropped"].is_null() && xsk["rx_ring_full"].is_null(), "{xsk}");
    let worker = &status["workers"][0];
    let bursts = worker["bursts"].as_object().cloned().unwrap_or_default();
    assert_eq!(bursts.keys().count(), 7, "{worker}");
    assert!(bursts.values().filter_map(Value::as_u64).sum::<u64>() >= 10, "{worker}");
    assert!(
        worker["sleeps"].as_u64() >= worker["wakeups"].as_u64() && worker["wakeups"].as_u64() > Some(0),
        "{worker}"
    );
    Ok(())
}

#[test]
fn watching_repeats_with_rates_until_nobody_reads() -> Result<(), LabError> {
    let mut shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    shop.node.start_agent()?;
    shop.add_pod("one", "any")?;

    // Two rounds for people; then the pipe is closed.
    let (child, mut out) = follow(&shop.node, "status", &["--watch", "0.2"])?;
    let mut rounds = 0;
    while rounds < 2 {
        let line = line(&mut out)?;
        assert!(!line.is_empty(), "it ended after {rounds} rounds");
        rounds += usize::from(line.starts_with("the last 0."));
    }
    drop(out);
    exits_successfully(child, "heddle status --watch")?;

    // JSON: one object a line; the first has no rates. Ctrl-C ends it in order.
    let (child, mut out) = follow(&shop.node, "status", &["--watch", "0.2", "--output", "json"])?;
    let looks: Vec<Value> = (0..3)
        .map(|_| {
            let line = line(&mut out)?;
            serde_json::from_str(&line).map_err(|e| LabError::Reply {
                what: "heddle status --watch".to_owned(),
                detail: format!("{e}: {line}"),
            })
        })
        .collect::<Result<_, LabError>>()?;
    assert!(
        looks[0]["rates"].is_null() && looks[0]["ports"].is_array(),
        "{}",
        looks[0]
    );
    for look in &looks[1..] {
        let rates = &look["rates"];
        assert!(rates["seconds"].as_f64() > Some(0.1), "{rates}");
        let ports = rates["ports"].as_array().cloned().unwrap_or_default();
        assert!(
            ports
                .iter()
                .any(|port| port["name"] == "pod:shop/one" && port["rx_pps"].is_number() && port["tx_bps"].is_number()),
            "{rates}"
        );
    }
    interrupt(&child)?;
    drop(out);
    exits_successfully(child, "heddle status --watch")
}
