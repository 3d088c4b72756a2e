//! Uplinks of different MTUs: the largest packets pass, larger ones are answered, and a change of the MTU is followed.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::process::Command;

use heddle_lab::traffic::{self, ProbeOutcome, ServerBehavior, TcpServer};
use heddle_lab::udp::UdpServer;
use heddle_lab::{LabError, NetNs, run_with_input};

use crate::common::{BOUND, wait_until};
use crate::scene::{Cluster, PORT, ask, ip, seen, tells};
use crate::wire::{mac_of, send_frame, udp_frame, vxlan};

const UDP_PORT: u16 = 5353;
pub const ECHO: u16 = 7777;
/// The headers that the tunnel adds over IPv4 (RFC 7348: outer IPv4, UDP, VXLAN, inner Ethernet).
const OVERHEAD: u16 = 20 + 8 + 8 + 14;

/// Sets the MTU of all uplinks, and of the network between them.
pub fn set_mtu(cluster: &Cluster, mtu: u16) -> Result<(), LabError> {
    for node in &cluster.nodes {
        let outside = cluster.lab.outside();
        ip(outside, &format!("link set to-{} mtu {mtu}", node.name()))?;
        ip(node.ns(), &format!("link set eth0 mtu {mtu}"))?;
    }
    ip(cluster.lab.outside(), &format!("link set br0 mtu {mtu}")).map(drop)
}

/// Waits until every node knows the MTU of its path to the other one.
fn wait_for_mtu(cluster: &Cluster, mtu: u16) -> Result<(), LabError> {
    for (node, other) in [(0, "node-2"), (1, "node-1")] {
        wait_until("the path has its MTU", || {
            Ok(seen(&cluster.nodes[node], other)?["mtu"] == mtu)
        })?;
    }
    Ok(())
}

/// Starts two nodes with a pod each, whose uplinks have this MTU.
fn cluster(config: &str, mtu: u16) -> Result<Cluster, LabError> {
    let mut cluster = Cluster::prepare(2, config)?;
    set_mtu(&cluster, mtu)?;
    for node in &mut cluster.nodes {
        node.start_agent()?;
    }
    cluster.wait_for_paths()?;
    for (node, name) in [(0, "a"), (1, "b")] {
        cluster.add_pod(node, name, name)?;
        forget_mtu(cluster.pods[node].ns())?;
    }
    Ok(cluster)
}

/// Removes the MTUs from a pod's routes, so that the pod learns the paths' MTUs from answers.
fn forget_mtu(pod: &NetNs) -> Result<(), LabError> {
    for family in ["-4", "-6"] {
        for route in ip(pod, &format!("{family} route show"))?.lines() {
            let Some((kept, _)) = route.split_once(" mtu ") else {
                continue;
            };
            ip(pod, &format!("{family} route del {}", kept.trim()))?;
            ip(pod, &format!("{family} route add {}", kept.trim()))?;
        }
    }
    Ok(())
}

/// Sends one echo request that no router may fragment, in an IP packet of this size, and returns what ping prints.
pub fn ping_whole(from: &NetNs, to: SocketAddr, size: u16) -> Result<String, LabError> {
    let headers = if to.is_ipv6() { 40 + 8 } else { 20 + 8 };
    let (size, to) = ((size - headers).to_string(), to.ip().to_string());
    let mut ping = Command::new("ping");
    ping.args(["-n", "-c", "1", "-W", "2", "-M", "do", "-s", &size, &to]);
    let out = from.enter(|| run_with_input(&mut ping, ""))?;
    Ok(out.stdout + &out.stderr)
}

#[test]
fn the_largest_packets_pass_and_larger_ones_are_answered() -> Result<(), LabError> {
    for (config, overhead) in [("", OVERHEAD), ("tunnel: none\n", 0)] {
        for uplink in [1500, 9000] {
            let cluster = cluster(config, uplink)?;
            let mtu = uplink - overhead;
            wait_for_mtu(&cluster, mtu)?;
            let directions = [(0, 1), (1, 0)].map(|(from, to)| (&cluster.pods[from], &cluster.pods[to]));
            let families = [
                (false, format!("(mtu = {mtu})")),
                (true, format!("Packet too big: mtu={mtu}")),
            ];
            for (v6, message) in families {
                for (from, to) in directions {
                    let address = SocketAddr::new(to.ip(v6)?, 7000);
                    let out = ping_whole(from.ns(), address, mtu)?;
                    assert!(out.contains("1 received"), "{mtu} octets over {uplink}: {out}");
                    // The segments of TCP are not too large, without a message that says so.
                    traffic::bulk(from.ns(), to.ns(), address, address.port(), 8 << 20)?;
                    let out = ping_whole(from.ns(), address, mtu + 1)?;
                    assert!(out.contains(&message), "{} octets over {uplink}: {out}", mtu + 1);
                }
                // Both pods now know the MTU, and fragment what is larger.
                for (from, to) in directions {
                    let address = SocketAddr::new(to.ip(v6)?, UDP_PORT);
                    let _echo = UdpServer::echo(to.ns(), UDP_PORT)?;
                    for size in [1, mtu - 48, mtu - 28, mtu - 27, 20_000] {
                        let text = "x".repeat(usize::from(size));
                        let answer = traffic::udp_request(from.ns(), address, text.as_bytes(), BOUND)?;
                        assert!(answer == ProbeOutcome::Answered(text), "{size} octets over {uplink}");
                    }
                }
            }
        }
    }
    Ok(())
}

/// A connection to an echo.
pub struct Stream(TcpStream);

impl Stream {
    pub fn start(from: &NetNs, to: SocketAddr) -> Result<Self, LabError> {
        from.enter(|| {
            let failed = || LabError::io(format!("TCP to {to}"));
            let stream = TcpStream::connect_timeout(&to, BOUND).map_err(failed())?;
            stream.set_read_timeout(Some(4 * BOUND)).map_err(failed())?;
            Ok(Self(stream))
        })
    }

    /// Sends many packets, and compares what comes back.
    pub fn exchange(&mut self) -> Result<(), LabError> {
        let sent: Vec<u8> = (0..100_000_u32).map(|n| (n * 7 + n / 256) as u8).collect();
        let mut received = vec![0; sent.len()];
        for _ in 0..10 {
            self.0.write_all(&sent).map_err(LabError::io("writing"))?;
            self.0.read_exact(&mut received).map_err(LabError::io("reading"))?;
            assert!(sent == received, "other bytes came back");
        }
        Ok(())
    }
}

#[test]
fn a_change_of_the_mtu_is_followed() -> Result<(), LabError> {
    for (config, overhead) in [("", OVERHEAD), ("tunnel: none\n", 0)] {
        let cluster = cluster(config, 1500)?;
        let (a, b) = (&cluster.pods[0], &cluster.pods[1]);
        let _echo = TcpServer::start(b.ns(), ECHO, ServerBehavior::Echo)?;
        let mut streams = Vec::new();
        // A connection is made at each MTU and goes on at all later ones.
        for uplink in [1500, 9000, 1400] {
            set_mtu(&cluster, uplink)?;
            let mtu = uplink - overhead;
            wait_for_mtu(&cluster, mtu)?;
            for v6 in [false, true] {
                let to = SocketAddr::new(b.ip(v6)?, ECHO);
                streams.push(Stream::start(a.ns(), to)?);
                // The pod has learned an earlier, smaller MTU, which it keeps for 10 minutes.
                ip(a.ns(), "route flush cache")?;
                ip(a.ns(), "-6 route flush cache")?;
                let out = ping_whole(a.ns(), to, mtu)?;
                assert!(out.contains("1 received"), "{mtu} octets over {uplink}: {out}");
                let out = ping_whole(a.ns(), to, mtu + 1)?;
                assert!(
                    out.contains(&format!("mtu = {mtu}")) || out.contains(&format!("mtu={mtu}")),
                    "{out}"
                );
            }
            streams.iter_mut().try_for_each(Stream::exchange)?;
        }
    }
    Ok(())
}

/// Ethernet pads frames to 60 octets; the padding is not a part of the packet, neither in the tunnel nor outside of it.
#[test]
fn the_padding_of_a_short_frame_is_not_forwarded() -> Result<(), LabError> {
    const SHORTEST: usize = 60;
    for config in ["", "tunnel: none\n"] {
        let mut cluster = Cluster::start(2, config)?;
        for (node, name) in [(0, "a"), (1, "b")] {
            cluster.add_pod(node, name, name)?;
        }
        let (a, b) = (&cluster.pods[0], &cluster.pods[1]);
        let [to, from] = [a.ip(false)?, b.ip(false)?].map(|ip| match ip {
            std::net::IpAddr::V4(ip) => ip,
            std::net::IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        });
        let receiver = a.ns().enter(|| {
            let socket = std::net::UdpSocket::bind(SocketAddrV4::new(to, UDP_PORT)).map_err(LabError::io("binding"))?;
            socket
                .set_read_timeout(Some(BOUND))
                .map_err(LabError::io("a timeout"))?;
            Ok(socket)
        })?;
        let sender = cluster.nodes[1].ns();
        let macs = [mac_of(cluster.nodes[0].ns(), "eth0")?, mac_of(sender, "eth0")?];
        let (source, target) = (SocketAddrV4::new(from, 999), SocketAddrV4::new(to, UDP_PORT));
        let mut frame = udp_frame(macs[0], macs[1], source, target, b"1");
        frame.resize(SHORTEST, 0xee);
        if config.is_empty() {
            let node = cluster.nodes[0].internal_ips()[0];
            sender.enter(|| {
                let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(LabError::io("binding"))?;
                socket
                    .send_to(&vxlan(1, &frame), (node, 4789))
                    .map_err(LabError::io("sending"))
            })?;
        } else {
            send_frame(sender, "eth0", &frame)?;
        }
        let mut buffer = [0; 100];
        let (n, peer) = receiver.recv_from(&mut buffer).map_err(LabError::io("receiving"))?;
        assert_eq!((&buffer[..n], peer), (&b"1"[..], SocketAddr::from(source)));
        tells(&ask(a.ns(), from.into(), PORT)?, "b", to.into());
    }
    Ok(())
}
