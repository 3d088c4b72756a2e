//! A pod without privileges denies service to nobody: what it leaves goes with it, and what it sends costs others no more than a
//! plain flood of the same rate.

mod attacks;
#[path = "../common/mod.rs"]
mod common;
mod scene;

use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, PoisonError};

use attacks::{ATTACKS, open, plain_flood, speak};
use common::{BOUND, binaries, report, wait_until};
use heddle_lab::traffic::{ServerBehavior, TcpServer};
use heddle_lab::{Lab, LabError, NetNs};
use scene::{CONNECTIONS, Measured, PER_POD, PORT, Pulse, SILENT_PORT, Scene, SilentServer, connects, node, used};

/// The part of what arrives beside a plain flood that must arrive beside an attack.
const LEAST: f64 = 0.9;
/// Measurements of each, one of the flood and one of the attack in turn.
const ROUNDS: usize = 3;

/// Held by each test, because a measurement runs alone.
static ALONE: Mutex<()> = Mutex::new(());

/// Returns the middle one of the parts that arrived.
fn median(all: &[Measured]) -> f64 {
    let mut arrived: Vec<f64> = all.iter().map(|one| one.arrived).collect();
    arrived.sort_by(f64::total_cmp);
    arrived.get(arrived.len() / 2).copied().unwrap_or_default()
}

/// Measures an attack and a plain flood in turn, and compares what they leave of the calm pod's datagrams. Returns the number of
/// connections that others have made meanwhile.
fn compare(
    scene: &Scene,
    name: &str,
    attack: &(dyn Fn(&Pulse) -> Result<(), LabError> + Sync),
) -> Result<u64, LabError> {
    let (mut floods, mut attacks) = (Vec::new(), Vec::new());
    let third = scene.new_pod(&name.replace(' ', "-"))?;
    for _ in 0..ROUNDS {
        floods.push(scene.measure("a plain flood", &third, |pulse| plain_flood(scene, pulse))?);
        attacks.push(scene.measure(name, &third, attack)?);
    }
    let (beside_flood, beside_attack) = (median(&floods), median(&attacks));
    let total = |field: fn(&Measured) -> u64| attacks.iter().map(field).sum::<u64>();
    report(&format!(
        "{name}: {} sent, {} new connections of others; {:.1} % of the calm pod's datagrams arrived, {:.1} % beside a plain flood",
        total(|one| one.sent),
        total(|one| one.connections),
        beside_attack * 100.0,
        beside_flood * 100.0,
    ));
    assert!(
        beside_attack >= LEAST * beside_flood,
        "{name}: {attacks:?}, beside a plain flood {floods:?}; {}",
        scene.node.status()?["drops"]
    );
    Ok(floods.iter().chain(&attacks).map(|one| one.connections).sum())
}

#[test]
fn no_attack_costs_others_more_than_a_plain_flood() -> Result<(), LabError> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for workers in 1..=3 {
        report(&format!("workers: {workers}"));
        let scene = Scene::start(workers)?;
        let mut of_others = 0;
        for (name, attack) in ATTACKS {
            of_others += compare(&scene, name, &|pulse| attack(&scene, pulse))?;
            // The calm pod and the pods' kernels have some connections too.
            let flows = &scene.node.status()?["flows"];
            assert!(
                used(&scene.node)? <= PER_POD + of_others + 64,
                "{name}: {of_others} connections of others, {flows}"
            );
        }
    }
    Ok(())
}

/// The agent restarts with an empty table, and adopts connections for a while. A hostile pod's connections count in its quota.
#[test]
fn connections_are_adopted_at_the_cost_of_their_pod() -> Result<(), LabError> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for workers in 1..=3 {
        report(&format!("workers: {workers}"));
        let mut scene = Scene::start(workers)?;
        let streams = open(&scene)?;
        scene.node.stop_agent(nix::sys::signal::Signal::SIGKILL)?;
        let table = scene.node.run_dir().join("flow/table");
        std::fs::remove_file(&table).map_err(LabError::io(format!("removing {}", table.display())))?;
        scene.node.start_agent()?;
        assert!(used(&scene.node)? < 16, "the table is a new one");
        let of_others = compare(&scene, "adopted connections", &|pulse| speak(&streams, pulse))?;
        let now = used(&scene.node)?;
        assert!(
            (PER_POD / 2..=PER_POD + of_others + 64).contains(&now),
            "{now} connections, {of_others} of them of others"
        );
        // The adopted connections have used up the pod's quota.
        let to = SocketAddr::new(scene.target, SILENT_PORT);
        let more = scene.hostile.ns().enter_as_nobody(|| {
            let quick = std::time::Duration::from_millis(20);
            Ok((0..64)
                .filter(|_| TcpStream::connect_timeout(&to, quick).is_ok())
                .count())
        })?;
        assert!(more <= 16, "{more} more connections");
    }
    Ok(())
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

#[test]
fn the_connections_of_a_deleted_pod_go_with_it() -> Result<(), LabError> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const ROUNDS: u64 = 6;
    const { assert!(ROUNDS * PER_POD > CONNECTIONS, "together more than the table holds") };
    let lab = Lab::new(binaries()?)?;
    let mut node = node(&lab, 2)?;
    let server = lab.pod("victims", "server", &[])?;
    let to = SocketAddr::new(node.start_pod(&server)?.ip(false)?, PORT);
    let _silent = SilentServer::start(server.ns(), PORT)?;
    let greeter = lab.pod("victims", "greeter", &[])?;
    let greets = SocketAddr::new(node.start_pod(&greeter)?.ip(false)?, PORT);
    let _greeter = TcpServer::start(greeter.ns(), PORT, ServerBehavior::Greet("here".to_owned()))?;
    let before = used(&node)?;
    for round in 0..ROUNDS {
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
}
