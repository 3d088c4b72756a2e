//! The agent ends, by SIGTERM or SIGKILL, and the next one takes over: connections go on, and no packet passes in between.

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use common::{BOUND, SILENCE, binaries, wait_until};
use heddle_lab::shop::{Shop, WEB_TARGET};
use heddle_lab::traffic::{self, Conversation, ServerBehavior, Speaker, TcpServer};
use heddle_lab::{LabError, NodePlan, manifests};
use nix::sys::signal::Signal;

/// The port of the servers that speak first.
const SPEAKS_FIRST: u16 = 8081;
/// Service shop/talk, whose backends speak first.
const TALK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 81)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x81)),
];
/// The bound for connections to go on after the gap. TCP doubles the interval of its retransmissions, so the next one may be late.
const RESUME_BOUND: Duration = Duration::from_secs(15);

/// Makes Service shop/talk and waits until it answers.
fn open_talk(shop: &Shop) -> Result<(), LabError> {
    shop.node
        .apply(&manifests::service("shop", "talk", &TALK, SPEAKS_FIRST, SPEAKS_FIRST))?;
    let client = shop.member("client")?.pod.ns();
    for (v6, service) in [(false, TALK[0]), (true, TALK[1])] {
        let backend = [(shop.member("web-2")?.attached.ip(v6)?, "web-2")];
        shop.node
            .apply(&manifests::endpoint_slice("shop", "talk", v6, SPEAKS_FIRST, &backend))?;
        let to = SocketAddr::new(service, SPEAKS_FIRST);
        wait_until("Service shop/talk answers", || {
            Ok(traffic::tcp_request(client, to, "", BOUND)?.is_answered())
        })?;
    }
    Ok(())
}

/// Asserts that connections of both families, through pod and Service addresses, outlive an agent that ends by `signal`.
fn connections_outlive(signal: Signal) -> Result<(), LabError> {
    let mut shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    let addresses =
        |v6: bool| -> Result<_, LabError> { Ok([shop.member("web-1")?.at(v6, WEB_TARGET)?, Shop::service(v6)]) };
    let mut servers = Vec::new();
    for name in ["web-1", "web-2"] {
        let ns = shop.member(name)?.pod.ns();
        servers.push(TcpServer::start(ns, WEB_TARGET, ServerBehavior::Echo)?);
        servers.push(TcpServer::start(ns, SPEAKS_FIRST, ServerBehavior::SpeakFirst)?);
    }
    open_talk(&shop)?;
    let client = shop.member("client")?.pod.ns().clone();
    let mut talks = Vec::new();
    for v6 in [false, true] {
        for to in addresses(v6)? {
            talks.push(Conversation::start(&client, to, Speaker::Client)?);
        }
        let first = shop.member("web-2")?.at(v6, SPEAKS_FIRST)?;
        let through_service = SocketAddr::new(TALK[usize::from(v6)], SPEAKS_FIRST);
        for to in [first, through_service] {
            talks.push(Conversation::start(&client, to, Speaker::Server)?);
        }
    }
    for talk in &talks {
        talk.wait_for_rounds(5, BOUND)?;
    }
    let before = shop.node.status()?;
    let web = shop.member("web-1")?.attached.ip(false)?;

    shop.node.stop_agent(signal)?;
    assert_eq!(
        traffic::ping(&client, web, 1)?,
        0,
        "without an agent a pod's port is closed"
    );
    let stopped_at: Vec<u64> = talks.iter().map(Conversation::rounds).collect();
    assert!(
        talks[0].wait_for_rounds(1, SILENCE).is_err(),
        "without an agent no packet passes"
    );
    assert_eq!(talks.iter().map(Conversation::rounds).collect::<Vec<_>>(), stopped_at);

    shop.node.start_agent()?;
    for talk in &talks {
        talk.wait_for_rounds(20, RESUME_BOUND)?;
    }
    assert_eq!(traffic::ping(&client, web, 3)?, 3);
    let after = shop.node.status()?;
    assert!(
        after["flows"]["taken_over"].as_u64() >= Some(16),
        "eight connections in both directions: {:#}",
        after["flows"]
    );
    assert_eq!(
        after["agent"]["start"].as_u64(),
        before["agent"]["start"].as_u64().map(|n| n + 1)
    );
    assert_eq!(after["attachments"], before["attachments"]);
    for talk in talks {
        talk.finish()?;
    }
    Ok(())
}

#[test]
fn connections_outlive_an_agent_that_is_stopped() -> Result<(), LabError> {
    connections_outlive(Signal::SIGTERM)
}

#[test]
fn connections_outlive_an_agent_that_is_killed() -> Result<(), LabError> {
    connections_outlive(Signal::SIGKILL)
}

#[test]
fn a_ping_goes_on_after_a_restart() -> Result<(), LabError> {
    let mut shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    let web = shop.member("web-1")?.attached.ip(false)?;
    let client = shop.member("client")?.pod.ns().clone();
    let ping = client.spawn({
        let client = client.clone();
        move || traffic::ping(&client, web, 100)
    })?;
    shop.node.stop_agent(Signal::SIGKILL)?;
    shop.node.start_agent()?;
    let answered = match ping.join() {
        Ok(result) => result?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    assert!(
        (1..=100).contains(&answered),
        "{answered} of 100 over 5 s with one restart"
    );
    assert_eq!(traffic::ping(&client, web, 3)?, 3);
    Ok(())
}

#[test]
fn a_pod_that_ends_while_the_agent_is_away_is_gone_after_it() -> Result<(), LabError> {
    let mut shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    shop.node.stop_agent(Signal::SIGTERM)?;
    let away = shop.node.cni("DEL", &shop.member("db")?.pod, None)?;
    assert!(away.ok || away.stdout.contains("\"code\""), "{}", away.stdout);
    shop.node.start_agent()?;
    shop.node.end_pod(&shop.member("db")?.pod)?;
    let status = shop.node.status()?;
    assert_eq!(status["attachments"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        traffic::ping(
            shop.member("client")?.pod.ns(),
            shop.member("web-1")?.attached.ip(true)?,
            2
        )?,
        2
    );
    Ok(())
}
