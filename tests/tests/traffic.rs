//! Traffic between pods that the CNI plugin has attached to the agent: pod addresses, Services, policy, host and outside.

mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::{BOUND, SILENCE, binaries, drops, wait_until};
use heddle_lab::shop::{DB_PORT, Shop, WEB_PORT, WEB_TARGET};
use heddle_lab::traffic::{self, Conversation, ProbeOutcome, ServerBehavior, Speaker, TcpServer};
use heddle_lab::udp::UdpServer;
use heddle_lab::{LabError, NodePlan, manifests};
use serde_json::json;

fn shop(workers: &str) -> Result<Shop, LabError> {
    let mut plan = NodePlan::new("node", 1);
    plan.cores = workers.to_owned();
    Shop::start(binaries()?, plan)
}

/// Asserts who reaches whom, in both families, and compares every byte of a bulk transfer in each.
fn check_reachability(shop: &Shop) -> Result<(), LabError> {
    let (web, client, db) = (shop.member("web-1")?, shop.member("client")?, shop.member("db")?);
    let _servers = [
        TcpServer::start(web.pod.ns(), WEB_TARGET, ServerBehavior::Greet("web-1".to_owned()))?,
        TcpServer::start(
            shop.member("web-2")?.pod.ns(),
            WEB_TARGET,
            ServerBehavior::Greet("web-2".to_owned()),
        )?,
        TcpServer::start(db.pod.ns(), DB_PORT, ServerBehavior::Greet("db".to_owned()))?,
        TcpServer::start(client.pod.ns(), 9000, ServerBehavior::Greet("client".to_owned()))?,
        TcpServer::start(shop.node.ns(), 9001, ServerBehavior::Greet("node".to_owned()))?,
        TcpServer::start(shop.lab.outside(), 9002, ServerBehavior::Greet("outside".to_owned()))?,
    ];
    let yes = |name: &str| ProbeOutcome::Answered(name.to_owned());
    for v6 in [false, true] {
        let ask = |from, to| traffic::tcp_request(from, to, "", BOUND);
        assert_eq!(traffic::ping(client.pod.ns(), web.attached.ip(v6)?, 3)?, 3);
        assert_eq!(ask(client.pod.ns(), web.at(v6, WEB_TARGET)?)?, yes("web-1"));

        let mut names = BTreeSet::new();
        for _ in 0..32 {
            names.insert(ask(client.pod.ns(), Shop::service(v6))?);
        }
        assert_eq!(
            names,
            BTreeSet::from([yes("web-1"), yes("web-2")]),
            "exactly the two backends answer"
        );
        for _ in 0..16 {
            assert!(
                ask(web.pod.ns(), Shop::service(v6))?.is_answered(),
                "a backend reaches its own Service, itself included"
            );
        }
        let no_such_port = SocketAddr::new(Shop::service(v6).ip(), WEB_PORT + 1);
        assert_eq!(ask(client.pod.ns(), no_such_port)?, ProbeOutcome::Refused);

        assert_eq!(ask(web.pod.ns(), db.at(v6, DB_PORT)?)?, yes("db"));
        assert_eq!(
            traffic::tcp_request(client.pod.ns(), db.at(v6, DB_PORT)?, "", SILENCE)?,
            ProbeOutcome::NoAnswer
        );
        assert_eq!(
            traffic::ping(client.pod.ns(), db.attached.ip(v6)?, 1)?,
            0,
            "the policy allows TCP 5432 alone"
        );

        let node = shop.node.internal_ips()[usize::from(v6)];
        assert_eq!(ask(client.pod.ns(), SocketAddr::new(node, 9001))?, yes("node"));
        assert_eq!(ask(db.pod.ns(), SocketAddr::new(node, 9001))?, yes("node"));
        assert_eq!(ask(shop.node.ns(), client.at(v6, 9000)?)?, yes("client"));
        assert_eq!(
            ask(shop.node.ns(), db.at(v6, DB_PORT)?)?,
            yes("db"),
            "a node always reaches its own pods"
        );
        for _ in 0..8 {
            assert!(ask(shop.node.ns(), Shop::service(v6))?.is_answered());
        }
        let outside = shop.lab.outside_ips()[usize::from(v6)];
        assert_eq!(ask(client.pod.ns(), SocketAddr::new(outside, 9002))?, yes("outside"));
    }
    traffic::bulk(client.pod.ns(), web.pod.ns(), web.at(false, 5001)?, 5001, 64 << 20)?;
    traffic::bulk(web.pod.ns(), client.pod.ns(), client.at(true, 5001)?, 5001, 64 << 20)?;
    Ok(())
}

/// A UDP server that is bound to no address answers from the one that the kernel chooses for the client's address.
#[test]
fn a_pod_reaches_its_own_udp_service() -> Result<(), LabError> {
    let shop = shop("0")?;
    let web = shop.member("web-1")?;
    let _server = UdpServer::echo(web.pod.ns(), WEB_TARGET)?;
    let addresses = [
        IpAddr::from([10, 96, 0, 90]),
        IpAddr::from([0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x90]),
    ];
    let mut service = manifests::service("shop", "own", &addresses, WEB_PORT, WEB_TARGET);
    service["spec"]["ports"][0]["protocol"] = json!("UDP");
    for v6 in [false, true] {
        let mut slice = manifests::endpoint_slice("shop", "own", v6, WEB_TARGET, &[(web.attached.ip(v6)?, "web-1")]);
        slice["ports"][0]["protocol"] = json!("UDP");
        shop.node.apply(&slice)?;
    }
    shop.node.apply(&service)?;
    for address in addresses {
        let to = SocketAddr::new(address, WEB_PORT);
        wait_until("the pod's own Service answers", || {
            let answer = traffic::udp_request(web.pod.ns(), to, b"hello", SILENCE)?;
            Ok(answer == ProbeOutcome::Answered("hello".to_owned()))
        })?;
    }
    Ok(())
}

#[test]
fn one_worker_forwards_all_traffic() -> Result<(), LabError> {
    let shop = shop("0")?;
    check_reachability(&shop)?;
    let status = shop.node.status()?;
    assert!(
        drops(&status, "pod:shop/client", "policy") > 0,
        "the forbidden attempts are counted where they came in: {status:#}"
    );
    assert_eq!(status["rejections_total"], 0);
    Ok(())
}

#[test]
fn two_workers_forward_all_traffic_and_hand_packets_over() -> Result<(), LabError> {
    let shop = shop("0,1")?;
    check_reachability(&shop)?;
    let status = shop.node.status()?;
    let handed: u64 = status["workers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|w| w["handed_over"].as_u64())
        .sum();
    assert!(
        handed > 0,
        "with two workers some packets change hands: {:#}",
        status["workers"]
    );
    Ok(())
}

#[test]
fn a_policy_change_stops_a_live_connection_and_no_other() -> Result<(), LabError> {
    let shop = shop("0")?;
    let (web, client) = (shop.member("web-1")?, shop.member("client")?);
    let _echo = TcpServer::start(web.pod.ns(), WEB_TARGET, ServerBehavior::Echo)?;
    let _other = TcpServer::start(client.pod.ns(), 9000, ServerBehavior::Echo)?;
    let stopped = Conversation::start(client.pod.ns(), web.at(false, WEB_TARGET)?, Speaker::Client)?;
    let goes_on = Conversation::start(web.pod.ns(), client.at(false, 9000)?, Speaker::Client)?;
    stopped.wait_for_rounds(5, BOUND)?;

    let policy = manifests::allow_only("shop", "nobody-to-web", ("app", "web"), ("app", "nobody"), WEB_TARGET);
    shop.node.apply(&policy)?;
    wait_until("the live connection stops", || {
        Ok(stopped.wait_for_rounds(1, SILENCE).is_err())
    })?;
    goes_on.wait_for_rounds(20, BOUND)?;

    shop.node.delete(&policy)?;
    // TCP retransmits, and the flow is revalidated.
    stopped.wait_for_rounds(5, Duration::from_secs(15))?;
    goes_on.wait_for_rounds(5, BOUND)?;
    stopped.finish()?;
    goes_on.finish()?;
    Ok(())
}

#[test]
fn a_label_change_opens_and_closes_access() -> Result<(), LabError> {
    let mut shop = shop("0")?;
    let _server = TcpServer::start(
        shop.member("db")?.pod.ns(),
        DB_PORT,
        ServerBehavior::Greet("db".to_owned()),
    )?;
    let to = shop.member("db")?.at(false, DB_PORT)?;
    assert_eq!(
        traffic::tcp_request(shop.member("client")?.pod.ns(), to, "", SILENCE)?,
        ProbeOutcome::NoAnswer
    );
    shop.relabel("client", "web")?;
    let client = shop.member("client")?.pod.ns().clone();
    wait_until("the new label opens", || {
        Ok(traffic::tcp_request(&client, to, "", SILENCE)?.is_answered())
    })?;
    shop.relabel("client", "client")?;
    wait_until("the old label closes", || {
        Ok(traffic::tcp_request(&client, to, "", SILENCE)? == ProbeOutcome::NoAnswer)
    })
}

#[test]
fn a_pod_cannot_use_the_address_of_another() -> Result<(), LabError> {
    let shop = shop("0")?;
    let (web, client, db) = (shop.member("web-1")?, shop.member("client")?, shop.member("db")?);
    // The client adds web-1's address to its own, because the database's policy allows web-1.
    for v6 in [false, true] {
        let stolen = web.attached.ip(v6)?;
        let length = if v6 { 128 } else { 32 };
        client
            .pod
            .ns()
            .run("ip", &["address", "add", &format!("{stolen}/{length}"), "dev", "eth0"])?;
        let source = stolen.to_string();
        let to = db.attached.ip(v6)?.to_string();
        let out = client.pod.ns().enter(|| {
            heddle_lab::run_with_input(
                std::process::Command::new("ping").args(["-n", "-c", "2", "-i", "0.1", "-W", "1", "-I", &source, &to]),
                "",
            )
        })?;
        assert!(!out.ok, "{}", out.stdout);
    }
    wait_until("the spoofed packets are counted", || {
        Ok(drops(&shop.node.status()?, "pod:shop/client", "spoof") >= 2)
    })
}
