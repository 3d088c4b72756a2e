//! Real connections through ClusterIPs while endpoints come and go: no connection to a live endpoint is lost, and none reaches
//! a removed endpoint.

mod common;

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{BOUND, binaries, wait_until};
use heddle_lab::shop::{Shop, WEB_PORT, WEB_TARGET};
use heddle_lab::traffic::{HttpClient, ServerBehavior, TcpServer};
use heddle_lab::udp::UdpServer;
use heddle_lab::{LabError, NodePlan, manifests};
use serde_json::json;

const ROUNDS: usize = 40;
/// The least number of new connections meanwhile; an idle machine makes thousands.
const AT_LEAST: u64 = 1000;
const WEBS: [&str; 3] = ["web-1", "web-2", "web-3"];

/// The state of each web pod as an endpoint: `None` is absent, `Some(true)` ready, `Some(false)` terminating and serving.
type EndpointStates = [Option<bool>; 3];

fn publish(shop: &Shop, states: EndpointStates) -> Result<(), LabError> {
    let chosen: Vec<(&str, bool)> = WEBS
        .into_iter()
        .zip(states)
        .filter_map(|(w, c)| Some((w, c?)))
        .collect();
    for v6 in [false, true] {
        let mut endpoints = Vec::new();
        for (name, _) in &chosen {
            endpoints.push((shop.member(name)?.attached.ip(v6)?, *name));
        }
        let mut slice = manifests::endpoint_slice("shop", "web", v6, WEB_TARGET, &endpoints);
        for (n, (_, ready)) in chosen.iter().enumerate() {
            slice["endpoints"][n]["conditions"] = json!({"ready": ready, "serving": true, "terminating": !ready});
        }
        shop.node.apply(&slice)?;
    }
    let ready = 2 * chosen.iter().filter(|(_, ready)| *ready).count() as u64;
    wait_until("the tables have the endpoints", || {
        Ok(shop.node.status()?["tables"]["backends"].as_u64() == Some(ready))
    })
}

#[test]
fn no_connection_is_lost_while_endpoints_come_and_go() -> Result<(), LabError> {
    let mut shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    shop.add_pod("web-3", "web")?;
    let shop = shop;
    let mut servers = Vec::new();
    for name in WEBS {
        servers.push(TcpServer::start(
            shop.member(name)?.pod.ns(),
            WEB_TARGET,
            ServerBehavior::Http(name.to_owned()),
        )?);
    }
    publish(&shop, [Some(true); 3])?;
    let client = shop.member("client")?.pod.ns();
    // These connections stay open during the whole test; they reach every endpoint.
    let mut lasting = Vec::new();
    for n in 0..24 {
        let mut connection = HttpClient::connect(client, Shop::service(n % 2 == 1), BOUND)?;
        let at = connection.get()?;
        lasting.push((connection, at));
    }
    let reached: BTreeSet<&str> = lasting.iter().map(|(_, at)| at.as_str()).collect();
    assert_eq!(reached, BTreeSet::from(WEBS), "24 connections reach all three");

    let (done, made) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| -> Result<(), LabError> {
        let clients = [false, true].map(|v6| {
            let (done, made) = (&done, &made);
            scope.spawn(move || -> Result<(), LabError> {
                while !done.load(Ordering::Acquire) {
                    HttpClient::connect(client, Shop::service(v6), BOUND)?.get()?;
                    made.fetch_add(1, Ordering::AcqRel);
                }
                Ok(())
            })
        });
        let mut play = || -> Result<(), LabError> {
            for round in 0..ROUNDS {
                // One is absent, one terminates, one is ready, in turns. Every fourth round all are ready.
                let states = match round % 4 {
                    3 => [Some(true); 3],
                    at => std::array::from_fn(|n| match (n + at) % 3 {
                        0 => None,
                        1 => Some(false),
                        _ => Some(true),
                    }),
                };
                publish(&shop, states)?;
                for (connection, at) in &mut lasting {
                    assert_eq!(
                        connection.get()?,
                        *at,
                        "round {round}: a live connection stays where it is"
                    );
                }
            }
            wait_until("enough connections are made", || {
                Ok(made.load(Ordering::Acquire) >= AT_LEAST)
            })
        };
        let played = play();
        done.store(true, Ordering::Release);
        for client in clients {
            match client.join() {
                Ok(result) => result?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        played
    })?;
    println!("{} connections in {ROUNDS} rounds, none lost", made.into_inner());
    Ok(())
}

/// Measures the time from the file of a slice to the first new connection that reaches the new endpoint. An idle machine takes
/// 3 ms; two of them are the time that the manifest folder waits for further changes.
#[test]
fn a_new_endpoint_gets_connections_within_50_ms() -> Result<(), LabError> {
    const CHANGES: usize = 31;
    let shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    let names = ["web-1", "web-2"];
    let mut servers = Vec::new();
    for name in names {
        servers.push(UdpServer::sink(shop.member(name)?.pod.ns(), WEB_TARGET)?);
    }
    let mut service = manifests::service("shop", "web", &Shop::SERVICE_IPS, WEB_PORT, WEB_TARGET);
    service["spec"]["ports"] = json!([{"name": "main", "protocol": "UDP", "port": WEB_PORT, "targetPort": WEB_TARGET}]);
    shop.node.apply(&service)?;
    let publish = |name: &str| -> Result<(), LabError> {
        let endpoints = [(shop.member(name)?.attached.ip(false)?, name)];
        let mut slice = manifests::endpoint_slice("shop", "web", false, WEB_TARGET, &endpoints);
        slice["ports"] = json!([{"name": "main", "protocol": "UDP", "port": WEB_TARGET}]);
        shop.node.apply(&slice)
    };
    let client = shop.member("client")?.pod.ns();
    let done = AtomicBool::new(false);
    let mut times = std::thread::scope(|scope| -> Result<Vec<Duration>, LabError> {
        let asker = scope.spawn(|| {
            client.enter(|| {
                while !done.load(Ordering::Acquire) {
                    // A new socket is a new connection.
                    let socket = UdpSocket::bind("0.0.0.0:0").map_err(LabError::io("a UDP socket"))?;
                    // While the Service has no endpoint this fails with the answer to an earlier datagram.
                    let _ = socket.send_to(b"hello", Shop::service(false));
                    std::thread::sleep(Duration::from_micros(300));
                }
                Ok(())
            })
        });
        let play = || -> Result<Vec<Duration>, LabError> {
            let mut times = Vec::new();
            for n in 0..CHANGES {
                let to = &servers[n % 2];
                let before = to.received();
                let start = Instant::now();
                publish(names[n % 2])?;
                to.wait_for_total(before + 1, BOUND)?;
                times.push(start.elapsed());
                // Packets are handled in order: once more of them arrive here, none is under way to the previous endpoint,
                // where it would count for the next round.
                to.wait_for_total(before + 50, BOUND)?;
            }
            Ok(times)
        };
        let times = play();
        done.store(true, Ordering::Release);
        match asker.join() {
            Ok(result) => result?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        times
    })?;
    times.sort_unstable();
    let median = times[CHANGES / 2];
    println!("median {median:?}, most {:?}", times[CHANGES - 1]);
    assert!(median < Duration::from_millis(50), "{times:?}");
    Ok(())
}

#[test]
fn datagrams_stop_reaching_a_removed_endpoint() -> Result<(), LabError> {
    let shop = Shop::start(binaries()?, NodePlan::new("node", 1))?;
    let names = ["web-1", "web-2"];
    let mut servers = Vec::new();
    for name in names {
        servers.push(UdpServer::echo(shop.member(name)?.pod.ns(), WEB_TARGET)?);
    }
    let mut service = manifests::service("shop", "web", &Shop::SERVICE_IPS, WEB_PORT, WEB_TARGET);
    service["spec"]["ports"] = json!([{"name": "main", "protocol": "UDP", "port": WEB_PORT, "targetPort": WEB_TARGET}]);
    shop.node.apply(&service)?;
    let publish = |chosen: &[&str]| -> Result<(), LabError> {
        for v6 in [false, true] {
            let mut endpoints = Vec::new();
            for name in chosen {
                endpoints.push((shop.member(name)?.attached.ip(v6)?, *name));
            }
            let mut slice = manifests::endpoint_slice("shop", "web", v6, WEB_TARGET, &endpoints);
            slice["ports"] = json!([{"name": "main", "protocol": "UDP", "port": WEB_TARGET}]);
            shop.node.apply(&slice)?;
        }
        wait_until("the tables have the endpoints", || {
            Ok(shop.node.status()?["tables"]["backends"].as_u64() == Some(2 * chosen.len() as u64))
        })
    };
    publish(&names)?;
    for v6 in [false, true] {
        // One socket makes one flow, so its datagrams change endpoints only if the flow is removed.
        let socket = shop.member("client")?.pod.ns().enter(|| {
            let any = if v6 { "[::]:0" } else { "0.0.0.0:0" };
            let socket = UdpSocket::bind(any).map_err(LabError::io("a UDP socket"))?;
            socket.connect(Shop::service(v6)).map_err(LabError::io("connecting"))?;
            let short = Some(Duration::from_millis(200));
            socket.set_read_timeout(short).map_err(LabError::io("a read timeout"))?;
            Ok(socket)
        })?;
        let ask = || -> bool { socket.send(b"hello").is_ok() && socket.recv(&mut [0; 16]).is_ok() };
        wait_until("the Service answers", || Ok(ask()))?;
        let before: Vec<u64> = servers.iter().map(UdpServer::received).collect();
        for _ in 0..10 {
            ask();
        }
        let received: Vec<u64> = servers.iter().zip(before).map(|(s, b)| s.received() - b).collect();
        let at = received.iter().position(|n| *n > 0).unwrap_or_default();
        assert_eq!(
            received.iter().filter(|n| **n > 0).count(),
            1,
            "one flow, one endpoint: {received:?}"
        );
        let other = names[1 - at];
        publish(&[other])?;
        let before = servers[1 - at].received();
        wait_until("the datagrams go to the endpoint that is left", || {
            Ok(ask() && servers[1 - at].received() > before)
        })?;
        let before = servers[at].received();
        for _ in 0..10 {
            ask();
        }
        assert_eq!(
            servers[at].received(),
            before,
            "the removed endpoint receives nothing more"
        );
        // First no endpoint, then the removed one again: the old flow must not be used.
        publish(&[])?;
        publish(&[names[at]])?;
        let before = servers[at].received();
        wait_until("the datagrams go to the endpoint that came back", || {
            Ok(ask() && servers[at].received() > before)
        })?;
        publish(&names)?;
    }
    Ok(())
}
