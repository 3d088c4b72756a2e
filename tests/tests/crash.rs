//! The agent is killed repeatedly while thousands of connections open. The next agent takes over the flow table: no
//! half-written entry is served, live connections go on, and no entry of the table is lost for good.

mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::{BOUND, ask_json, binaries, wait_until};
use heddle_lab::shop::{Shop, WEB_PORT, WEB_TARGET};
use heddle_lab::traffic::{Conversation, ServerBehavior, Speaker, TcpServer};
use heddle_lab::udp::UdpServer;
use heddle_lab::{Lab, LabError, NetNs, NodePlan, bind_when_free, manifests};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The connections that the table has room for; each takes two entries.
const CAPACITY: u64 = 32_000;
/// The number of agents that are killed, and the least number of connections that open before each kill.
const ROUNDS: u64 = 5;
const EACH: u64 = 1000;
const DNS: u16 = 53;
const DNS_TARGET: u16 = 5353;
/// Service shop/mixed: TCP and UDP to both web pods.
const MIXED: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 82)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x82)),
];
const WEBS: [&str; 2] = ["web-1", "web-2"];

/// Starts the shop with two workers and a small table, and adds Service shop/mixed. One pod may use nearly all of the table.
fn start_shop() -> Result<Shop, LabError> {
    let lab = Lab::new(binaries()?)?;
    let config = lab.dir().join("small-table.yaml");
    let text = format!(
        "connections: {CAPACITY}\nconnectionsPerPod: {CAPACITY}\nconnectionsPerNamespace: {CAPACITY}\n\
         connectionsReservedForNode: 0\n"
    );
    std::fs::write(&config, text).map_err(LabError::io("writing small-table.yaml"))?;
    let mut plan = NodePlan::new("node", 1);
    plan.cores = "0,1".to_owned();
    plan.flags = vec!["--config".to_owned(), config.display().to_string()];
    let shop = Shop::start_in(lab, plan)?;
    let mut service = manifests::service("shop", "mixed", &MIXED, WEB_PORT, WEB_TARGET);
    service["spec"]["ports"] = json!([
        {"name": "main", "protocol": "TCP", "port": WEB_PORT, "targetPort": WEB_TARGET},
        {"name": "dns", "protocol": "UDP", "port": DNS, "targetPort": DNS_TARGET},
    ]);
    shop.node.apply(&service)?;
    for v6 in [false, true] {
        let mut endpoints = Vec::new();
        for name in WEBS {
            endpoints.push((shop.member(name)?.attached.ip(v6)?, name));
        }
        let mut slice = manifests::endpoint_slice("shop", "mixed", v6, WEB_TARGET, &endpoints);
        slice["ports"] = json!([
            {"name": "main", "protocol": "TCP", "port": WEB_TARGET},
            {"name": "dns", "protocol": "UDP", "port": DNS_TARGET},
        ]);
        shop.node.apply(&slice)?;
    }
    // Shop/web has four backends, shop/mixed has eight.
    wait_until("the tables have the endpoints", || {
        Ok(shop.node.status()?["tables"]["backends"].as_u64() == Some(12))
    })?;
    Ok(shop)
}

/// The gate in front of the threads that open connections, and the count of their connections.
#[derive(Default)]
struct Openers {
    phase: Mutex<Phase>,
    changed: Condvar,
    opened: AtomicU64,
}

/// The state of the gate.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Threads wait.
    #[default]
    Closed,
    /// Threads open connections.
    Open,
    /// Threads end.
    Done,
}

impl Openers {
    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        *self.lock() = phase;
        self.changed.notify_all();
    }

    /// Waits while the gate is closed. Returns false when the thread has to end.
    fn wait_for_turn(&self) -> bool {
        let waited = self.changed.wait_while(self.lock(), |phase| *phase == Phase::Closed);
        *waited.unwrap_or_else(PoisonError::into_inner) == Phase::Open
    }

    fn count(&self) {
        self.opened.fetch_add(1, Ordering::AcqRel);
    }
}

/// Opens a UDP connection from each source port, with one datagram each.
fn open_udp(client: &NetNs, to: SocketAddr, openers: &Openers) -> Result<(), LabError> {
    client.enter(|| {
        let (any, ports): (IpAddr, _) = if to.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED.into(), 10_000..20_000)
        } else {
            (Ipv6Addr::UNSPECIFIED.into(), 20_000..30_000)
        };
        for port in ports.cycle() {
            if !openers.wait_for_turn() {
                break;
            }
            let socket = bind_when_free(&format!("UDP port {port}"), || UdpSocket::bind((any, port)))?;
            if socket.send_to(b"word", to).is_ok() {
                openers.count();
            }
            // Paces the thread to what the workers take.
            if port % 16 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    })
}

/// Opens TCP connections one after another, and closes each at once.
fn open_tcp(client: &NetNs, to: SocketAddr, openers: &Openers) -> Result<(), LabError> {
    client.enter(|| {
        while openers.wait_for_turn() {
            // A connection that the kill cuts off fails after 50 ms.
            if TcpStream::connect_timeout(&to, Duration::from_millis(50)).is_ok() {
                openers.count();
            }
            // Paces the thread to what the workers take.
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    })
}

fn flow_count(shop: &Shop, key: &str) -> Result<u64, LabError> {
    Ok(shop.node.status()?["flows"][key].as_u64().unwrap_or_default())
}

/// Returns the number of listed connections, and asserts that each is one that was made: from the client, through Service
/// shop/mixed, to a web pod's target port.
fn count_listed(shop: &Shop) -> Result<u64, LabError> {
    let answer = ask_json(&shop.node, "flows", &["--service", "shop/mixed"])?;
    let flows = answer["flows"].as_array().cloned().unwrap_or_default();
    let mut ids = BTreeSet::new();
    for flow in &flows {
        assert!(ids.insert(flow["id"].to_string()), "listed twice: {flow:#}");
        assert_eq!(flow["client"]["pod"]["name"], "client", "{flow:#}");
        let (port, target) = match flow["protocol"].as_str() {
            Some("TCP") => (WEB_PORT, WEB_TARGET),
            Some("UDP") => (DNS, DNS_TARGET),
            _ => {
                return Err(LabError::Reply {
                    what: "heddle flows".to_owned(),
                    detail: format!("neither TCP nor UDP: {flow:#}"),
                });
            }
        };
        let v6 = flow["client"]["address"].as_str().is_some_and(|a| a.contains(':'));
        assert_eq!(flow["frontend"]["address"], json!(MIXED[usize::from(v6)]), "{flow:#}");
        assert_eq!(flow["frontend"]["port"], port, "{flow:#}");
        let server = flow["server"]["pod"]["name"].as_str().unwrap_or_default();
        assert!(WEBS.contains(&server), "{flow:#}");
        assert_eq!(flow["server"]["address"], json!(shop.member(server)?.attached.ip(v6)?));
        assert_eq!(flow["server"]["port"], target, "{flow:#}");
        assert_eq!(flow["translated_source"], Value::Null, "{flow:#}");
    }
    Ok(ids.len() as u64)
}

#[test]
fn an_agent_killed_among_thousands_of_new_connections_loses_no_entry() -> Result<(), LabError> {
    let mut shop = start_shop()?;
    let mut servers = Vec::new();
    let mut echoes = Vec::new();
    for name in WEBS {
        let ns = shop.member(name)?.pod.ns();
        servers.push(TcpServer::start(ns, WEB_TARGET, ServerBehavior::Echo)?);
        echoes.push(UdpServer::echo(ns, DNS_TARGET)?);
    }
    let client = shop.member("client")?.pod.ns().clone();
    let mut talks = Vec::new();
    for n in 0..8 {
        let to = SocketAddr::new(MIXED[n % 2], WEB_PORT);
        talks.push(Conversation::start(&client, to, Speaker::Client)?);
    }
    let openers = Openers::default();
    std::thread::scope(|scope| -> Result<(), LabError> {
        let threads = MIXED.map(|ip| {
            let (openers, client) = (&openers, &client);
            [
                scope.spawn(move || open_udp(client, (ip, DNS).into(), openers)),
                scope.spawn(move || open_tcp(client, (ip, WEB_PORT).into(), openers)),
            ]
        });
        let mut play = || -> Result<(), LabError> {
            for round in 0..ROUNDS {
                openers.set(Phase::Open);
                wait_until(
                    "connections are made",
                    || Ok(flow_count(&shop, "inserted")? >= 2 * EACH),
                )?;
                let stood = flow_count(&shop, "used")?;
                shop.node.stop_agent(Signal::SIGKILL)?;
                openers.set(Phase::Closed);
                shop.node.start_agent()?;
                let flows = shop.node.status()?["flows"].clone();
                // Each worker was in the middle of at most one insert or removal, of two entries. All other entries are taken over,
                // except a few that expired meanwhile.
                assert!(flows["discarded"].as_u64() <= Some(2 * 2), "round {round}: {flows:#}");
                assert!(
                    flows["taken_over"].as_u64() >= Some(stood - stood / 100),
                    "round {round}: {stood} entries stood, and {flows:#}"
                );
                for talk in &talks {
                    talk.wait_for_rounds(3, Duration::from_secs(15))?;
                }
            }
            Ok(())
        };
        let played = play();
        openers.set(Phase::Done);
        for opener in threads.into_iter().flatten() {
            match opener.join() {
                Ok(result) => result?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        played
    })?;
    let opened = openers.opened.into_inner();
    assert!(opened >= ROUNDS * EACH, "{opened} connections");
    wait_until("the listed connections are the used entries", || {
        let used = flow_count(&shop, "used")?;
        let all = ask_json(&shop.node, "flows", &[])?["flows"]
            .as_array()
            .map_or(0, Vec::len);
        Ok(used == 2 * all as u64 && used == flow_count(&shop, "used")?)
    })?;
    let kept = count_listed(&shop)?;

    // Another pod fills the rest of the table to the last entry, with a datagram to each of many ports.
    let to = shop.member("web-1")?.attached.ip(false)?;
    let filler = shop.member("db")?.pod.ns();
    let full = |shop: &Shop| -> Result<bool, LabError> {
        let flows = &shop.node.status()?["flows"];
        // The pods of the namespace together may fill the table, and no more.
        Ok(flows["used"] == flows["capacity"] && flows["refused_quota"].as_u64() > Some(0))
    };
    assert_eq!(flow_count(&shop, "capacity")?, 2 * CAPACITY);
    wait_until("the table is full", || {
        filler.enter(|| {
            let socket = bind_when_free("a socket", || UdpSocket::bind("0.0.0.0:4242"))?;
            for port in 1..CAPACITY as u16 + 100 {
                // The error, if any, is the ICMP answer to an earlier datagram.
                let _ = socket.send_to(b"x", (to, port));
                // Paces the sender to what the fill ring takes.
                if port % 64 == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            Ok(())
        })?;
        full(&shop)
    })?;
    for talk in talks {
        talk.wait_for_rounds(5, BOUND)?;
        talk.finish()?;
    }
    println!("{opened} connections made, {ROUNDS} agents killed, {kept} connections kept to the end");
    Ok(())
}
