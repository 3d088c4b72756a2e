//! Packets of the tunnel that are not what they should be: they are dropped and counted, and nobody answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use heddle_lab::traffic::{self, ProbeOutcome};
use heddle_lab::udp::UdpServer;
use heddle_lab::{LabError, NetNs};

use crate::common::{BOUND, SILENCE, ask_json, wait_until};
use crate::scene::{Cluster, PORT, ask, tells};
use crate::wire::{Mac, udp_frame, vxlan};

const VXLAN: u16 = 4789;
const SINK: u16 = 5354;
const HEDDLE_MAC: Mac = [2, 0x68, 0x65, 0x64, 0x64, 0x6c];

fn v4(ip: IpAddr) -> Ipv4Addr {
    match ip {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(ip) => unreachable!("{ip} is of IPv4"),
    }
}

/// Returns the number of packets of the uplink that a node has dropped for this reason.
fn dropped(cluster: &Cluster, node: usize, reason: &str) -> Result<u64, LabError> {
    let status = cluster.nodes[node].status()?;
    let ports = status["ports"].as_array().into_iter().flatten();
    let uplink = ports.filter(|port| port["name"].as_str().is_some_and(|name| name.starts_with("uplink")));
    Ok(uplink.filter_map(|port| port["dropped"][reason].as_u64()).sum())
}

/// Sends a datagram to the tunnel's port without an expectation of an answer.
fn send(from: &NetNs, to: IpAddr, data: &[u8]) -> Result<(), LabError> {
    from.enter(|| {
        let any: IpAddr = if to.is_ipv6() { [0_u16; 8].into() } else { [0; 4].into() };
        let socket = UdpSocket::bind((any, 0)).map_err(LabError::io("binding"))?;
        socket
            .send_to(data, (to, VXLAN))
            .map(drop)
            .map_err(LabError::io("sending"))
    })
}

#[test]
fn packets_of_a_stranger_and_of_a_lying_node_are_dropped_and_counted() -> Result<(), LabError> {
    let mut cluster = Cluster::start(3, "")?;
    for (node, name) in [(0, "a"), (1, "b"), (2, "c")] {
        cluster.add_pod(node, name, name)?;
    }
    let [a, b, c] = [0, 1, 2].map(|n| cluster.pods[n].ip(false));
    let [a, b, c] = [v4(a?), v4(b?), v4(c?)];
    let sink = UdpServer::sink(cluster.pods[0].ns(), SINK)?;
    let frame = |from| {
        let (from, to) = (SocketAddrV4::new(from, 999), SocketAddrV4::new(a, SINK));
        udp_frame(HEDDLE_MAC, HEDDLE_MAC, from, to, b"spoofed")
    };
    let good = vxlan(1, &frame(b));

    // A stranger sends what node 2 could send.
    for to in cluster.nodes[0].internal_ips() {
        let before = dropped(&cluster, 0, "tunnel-unknown-sender")?;
        let to = SocketAddr::new(to, VXLAN);
        let answer = traffic::udp_request(cluster.lab.outside(), to, &good, SILENCE)?;
        assert_eq!(answer, ProbeOutcome::NoAnswer, "the kernel does not answer");
        wait_until("the drop is counted", || {
            Ok(dropped(&cluster, 0, "tunnel-unknown-sender")? == before + 1)
        })?;
    }
    let shown = ask_json(&cluster.nodes[0], "drops", &["--reason", "tunnel-unknown-sender"])?;
    let shown = shown["drops"].as_array().cloned().unwrap_or_default();
    assert_eq!(shown.len(), 2, "{shown:#?}");
    let sender = cluster.lab.outside_ips()[0].to_string();
    assert_eq!(shown[0]["source"]["address"], sender.as_str(), "{shown:#?}");

    // A node may send for its own pods and addresses only.
    let node = cluster.nodes[0].internal_ips()[0];
    let liar = cluster.nodes[1].ns();
    let outside = v4(cluster.lab.outside_ips()[0]);
    let third = v4(cluster.nodes[2].internal_ips()[0]);
    for (data, reason) in [
        (vxlan(1, &frame(c)), "spoofed-source"),
        (vxlan(1, &frame(a)), "spoofed-source"),
        (vxlan(1, &frame(third)), "spoofed-source"),
        (vxlan(1, &frame(v4(node))), "spoofed-source"),
        (vxlan(1, &frame(outside)), "spoofed-source"),
        (vxlan(2, &frame(b)), "tunnel-network"),
        (good[..7].to_vec(), "tunnel-truncated"),
        (Vec::new(), "tunnel-truncated"),
    ] {
        let before = dropped(&cluster, 0, reason)?;
        send(liar, node, &data)?;
        wait_until(reason, || Ok(dropped(&cluster, 0, reason)? == before + 1))?;
    }
    assert_eq!(sink.received(), 0);
    send(liar, node, &good)?;
    sink.wait_for_total(1, BOUND)?;
    tells(&ask(cluster.pods[1].ns(), a.into(), PORT)?, "a", b.into());
    Ok(())
}
