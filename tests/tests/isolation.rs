//! A pod without privileges denies service to nobody: what it leaves goes with it, and what it sends costs others little.

mod common;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{BOUND, binaries, wait_until};
use heddle_lab::traffic::{ProbeOutcome, ServerBehavior, TcpServer, tcp_request};
use heddle_lab::udp::{UdpServer, ping_pong};
use heddle_lab::{Lab, LabError, NetNs, Node, NodePlan, bind_when_free};

/// The capacity of the flow table in connections, and what one pod may open of it.
const CONNECTIONS: u64 = 2048;
const PER_POD: u64 = 512;
/// The port of the servers, and one where nobody listens.
const PORT: u16 = 80;
const CLOSED: u16 = 81;

/// Makes a node with a small flow table and this number of workers.
fn node(lab: &Lab, workers: u8) -> Result<Node, LabError> {
    let config = lab.dir().join("small-table.yaml");
    std::fs::write(
        &config,
        format!("connections: {CONNECTIONS}\nconnectionsPerPod: {PER_POD}\n"),
    )
    .map_err(LabError::io("writing small-table.yaml"))?;
    let mut plan = NodePlan::new("node", 1);
    plan.cores = "0,1".to_owned();
    plan.flags = [
        "--config".to_owned(),
        config.display().to_string(),
        "--workers".to_owned(),
        workers.to_string(),
    ]
    .to_vec();
    let mut node = lab.node(plan)?;
    node.start_agent()?;
    Ok(node)
}

/// Returns the connections in the flow table.
fn used(node: &Node) -> Result<u64, LabError> {
    Ok(node.status()?["flows"]["used"].as_u64().unwrap_or(u64::MAX) / 2)
}

/// Opens connections to a silent server and gives their sockets a TTL of 1, so that neither FIN nor reset ever arrives.
fn open_and_mute(ns: &NetNs, to: SocketAddr, count: u64) -> Result<Vec<TcpStream>, LabError> {
    ns.enter(|| {
        let mut streams = Vec::new();
        for _ in 0..count {
            let stream = TcpStream::connect_timeout(&to, BOUND).map_err(LabError::io(format!("connecting to {to}")))?;
            stream.set_ttl(1).map_err(LabError::io("IP_TTL"))?;
            streams.push(stream);
        }
        Ok(streams)
    })
}

/// Tries a new connection, which must be answered.
fn connects(from: &NetNs, to: SocketAddr, who: &str) -> Result<(), LabError> {
    let outcome = tcp_request(from, to, "", BOUND)?;
    assert_eq!(outcome, ProbeOutcome::Answered("here".to_owned()), "{who} to {to}");
    Ok(())
}

#[test]
fn the_connections_of_a_deleted_pod_go_with_it() -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let mut node = node(&lab, 2)?;
    let server = lab.pod("victims", "server", &[])?;
    let to = SocketAddr::new(node.start_pod(&server)?.ip(false)?, PORT);
    let listener = server.ns().enter(|| {
        bind_when_free("a silent server", || {
            TcpListener::bind((IpAddr::from([0, 0, 0, 0]), PORT))
        })
    })?;
    let greeter = lab.pod("victims", "greeter", &[])?;
    let greets = SocketAddr::new(node.start_pod(&greeter)?.ip(false)?, PORT);
    let _greeter = TcpServer::start(greeter.ns(), PORT, ServerBehavior::Greet("here".to_owned()))?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Silent: it accepts and keeps every connection.
            let mut kept = Vec::new();
            while let Ok((stream, _)) = listener.accept() {
                if stop.load(Ordering::Acquire) {
                    break;
                }
                kept.push(stream);
            }
        });
        let played = (|| {
            let before = used(&node)?;
            // Together more than the table holds.
            for round in 0..6 {
                let hostile = lab.pod("hostile", &format!("hostile-{round}"), &[])?;
                node.start_pod(&hostile)?;
                let streams = open_and_mute(hostile.ns(), to, PER_POD - 12)?;
                assert!(used(&node)? >= before + PER_POD - 12, "round {round}");
                if round == 3 {
                    // Also what an earlier agent left.
                    node.stop_agent(nix::sys::signal::Signal::SIGKILL)?;
                    node.start_agent()?;
                    assert!(used(&node)? >= PER_POD - 12, "the connections were taken over");
                }
                node.end_pod(&hostile)?;
                drop(streams);
                wait_until("the pod's connections are gone", || Ok(used(&node)? <= before + 8))?;
            }
            connects(greeter.ns(), greets, "a pod to itself")?;
            connects(node.ns(), greets, "the node")
        })();
        stop.store(true, Ordering::Release);
        // Wakes the server.
        let _ = server.ns().enter(|| {
            TcpStream::connect_timeout(&SocketAddr::new([127, 0, 0, 1].into(), PORT), BOUND)
                .map_err(LabError::io("stop"))
        });
        played
    })
}

/// Sends what costs a worker most, until it is stopped: first packets of connections from ever new ports, packets whose TTL is
/// used up, and segments in the middle of no connection. Returns the number of packets.
fn attack(ns: &NetNs, to: IpAddr, stop: &AtomicBool) -> Result<u64, LabError> {
    ns.enter(|| {
        let mut sent = 0;
        while !stop.load(Ordering::Acquire) {
            let socket = UdpSocket::bind("0.0.0.0:0").map_err(LabError::io("a UDP socket"))?;
            for ttl in [64, 1] {
                socket.set_ttl(ttl).map_err(LabError::io("IP_TTL"))?;
                for port in CLOSED..CLOSED + 32 {
                    // The errors are the answers to earlier datagrams, or a full queue of the interface.
                    sent += u64::from(socket.send_to(b"x", (to, port)).is_ok());
                }
            }
        }
        Ok(sent)
    })
}

#[test]
fn a_hostile_pod_keeps_nobody_from_connecting() -> Result<(), LabError> {
    for workers in 1..=3 {
        let lab = Lab::new(binaries()?)?;
        let node = node(&lab, workers)?;
        let [hostile, calm, target] = ["hostile", "calm", "target"].map(|name| lab.pod(name, name, &[]));
        let (hostile, calm, target) = (hostile?, calm?, target?);
        node.start_pod(&hostile)?;
        node.start_pod(&calm)?;
        let ip = node.start_pod(&target)?.ip(false)?;
        let to = SocketAddr::new(ip, PORT);
        let _greeter = TcpServer::start(target.ns(), PORT, ServerBehavior::Greet("here".to_owned()))?;
        let _echo = UdpServer::echo(target.ns(), PORT)?;
        let stop = AtomicBool::new(false);
        let refused = |node: &Node| -> Result<u64, LabError> {
            Ok(node.status()?["flows"]["refused_quota"].as_u64().unwrap_or(0))
        };
        let attacked = std::thread::scope(|scope| {
            let attacker = scope.spawn(|| attack(hostile.ns(), ip, &stop));
            let played = (|| {
                wait_until("the hostile pod has used up its quota", || Ok(refused(&node)? > 1000))?;
                for round in 0..50 {
                    connects(node.ns(), to, &format!("probe {round} of the node"))?;
                    connects(calm.ns(), to, &format!("new connection {round} of another pod"))?;
                }
                ping_pong(calm.ns(), to, 200, Duration::from_millis(1)).map(drop)
            })();
            stop.store(true, Ordering::Release);
            let sent = match attacker.join() {
                Ok(result) => result?,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            played.map(|()| sent)
        })?;
        let status = node.status()?;
        println!("{workers} workers, {attacked} hostile packets: {}", status["flows"]);
        assert!(used(&node)? <= PER_POD + 256, "{}", status["flows"]);
    }
    Ok(())
}
