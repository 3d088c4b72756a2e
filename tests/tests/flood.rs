//! A pod that floods takes from another no more than half of its rate, whatever the size of what it sends.

mod common;

use std::time::Duration;

use common::{binaries, drops, port};
use heddle_lab::udp::{Pace, UdpServer, send};
use heddle_lab::{Lab, LabError, NodePlan};

/// What the calm pod sends each millisecond, and how large.
const CALM: Pace = Pace::PerMillisecond(4);
const CALM_SIZE: usize = 200;
const TIME: Duration = Duration::from_secs(2);
const PORT: u16 = 9;
/// IPv4 and UDP headers.
const HEADERS: u64 = 28;

#[test]
fn a_flood_of_small_or_large_packets_leaves_others_half_of_their_rate() -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let mut node = lab.node(NodePlan::new("node", 1))?;
    node.start_agent()?;
    let pods = ["flooder", "calm", "target"].map(|name| lab.pod("flood", name, &[]));
    let [flooder, calm, target] = pods;
    let (flooder, calm, target) = (flooder?, calm?, target?);
    let attached = node.start_pod(&flooder)?;
    node.start_pod(&calm)?;
    let to = node.start_pod(&target)?.ip(false)?;
    let sink = UdpServer::sink(target.ns(), PORT)?;
    let interfaces = attached.result["interfaces"].as_array().cloned().unwrap_or_default();
    let mtu = interfaces
        .iter()
        .filter_map(|i| i["mtu"].as_u64())
        .max()
        .unwrap_or(1500);

    // What a pod's kernel says when its link comes up may find its port before its policy.
    let at_first = drops(&node.status()?, "pod:flood/calm", "");
    let quiet = rate(|| send(calm.ns(), (to, PORT).into(), CALM_SIZE, CALM, TIME), &sink)?;
    println!("nobody floods: {quiet:?}");
    for size in [0, usize::try_from(mtu - HEADERS).unwrap_or(1472)] {
        let (sent, heard) = std::thread::scope(|scope| -> Result<_, LabError> {
            // Nobody listens at that port: the target's kernel answers some with "port unreachable".
            let flood = scope.spawn(|| send(flooder.ns(), (to, PORT + 1).into(), size, Pace::Flood, TIME * 2));
            // Not before the flood has the rings: its first packets are what makes them grow.
            std::thread::sleep(TIME / 4);
            let calm = rate(|| send(calm.ns(), (to, PORT).into(), CALM_SIZE, CALM, TIME), &sink);
            let flooded = match flood.join() {
                Ok(result) => result?,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            println!("a flood of {flooded} packets with {size} bytes each: {calm:?}");
            calm
        })?;
        let status = node.status()?;
        let before = quiet.1 as f64 / quiet.0 as f64;
        assert!(
            heard as f64 / sent as f64 >= before / 2.0 && heard * 2 >= quiet.1,
            "{heard} of {sent} arrived, {} of {} without the flood; {}",
            quiet.1,
            quiet.0,
            port(&status, "pod:flood/calm")
        );
        assert_eq!(
            drops(&status, "pod:flood/calm", ""),
            at_first,
            "none of the calm pod's was dropped by heddle"
        );
    }
    Ok(())
}

/// How many were sent, and how many of them arrived.
fn rate(send: impl FnOnce() -> Result<u64, LabError>, sink: &UdpServer) -> Result<(u64, u64), LabError> {
    let before = sink.received();
    let sent = send()?;
    // What is still under way arrives within this, or not at all.
    std::thread::sleep(Duration::from_millis(100));
    Ok((sent, sink.received() - before))
}
