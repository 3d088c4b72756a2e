//! `heddle status`: the kernel's counters of each port, and `--watch` until its reader goes away.

mod common;

use common::{binaries, follow, port, wait_until};
use heddle_lab::shop::Shop;
use heddle_lab::{LabError, NodePlan, traffic};
use serde_json::Value;

#[test]
fn status_shows_rings_bursts_and_sleeps() -> Result<(), LabError> {
    let mut shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    shop.node.start_agent()?;
    for name in ["one", "two"] {
        shop.add_pod(name, "any")?;
    }
    let to = shop.member("two")?.attached.ip(false)?;
    assert_eq!(traffic::ping(shop.member("one")?.pod.ns(), to, 5)?, 5);
    // On a busy machine several packets share a burst, so ten bursts may take more pings.
    wait_until("ten bursts are counted", || {
        traffic::ping(shop.member("one")?.pod.ns(), to, 1)?;
        let bursts = shop.node.status()?["workers"][0]["bursts"].clone();
        let counts = bursts.as_object().into_iter().flatten();
        Ok(counts.filter_map(|(_, count)| count.as_u64()).sum::<u64>() >= 10)
    })?;
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
    // The 64 frames of the fill ring sufficed, so the kernel dropped nothing.
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
fn status_watch_prints_rates_until_its_reader_goes_away() -> Result<(), LabError> {
    let mut shop = Shop::new(binaries()?, NodePlan::new("node", 1))?;
    shop.node.start_agent()?;
    shop.add_pod("one", "any")?;

    // Two rounds in the form for people. Then the pipe closes, and the command ends.
    let mut watch = follow(&shop.node, "status", &["--watch", "0.2"])?;
    let mut rounds = 0;
    while rounds < 2 {
        let line = watch.next_line()?;
        rounds += usize::from(line.starts_with("the last 0."));
    }
    watch.stop_reading();
    watch.exits_successfully()?;

    // JSON: one object for each line. The first one has no rates, because it has no predecessor. Ctrl-C ends it with status 0.
    let watch = follow(&shop.node, "status", &["--watch", "0.2", "--output", "json"])?;
    let looks: Vec<Value> = (0..3)
        .map(|_| {
            let line = watch.next_line()?;
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
    watch.interrupt()?;
    watch.exits_successfully()
}
