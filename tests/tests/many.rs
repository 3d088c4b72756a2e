//! A full node: 110 pods attached concurrently, pods that come and go under traffic, and the frames that all ports share.

mod common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{binaries, port, wait_until};
use heddle_lab::udp::{Pace, UdpServer, send};
use heddle_lab::{AddResult, Lab, LabError, Node, NodePlan, Pod, traffic, usage};
use nix::sys::signal::Signal;
use serde_json::Value;

/// The default of kubelet's `--max-pods`.
const PODS: usize = 110;
/// The number of concurrent plugin calls.
const AT_ONCE: usize = 8;
const SINK: u16 = 9;

/// Returns the frames that the holders of a status have, and the total.
fn frames(status: &Value) -> (u64, u64) {
    let holders = status["frames"]["holders"].as_array().into_iter().flatten();
    let held = holders.filter_map(|holder| holder["frames"].as_u64()).sum();
    (held, status["frames"]["total"].as_u64().unwrap_or(0))
}

/// Returns the frames of the holders whose names begin with `prefix`.
fn held_by(status: &Value, prefix: &str) -> u64 {
    let holders = status["frames"]["holders"].as_array().into_iter().flatten();
    holders
        .filter(|holder| holder["holder"].as_str().is_some_and(|name| name.starts_with(prefix)))
        .filter_map(|holder| holder["frames"].as_u64())
        .sum()
}

/// Waits until every frame is in a pool or in the rings of an open port. Asserts at every look that none is lost.
fn wait_for_frames_at_rest(node: &Node) -> Result<(), LabError> {
    wait_until("no frame is under way or lost", || {
        let status = node.status()?;
        let (held, total) = frames(&status);
        assert_eq!(held, total, "{}", status["frames"]);
        let pools = held_by(&status, "shared pool") + held_by(&status, "pool of worker");
        let ports: u64 = status["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|port| port["frames"].as_u64())
            .sum();
        Ok(pools + ports == total)
    })
}

/// Runs `f` for every number below `count`, [`AT_ONCE`] at a time, and returns the durations, shortest first.
fn concurrently(count: usize, f: impl Fn(usize) -> Result<(), LabError> + Sync) -> Result<Vec<Duration>, LabError> {
    let next = AtomicUsize::new(0);
    let times = Mutex::new(Vec::with_capacity(count));
    let work = || -> Result<(), LabError> {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                return Ok(());
            }
            let start = Instant::now();
            f(n)?;
            if let Ok(mut times) = times.lock() {
                times.push(start.elapsed());
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let mut times = times.into_inner().unwrap_or_default();
    times.sort_unstable();
    Ok(times)
}

fn pods(lab: &Lab, count: usize) -> Result<Vec<Pod>, LabError> {
    (0..count)
        .map(|n| lab.pod("many", &format!("p{n}"), &[("app", "many")]))
        .collect()
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[test]
fn a_full_node_attaches_concurrently_restarts_and_attaches_again_after_all_pods_have_gone() -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let mut node = lab.node(NodePlan::new("node", 1))?;
    node.start_agent()?;
    let agent = node.agent().map(|agent| agent.id()).unwrap_or_default();
    let pods = pods(&lab, PODS)?;
    let (rss, kernel) = (usage::resident(agent)?, usage::kernel_memory()?);

    let attached: Vec<Mutex<Option<AddResult>>> = pods.iter().map(|_| Mutex::default()).collect();
    let start = Instant::now();
    let times = concurrently(PODS, |n| {
        let ips = node.start_pod(&pods[n])?;
        if let Ok(mut slot) = attached[n].lock() {
            *slot = Some(ips);
        }
        Ok(())
    })?;
    println!(
        "{PODS} pods, {AT_ONCE} ADDs at a time: {:?} in all; one ADD median {:?}, p90 {:?}, max {:?}",
        start.elapsed(),
        times[PODS / 2],
        times[PODS * 9 / 10],
        times[PODS - 1]
    );
    println!(
        "memory for them: agent {:.1} MiB (to {:.1}), kernel {:.1} MiB",
        mebibytes(usage::resident(agent)?.saturating_sub(rss)),
        mebibytes(usage::resident(agent)?),
        mebibytes(usage::kernel_memory()?.saturating_sub(kernel))
    );
    let attached: Vec<AddResult> = attached
        .into_iter()
        .filter_map(|slot| slot.into_inner().ok().flatten())
        .collect();
    assert_eq!(attached.len(), PODS);

    // Every pod sends one ping and answers one. The families alternate.
    let all_answer = || -> Result<(), LabError> {
        let answered = AtomicUsize::new(0);
        concurrently(PODS, |n| {
            let to = attached[(n * 37 + 11) % PODS].ip(n % 2 == 0)?;
            answered.fetch_add(usize::from(traffic::ping(pods[n].ns(), to, 1)? == 1), Ordering::Relaxed);
            Ok(())
        })?;
        assert_eq!(answered.into_inner(), PODS, "each pair answers");
        Ok(())
    };
    all_answer()?;
    wait_for_frames_at_rest(&node)?;

    // An agent that ends closes all ports within 10 s, the bound of `stop_agent`: the DaemonSet gives it 60. The next one opens them.
    node.stop_agent(Signal::SIGTERM)?;
    node.start_agent()?;
    all_answer()?;
    wait_for_frames_at_rest(&node)?;

    let start = Instant::now();
    let times = concurrently(PODS, |n| node.end_pod(&pods[n]))?;
    println!(
        "{AT_ONCE} DELs at a time: {:?} in all; one DEL median {:?}, max {:?}",
        start.elapsed(),
        times[PODS / 2],
        times[PODS - 1]
    );
    wait_for_frames_at_rest(&node)?;

    // libxdp binds every socket through the first one of its UMEM, the anchor. This shows that the anchor works after all other
    // sockets and their devices have gone.
    node.ns().run("ip", &["link", "delete", "heddle0"])?;
    wait_until("the host port is created again", || {
        Ok(node.ns().run("ip", &["link", "show", "heddle0"]).is_ok())
    })?;
    let again = [node.start_pod(&pods[0])?, node.start_pod(&pods[1])?];
    for v6 in [false, true] {
        assert_eq!(traffic::ping(pods[0].ns(), again[1].ip(v6)?, 2)?, 2);
        wait_until("the node reaches a pod through the new host port", || {
            Ok(traffic::ping(node.ns(), again[0].ip(v6)?, 1)? == 1)
        })?;
    }
    wait_for_frames_at_rest(&node)
}

/// `HEDDLE_CHURN` sets the number of rounds; the default is 100.
#[test]
fn pods_that_come_and_go_under_traffic_lose_no_frame() -> Result<(), LabError> {
    let rounds = std::env::var("HEDDLE_CHURN")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(100usize);
    let lab = Lab::new(binaries()?)?;
    let mut node = lab.node(NodePlan::new("node", 1))?;
    node.start_agent()?;
    let [talker, listener, guest] = ["talker", "listener", "guest"].map(|name| lab.pod("many", name, &[]));
    let (talker, listener, guest) = (talker?, listener?, guest?);
    node.start_pod(&talker)?;
    let to = node.start_pod(&listener)?.ip(false)?;
    let sink = UdpServer::sink(listener.ns(), SINK)?;
    let first = node.start_pod(&guest)?;
    node.end_pod(&guest)?;

    let guest_at = Mutex::new(first.ip(false)?);
    let done = AtomicBool::new(false);
    let slice = Duration::from_millis(200);
    std::thread::scope(|scope| -> Result<(), LabError> {
        // One steady stream, and one to the guest's latest address, whose port is closed again and again.
        let streams = [false, true].map(|to_guest| {
            let (guest_at, done, talker) = (&guest_at, &done, &talker);
            scope.spawn(move || -> Result<(), LabError> {
                while !done.load(Ordering::Acquire) {
                    let ip = match guest_at.lock() {
                        Ok(ip) if to_guest => *ip,
                        _ => to,
                    };
                    send(talker.ns(), (ip, SINK).into(), 1000, Pace::PerMillisecond(4), slice)?;
                }
                Ok(())
            })
        });
        let churn = || -> Result<(), LabError> {
            for round in 0..rounds {
                let at = node.start_pod(&guest)?.ip(false)?;
                if let Ok(mut ip) = guest_at.lock() {
                    *ip = at;
                }
                if round % 10 == 0 {
                    assert_eq!(traffic::ping(guest.ns(), to, 1)?, 1, "round {round}");
                }
                node.end_pod(&guest)?;
                let (held, total) = frames(&node.status()?);
                assert_eq!(held, total, "round {round}");
            }
            Ok(())
        };
        let churned = churn();
        done.store(true, Ordering::Release);
        for stream in streams {
            match stream.join() {
                Ok(result) => result?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        churned
    })?;
    println!(
        "{rounds} attached and detached; the other stream received {}",
        sink.received()
    );
    assert!(sink.received() > 0);
    wait_for_frames_at_rest(&node)?;
    let status = node.status()?;
    assert_eq!(
        status["ports"].as_array().map(Vec::len),
        Some(4),
        "talker, listener, host, uplink"
    );
    node.end_pod(&talker)?;
    node.end_pod(&listener)?;
    wait_for_frames_at_rest(&node)
}

/// The node has enough frames for exactly one port to grow (a burst of 64 one-frame packets grows a ring to 256), so a silent
/// port that has grown must give its frames back before another one can grow.
#[test]
fn fill_rings_grow_and_a_silent_one_shrinks_for_another() -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let mut plan = NodePlan::new("node", 1);
    // 64 for each of 4 pods, the host port and 16 queues of the uplink, 1024 + 512 for the packets under way of one worker, 192 for one ring to grow.
    let config = lab.dir().join("small.yaml");
    let text = format!("maxPods: 4\nframes: {}\n", 64 * (5 + 16) + 1024 + 512 + 192);
    std::fs::write(&config, text).map_err(LabError::io("writing small.yaml"))?;
    plan.flags = vec!["--config".to_owned(), config.display().to_string()];
    let mut node = lab.node(plan)?;
    node.start_agent()?;
    let [one, two, sink] = ["one", "two", "sink"].map(|name| lab.pod("many", name, &[]));
    let (one, two, sink) = (one?, two?, sink?);
    node.start_pod(&one)?;
    node.start_pod(&two)?;
    let to = std::net::SocketAddr::from((node.start_pod(&sink)?.ip(false)?, SINK));
    let _server = UdpServer::sink(sink.ns(), SINK)?;
    let ring = |name: &str| -> Result<u64, LabError> {
        let status = node.status()?;
        let (held, total) = frames(&status);
        assert_eq!(held, total);
        Ok(port(&status, &format!("pod:many/{name}"))["frames"]
            .as_u64()
            .unwrap_or(0))
    };
    let flood = Duration::from_millis(500);
    assert_eq!((ring("one")?, ring("two")?), (64, 64), "at rest");
    wait_until("the first ring grows to its most", || {
        send(one.ns(), to, 1000, Pace::Flood, flood)?;
        Ok(ring("one")? >= 200)
    })?;
    wait_until(
        "the second ring grows after the first, silent one has given frames back",
        || {
            send(two.ns(), to, 1000, Pace::Flood, flood)?;
            Ok(ring("two")? >= 200)
        },
    )?;
    assert_eq!(ring("one")?, 64);
    // The port that has shrunk still works.
    assert_eq!(traffic::ping(one.ns(), to.ip(), 3)?, 3);
    wait_for_frames_at_rest(&node)
}
