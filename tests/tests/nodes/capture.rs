//! A capture of the network between two nodes, dissected by Wireshark: no frame is malformed, and every checksum is right, of the outer
//! packets and of the inner ones.

use std::collections::BTreeSet;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;

use heddle_lab::traffic::{self, bulk};
use heddle_lab::udp::UdpServer;
use heddle_lab::{LabError, NetNs, Process, run};
use nix::sys::signal::Signal;

use crate::common::{BOUND, wait_until};
use crate::mtu::{ping_whole, set_mtu};
use crate::scene::{Cluster, node_addresses, node_object_with};
use crate::wire::{send_frame, udp_frame, vxlan};

const ECHO: u16 = 7777;
const BULK: u16 = 9999;
/// The frames that heddle must not send.
const BAD: &str = "_ws.malformed || _ws.expert.severity == \"Error\" || ip.checksum.status == \"Bad\" || \
                   tcp.checksum.status == \"Bad\" || udp.checksum.status == \"Bad\" || icmp.checksum.status == \"Bad\" || \
                   icmpv6.checksum.status == \"Bad\"";

/// A running capture of the packets of tunnels.
struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Captures what passes an interface, and waits until the capture has begun.
    fn start(ns: &NetNs, interface: &str, file: PathBuf) -> Result<Self, LabError> {
        let log = file.with_extension("log");
        let mut command = Command::new("dumpcap");
        command
            .args(["-q", "-i", interface, "-f", "udp port 4789", "-w"])
            .arg(&file);
        let process = Process::start(ns, "dumpcap", &mut command, &log)?;
        wait_until("dumpcap captures", || Ok(process.log_tail(10).contains("File:")))?;
        Ok(Self { process, file })
    }

    fn stop(mut self) -> Result<PathBuf, LabError> {
        self.process.stop(Signal::SIGINT, BOUND)?;
        Ok(self.file)
    }
}

/// Returns fields of the captured frames that a filter of Wireshark matches, a line each.
fn dissect(file: &Path, filter: &str, fields: &[&str]) -> Result<Vec<String>, LabError> {
    let file = file.display().to_string();
    let mut arguments = vec!["-n", "-r", &file, "-Y", filter, "-T", "fields"];
    for option in [
        "ip.check_checksum:TRUE",
        "tcp.check_checksum:TRUE",
        "udp.check_checksum:TRUE",
    ] {
        arguments.extend(["-o", option]);
    }
    for field in fields {
        arguments.extend(["-e", field]);
    }
    Ok(run("tshark", &arguments)?.lines().map(str::to_owned).collect())
}

/// Sends by every protocol and in sizes up to the largest that the tunnel takes, and above, in both families.
fn talk(cluster: &Cluster, largest: u16) -> Result<(), LabError> {
    let [a, b] = [0, 1].map(|index| &cluster.pods[index]);
    let _echo = UdpServer::echo(b.ns(), ECHO)?;
    for v6 in [false, true] {
        let there = b.ip(v6)?;
        assert!(traffic::ping(a.ns(), there, 2)? > 0);
        for size in [60, 61, 577, 1281, largest] {
            let out = ping_whole(a.ns(), SocketAddr::new(there, 0), size)?;
            assert!(out.contains("1 received"), "{size} octets to {there}: {out}");
        }
        for size in [0, 1, 2, 1000, 3001, 20_000] {
            let outcome = traffic::udp_request(a.ns(), SocketAddr::new(there, ECHO), &vec![7; size], BOUND)?;
            assert!(outcome.is_answered(), "{size} octets to {there}: {outcome:?}");
        }
        bulk(a.ns(), b.ns(), SocketAddr::new(there, BULK), BULK, 2 << 20)?;
    }
    Ok(())
}

/// A frame to a node's tunnel whose inner IP header has a wrong checksum: the dissector must complain of this one.
fn damaged() -> Vec<u8> {
    let at = |octets: [u8; 4], port| SocketAddrV4::new(octets.into(), port);
    let (from, to) = ([2, 0, 0, 0, 0, 0x99], [2, 0, 0, 0, 0, 0x98]);
    let mut inner = udp_frame(to, from, at([10, 244, 9, 9], 9), at([10, 244, 1, 4], 9), b"damaged");
    inner[14 + 10] ^= 0xff;
    udp_frame(
        to,
        from,
        at([192, 0, 2, 99], 50_000),
        at([192, 0, 2, 1], 4789),
        &vxlan(1, &inner),
    )
}

/// Dissects the traffic of two nodes with this family of the network between them.
fn is_dissected(underlay_v6: bool, mtu: u16) -> Result<(), LabError> {
    let mut cluster = Cluster::prepare(2, "")?;
    set_mtu(&cluster, mtu)?;
    for number in [1, 2] {
        // The family of a node's first address is the tunnel's.
        let mut addresses = node_addresses(number);
        if underlay_v6 {
            addresses.reverse();
        }
        cluster.apply(&node_object_with(number, &addresses))?;
    }
    for node in &mut cluster.nodes {
        node.start_agent()?;
    }
    cluster.wait_for_paths()?;
    for (node, name) in [(0, "a"), (1, "b")] {
        cluster.add_pod(node, name, name)?;
    }
    let outside = cluster.lab.outside();
    let capture = Capture::start(outside, "to-node-1", cluster.lab.dir().join("tunnel.pcapng"))?;
    talk(&cluster, mtu - if underlay_v6 { 70 } else { 50 })?;
    send_frame(outside, "to-node-1", &damaged())?;
    // The file is complete when it has the last frame.
    let mut bad = Vec::new();
    wait_until("the damaged frame is captured", || {
        bad = dissect(&capture.file, BAD, &["ip.src", "_ws.expert.message"]).unwrap_or_default();
        Ok(!bad.is_empty())
    })?;
    let file = capture.stop()?;
    let bad = dissect(
        &file,
        BAD,
        &["frame.number", "ip.src", "frame.protocols", "_ws.expert.message"],
    )?;
    assert!(
        matches!(&bad[..], [only] if only.contains("192.0.2.99,10.244.9.9")),
        "{bad:#?}"
    );

    // The capture has what was sent.
    let stacks: BTreeSet<String> = dissect(&file, "vxlan", &["frame.protocols"])?.into_iter().collect();
    let outer = if underlay_v6 {
        "eth:ethertype:ipv6"
    } else {
        "eth:ethertype:ip"
    };
    for inner in ["ip:tcp", "ip:udp", "ip:icmp", "ipv6:tcp", "ipv6:udp", "ipv6:icmpv6"] {
        let start = format!("{outer}:udp:vxlan:eth:ethertype:{inner}");
        assert!(
            stacks.iter().any(|stack| stack.starts_with(&start)),
            "{start}: {stacks:#?}"
        );
    }
    let count = |filter: &str| Ok::<_, LabError>(dissect(&file, filter, &["frame.number"])?.len());
    assert!(count("vxlan && ip.flags.mf == 1")? > 0, "no fragments over IPv4");
    assert!(count("vxlan && ipv6.fragment")? > 0, "no fragments over IPv6");
    let full = format!("vxlan && frame.len >= {}", mtu - 8);
    assert!(count(&full)? > 0, "no frame of {mtu} octets");
    Ok(())
}

#[test]
fn the_dissector_finds_no_fault_over_ipv4() -> Result<(), LabError> {
    [1500, 9000].into_iter().try_for_each(|mtu| is_dissected(false, mtu))
}

#[test]
fn the_dissector_finds_no_fault_over_ipv6() -> Result<(), LabError> {
    [1500, 9000].into_iter().try_for_each(|mtu| is_dissected(true, mtu))
}
