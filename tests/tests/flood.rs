//! A pod that floods costs another pod no more than half of its rate, with small and with large packets, and with one, two and
//! three workers.

mod common;

use std::time::Duration;

use common::{binaries, delivered, drops, port, report, wait_until};
use heddle_lab::udp::{Pace, UdpServer, send};
use heddle_lab::{Lab, LabError, NodePlan};

/// The datagrams that the calm pod sends each millisecond, and their size.
const CALM: Pace = Pace::PerMillisecond(4);
const CALM_SIZE: usize = 200;
const TIME: Duration = Duration::from_secs(2);
const PORT: u16 = 9;
/// The flood's packets that precede the measurement: the first ones make the rings grow.
const WARM_UP: u64 = 1000;
/// The lengths of the IPv4 and UDP headers.
const HEADERS: u64 = 28;

#[test]
fn a_flood_of_small_or_large_packets_leaves_others_half_of_their_rate() -> Result<(), LabError> {
    flood(1)
}

/// The flooder and the calm pod have one worker, and hand their packets over to the target's.
#[test]
fn a_flood_that_is_handed_over_leaves_others_half_of_their_rate() -> Result<(), LabError> {
    flood(2)
}

/// Each pod has a worker of its own.
#[test]
fn a_flood_at_another_worker_leaves_others_half_of_their_rate() -> Result<(), LabError> {
    flood(3)
}

fn flood(workers: usize) -> Result<(), LabError> {
    let lab = Lab::new(binaries()?)?;
    let mut plan = NodePlan::new("node", 1);
    plan.cores = if workers == 1 { "0" } else { "0,1" }.to_owned();
    plan.flags = ["--workers".to_owned(), workers.to_string()].to_vec();
    let mut node = lab.node(plan)?;
    node.start_agent()?;
    let pods = ["flooder", "calm", "target"].map(|name| lab.pod("flood", name, &[]));
    let [flooder, calm, target] = pods;
    let (flooder, calm, target) = (flooder?, calm?, target?);
    // A new port goes to the worker with the fewest, so this order gives the first and the last pod one of two workers.
    let attached = node.start_pod(&flooder)?;
    let to = node.start_pod(&target)?.ip(false)?;
    node.start_pod(&calm)?;
    let sink = UdpServer::sink(target.ns(), PORT)?;
    let interfaces = attached.result["interfaces"].as_array().cloned().unwrap_or_default();
    let mtu = interfaces
        .iter()
        .filter_map(|i| i["mtu"].as_u64())
        .max()
        .unwrap_or(1500);

    // The first packets of a pod's kernel (neighbor discovery) may precede the pod's policy, and are dropped then.
    let at_first = drops(&node.status()?, "pod:flood/calm", "");
    let quiet = delivered(|| send(calm.ns(), (to, PORT).into(), CALM_SIZE, CALM, TIME), &sink)?;
    report(&format!("without a flood: {quiet:?}"));
    for size in [0, usize::try_from(mtu - HEADERS).unwrap_or(1472)] {
        let flooder_packets = || -> Result<u64, LabError> {
            let status = node.status()?;
            Ok(port(&status, "pod:flood/flooder")["rx_packets"].as_u64().unwrap_or(0))
        };
        let flooded_before = flooder_packets()?;
        let (sent, received) = std::thread::scope(|scope| -> Result<_, LabError> {
            // No socket listens at that port: the target's kernel answers some packets with "port unreachable".
            let flood = scope.spawn(|| send(flooder.ns(), (to, PORT + 1).into(), size, Pace::Flood, TIME * 2));
            wait_until("the flood fills the rings", || {
                Ok(flooder_packets()? >= flooded_before + WARM_UP)
            })?;
            let calm = delivered(|| send(calm.ns(), (to, PORT).into(), CALM_SIZE, CALM, TIME), &sink);
            let flooded = match flood.join() {
                Ok(result) => result?,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            report(&format!(
                "a flood of {flooded} packets with {size} bytes each: {calm:?}"
            ));
            calm
        })?;
        let status = node.status()?;
        let before = quiet.1 as f64 / quiet.0 as f64;
        assert!(
            received as f64 / sent as f64 >= before / 2.0 && received * 2 >= quiet.1,
            "{received} of {sent} arrived, {} of {} without the flood; {}",
            quiet.1,
            quiet.0,
            port(&status, "pod:flood/calm")
        );
        assert_eq!(
            drops(&status, "pod:flood/calm", ""),
            at_first,
            "heddle dropped no packet of the calm pod"
        );
    }
    Ok(())
}
