//! An idle node uses almost no processor time, and still answers the first packet.

mod common;

use std::time::{Duration, Instant};

use common::binaries;
use heddle_lab::{Lab, LabError, NodePlan, udp, usage};

/// The pods of the node. Two of them exchange datagrams in the second part.
const PODS: usize = 20;
/// The length of one measurement of the idle node.
const MEASURED: Duration = Duration::from_secs(5);
const ECHO: u16 = 7;

/// One test for both parts, because no other test of the suite may run beside a measurement.
#[test]
fn twenty_idle_pods_use_almost_no_cpu_and_the_first_packet_is_answered() -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let mut node = lab.node(NodePlan::new("node", 1))?;
    node.start_agent()?;
    let mut pods = Vec::new();
    let mut attached = Vec::new();
    for n in 0..PODS {
        let pod = lab.pod("quiet", &format!("pod-{n}"), &[])?;
        attached.push(node.start_pod(&pod)?);
        pods.push(pod);
    }
    let Some(agent) = node.agent() else {
        unreachable!("it was started")
    };

    let start = Instant::now();
    loop {
        let before = usage::threads(agent.id())?;
        let began = Instant::now();
        // A measurement, not a wait for an event.
        std::thread::sleep(MEASURED);
        let spent = usage::between(&before, &usage::threads(agent.id())?);
        let cpu: Duration = spent.values().map(|thread| thread.cpu).sum();
        let share = cpu.as_secs_f64() / began.elapsed().as_secs_f64();
        println!("{PODS} silent pods: {:.3} % of a core", share * 100.0);
        for (thread, used) in spent.iter().filter(|(_, used)| used.sleeps > 0) {
            println!("  {thread}: {} wake-ups, {:?}", used.sleeps, used.cpu);
        }
        if share < 0.02 {
            break;
        }
        // The pods' kernels may still send router solicitations (RFC 4861, section 6.3.7): measure again.
        assert!(
            start.elapsed() < Duration::from_secs(40),
            "{:.2} % of a core: {spent:?}",
            share * 100.0
        );
    }

    let _echo = udp::UdpServer::echo(pods[1].ns(), ECHO)?;
    let to = (attached[1].ip(false)?, ECHO).into();
    // Every packet finds the worker asleep and must be answered. The latency is printed for people; the benches measure it.
    let before = sleeps(&node.status()?);
    let trips = udp::ping_pong(pods[0].ns(), to, 50, Duration::from_millis(20))?;
    let slept = sleeps(&node.status()?) - before;
    let at = |part: usize| trips[trips.len() * part / 100];
    println!(
        "after a sleep ({slept} of them): median {:?}, least {:?}, p90 {:?}",
        at(50),
        trips[0],
        at(90)
    );
    assert_eq!(trips.len(), 50);
    assert!(slept >= 50, "the worker slept only {slept} times between 50 packets");
    Ok(())
}

fn sleeps(status: &serde_json::Value) -> u64 {
    status["workers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|worker| worker["sleeps"].as_u64())
        .sum()
}
