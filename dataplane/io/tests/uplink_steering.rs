//! The packets that the uplink's program steers, each rule with packets that match and packets that just do not, for both families
//! and both modes. Each test is in namespaces of its own. They need root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod harness;

use std::collections::BTreeSet;

use harness::nic::{At, Rig, with_pins};
use heddle_io::XdpMode;
use heddle_io::uplink::{Steering, UplinkCounters};
use heddle_wire::testing::{self, ip, mac};
use heddle_wire::{Proto, TcpFlags};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// One family's addresses.
#[derive(Clone, Copy)]
struct Family {
    any: &'static str,
    node: &'static str,
    other: &'static str,
    client: &'static str,
    balancer: &'static str,
    pod: &'static str,
    pods: &'static str,
    peer: &'static str,
    peers: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        any: "0.0.0.0",
        node: "192.0.2.1",
        other: "192.0.2.2",
        client: "198.51.100.9",
        balancer: "203.0.113.5",
        pod: "10.244.1.5",
        pods: "10.244.1.0/24",
        peer: "10.244.2.5",
        peers: "10.244.2.0/24",
    },
    Family {
        any: "::",
        node: "fd00::1",
        other: "fd00::2",
        client: "2001:db8::9",
        balancer: "2001:db8:1::5",
        pod: "fd00:1::5",
        pods: "fd00:1::/64",
        peer: "fd00:2::5",
        peers: "fd00:2::/64",
    },
];

impl Family {
    /// A packet from the wire to the NIC.
    fn packet(&self, src: &str, dst: &str) -> testing::Packet {
        testing::Packet::new(mac(1), mac(2), ip(src), ip(dst))
    }

    /// A packet from a client to an address.
    fn to(&self, dst: &str) -> testing::Packet {
        self.packet(self.client, dst)
    }

    /// An ICMP error of a router on the path about a packet that went to the client: destination unreachable.
    fn unreachable(&self, dst: &str, quoted: &[u8]) -> Vec<u8> {
        let kind = if self.v4() { 3 } else { 1 };
        self.packet(self.other, dst).icmp_error(kind, 0, 0, quoted)
    }

    fn v4(&self) -> bool {
        self.any == "0.0.0.0"
    }
}

fn steering() -> Steering {
    let mut steering = Steering {
        tunnel_port: Some(4789),
        masquerade_ports: Some(61_000..=61_999),
        ..Steering::default()
    };
    for family in FAMILIES {
        steering.addresses.insert(family.node.parse().unwrap());
        steering.frontends.insert((family.any.parse().unwrap(), TCP, 30_000));
        steering.frontends.insert((family.node.parse().unwrap(), UDP, 30_001));
        steering.frontends.insert((family.balancer.parse().unwrap(), TCP, 80));
        steering.frontends.insert((family.balancer.parse().unwrap(), SCTP, 80));
        steering.pods.insert(family.pods.parse().unwrap());
        steering.peers.insert(family.peers.parse().unwrap());
    }
    steering
}

/// Runs a test for both families and both modes.
fn in_both_modes(test: fn(&mut Rig, Family)) {
    for mode in [XdpMode::Native, XdpMode::Generic] {
        with_pins(move |pins| {
            let mut rig = Rig::new(pins, mode, &steering());
            FAMILIES.into_iter().for_each(|family| test(&mut rig, family));
            rig.close();
        });
    }
}

/// A TCP segment from a client's port.
fn segment(packet: &testing::Packet, sport: u16, dport: u16) -> Vec<u8> {
    packet.tcp(sport, dport, TcpFlags::SYN, 1, 0, b"")
}

#[test]
fn pods_of_this_node() {
    in_both_modes(|rig, family| {
        let to_pod = family.to(family.pod);
        assert_eq!(rig.send(&segment(&to_pod, 4000, 1)), At::Heddle);
        assert_eq!(rig.send(&to_pod.clone().ttl(1).raw(Proto(47), &[0; 20])), At::Heddle);
        assert_eq!(
            rig.send(&to_pod.fragment(1480, false).raw(Proto::UDP, &[0; 64])),
            At::Heddle
        );
        assert_eq!(rig.send(&segment(&family.to(family.peer), 4000, 1)), At::Kernel);
        // Without direct routing there are no pod ranges.
        let without = Steering {
            pods: BTreeSet::new(),
            ..steering()
        };
        rig.uplink.set(&without).unwrap();
        assert_eq!(rig.send(&segment(&family.to(family.pod), 4000, 1)), At::Kernel);
        rig.uplink.set(&steering()).unwrap();
        assert_eq!(rig.send(&segment(&family.to(family.pod), 4000, 1)), At::Heddle);
    });
}

#[test]
fn the_tunnel_at_this_nodes_addresses() {
    in_both_modes(|rig, family| {
        assert_eq!(rig.send(&family.to(family.node).udp(5000, 4789, &[0; 60])), At::Heddle);
        assert_eq!(rig.send(&family.to(family.node).udp(5000, 4790, &[0; 60])), At::Kernel);
        assert_eq!(rig.send(&family.to(family.other).udp(5000, 4789, &[0; 60])), At::Kernel);
        assert_eq!(rig.send(&segment(&family.to(family.node), 5000, 4789)), At::Kernel);
        let without = Steering {
            tunnel_port: None,
            ..steering()
        };
        rig.uplink.set(&without).unwrap();
        assert_eq!(rig.send(&family.to(family.node).udp(5000, 4789, &[0; 60])), At::Kernel);
        assert_eq!(rig.send(&family.to(family.node).udp(5000, 0, &[0; 60])), At::Kernel);
        rig.uplink.set(&steering()).unwrap();
    });
}

#[test]
fn node_ports_and_frontends() {
    in_both_modes(|rig, family| {
        let to_node = family.to(family.node);
        // Any address of the node.
        assert_eq!(rig.send(&segment(&to_node, 4000, 30_000)), At::Heddle);
        assert_eq!(rig.send(&segment(&family.to(family.other), 4000, 30_000)), At::Kernel);
        assert_eq!(rig.send(&to_node.udp(4000, 30_000, b"")), At::Kernel);
        assert_eq!(rig.send(&segment(&to_node, 30_000, 4000)), At::Kernel);
        // One address.
        assert_eq!(rig.send(&to_node.udp(4000, 30_001, b"")), At::Heddle);
        assert_eq!(rig.send(&segment(&to_node, 4000, 30_001)), At::Kernel);
        // An address that is not the node's.
        let to_balancer = family.to(family.balancer);
        assert_eq!(rig.send(&segment(&to_balancer, 4000, 80)), At::Heddle);
        assert_eq!(rig.send(&to_balancer.sctp(4000, 80, 1, &[0; 16])), At::Heddle);
        assert_eq!(rig.send(&segment(&to_balancer, 4000, 81)), At::Kernel);
        assert_eq!(rig.send(&segment(&to_balancer, 4000, 30_000)), At::Kernel);
        assert_eq!(rig.send(&to_balancer.echo_request(1, 1, b"")), At::Kernel);
        // The unspecified address is nobody's.
        assert_eq!(rig.send(&segment(&family.to(family.any), 4000, 30_000)), At::Kernel);
        // Options and extension headers are skipped, but not five of them.
        let long = if family.v4() {
            to_node.clone().ip_options(&[1; 40])
        } else {
            let rest = [0, 1, 4, 0, 0, 0, 0];
            (0..4).fold(to_node.clone(), |packet, _| packet.extension(60, &rest))
        };
        assert_eq!(rig.send(&segment(&long, 4000, 30_000)), At::Heddle);
        if !family.v4() {
            let longer = long.extension(60, &[0, 1, 4, 0, 0, 0, 0]);
            assert_eq!(rig.send(&segment(&longer, 4000, 30_000)), At::Kernel);
        }
        // Ports in the Ethernet padding are none.
        let short = to_node.padding(20).raw(Proto::TCP, &[0x0f, 0xa0]);
        assert_eq!(rig.send(&short), At::Kernel);
    });
}

#[test]
fn replies_to_masqueraded_connections() {
    in_both_modes(|rig, family| {
        let to_node = family.to(family.node);
        for port in [61_000, 61_999] {
            assert_eq!(rig.send(&segment(&to_node, 443, port)), At::Heddle);
            assert_eq!(rig.send(&to_node.udp(53, port, b"")), At::Heddle);
            assert_eq!(rig.send(&to_node.sctp(53, port, 1, &[0; 16])), At::Heddle);
            assert_eq!(rig.send(&to_node.echo_reply(port, 1, b"")), At::Heddle);
            assert_eq!(rig.send(&to_node.echo_request(port, 1, b"")), At::Kernel);
            assert_eq!(rig.send(&segment(&family.to(family.other), 443, port)), At::Kernel);
        }
        for port in [60_999, 62_000] {
            assert_eq!(rig.send(&segment(&to_node, 443, port)), At::Kernel);
            assert_eq!(rig.send(&to_node.echo_reply(port, 1, b"")), At::Kernel);
        }
    });
}

#[test]
fn pods_of_nodes_that_are_routed_directly() {
    in_both_modes(|rig, family| {
        let from_peer = family.packet(family.peer, family.node);
        assert_eq!(rig.send(&segment(&from_peer, 4000, 10_250)), At::Heddle);
        assert_eq!(rig.send(&from_peer.echo_request(1, 1, b"")), At::Heddle);
        let from_peer = family.packet(family.peer, family.other);
        assert_eq!(rig.send(&segment(&from_peer, 4000, 10_250)), At::Kernel);
        assert_eq!(rig.send(&segment(&family.to(family.node), 4000, 10_250)), At::Kernel);
    });
}

#[test]
fn errors_about_packets_of_heddle() {
    in_both_modes(|rig, family| {
        let from = |src: &str| family.packet(src, family.client);
        let (node, balancer) = (from(family.node), from(family.balancer));
        let heddle = [
            node.udp(5000, 4789, &[0; 20]),
            segment(&node, 61_500, 443),
            node.echo_request(61_500, 1, b"ping"),
            segment(&node, 30_000, 4000),
            node.udp(30_001, 4000, b""),
            segment(&balancer, 80, 4000),
            segment(&from(family.pod), 8080, 4000),
        ];
        for quoted in heddle {
            assert_eq!(rig.send(&family.unreachable(family.node, &quoted)), At::Heddle);
        }
        let kernel = [
            segment(&node, 45_000, 443),
            node.echo_request(5, 1, b"ping"),
            node.echo_reply(61_500, 1, b"ping"),
            node.udp(30_000, 4000, b""),
            segment(&balancer, 81, 4000),
            segment(&from(family.other), 61_500, 443),
            segment(&from(family.peer), 8080, 4000),
            node.clone().fragment(1480, false).raw(Proto::TCP, &[0xee; 8]),
        ];
        for quoted in kernel {
            assert_eq!(rig.send(&family.unreachable(family.node, &quoted)), At::Kernel);
        }
        // At an address that is not the node's, frontends alone count.
        let about = segment(&balancer, 80, 4000);
        assert_eq!(rig.send(&family.unreachable(family.balancer, &about)), At::Heddle);
        let about = segment(&node, 61_500, 443);
        assert_eq!(rig.send(&family.unreachable(family.other, &about)), At::Kernel);

        // Each kind of error, and messages that are none.
        let about = segment(&node, 61_500, 443);
        let (errors, others) = if family.v4() {
            (&[3u8, 11, 12][..], &[4u8, 5, 8][..])
        } else {
            (&[1, 2, 3, 4][..], &[128, 5][..])
        };
        let router = family.packet(family.other, family.node);
        for kind in errors {
            assert_eq!(rig.send(&router.icmp_error(*kind, 0, 1400, &about)), At::Heddle);
        }
        for kind in others {
            assert_eq!(rig.send(&router.icmp_error(*kind, 0, 0, &about)), At::Kernel);
        }
        // A quote of eight octets behind the header suffices (RFC 792), and a shorter one does not.
        let header = about.len() - 20;
        assert_eq!(
            rig.send(&family.unreachable(family.node, &about[..header + 8])),
            At::Heddle
        );
        assert_eq!(
            rig.send(&family.unreachable(family.node, &about[..header + 3])),
            At::Kernel
        );
    });
}

#[test]
fn later_fragments_follow_the_first() {
    in_both_modes(|rig, family| {
        for (dst, port) in [(family.node, 30_001), (family.node, 61_500), (family.node, 4789)] {
            let datagram = family.to(dst).identification(u32::from(port));
            let first = datagram.clone().fragment(0, true);
            let later = datagram.fragment(1480, false).raw(Proto::UDP, &[7; 40]);
            assert_eq!(rig.send(&later), At::Kernel, "before the first");
            let [a, b] = u16::to_be_bytes(port);
            assert_eq!(rig.send(&first.raw(Proto::UDP, &[16, 0, a, b, 5, 0, 0, 0])), At::Heddle);
            assert_eq!(rig.send(&later), At::Heddle);
            // Another datagram.
            let other = family.to(dst).identification(77).fragment(1480, false);
            assert_eq!(rig.send(&other.raw(Proto::UDP, &[7; 40])), At::Kernel);
            let other = family
                .packet(family.other, dst)
                .identification(u32::from(port))
                .fragment(1480, false);
            assert_eq!(rig.send(&other.raw(Proto::UDP, &[7; 40])), At::Kernel);
            // The identification is used again, by a datagram of the kernel's.
            assert_eq!(
                rig.send(&first.raw(Proto::UDP, &[16, 0, 0, 99, 5, 0, 0, 0])),
                At::Kernel
            );
            assert_eq!(rig.send(&later), At::Kernel);
        }
        // A frontend that is no address of the node.
        let datagram = family.to(family.balancer).identification(5);
        let first = datagram
            .clone()
            .fragment(0, true)
            .raw(Proto::TCP, &[16, 0, 0, 80, 0, 0, 0, 0]);
        let later = datagram.fragment(8, false).raw(Proto::TCP, &[7; 40]);
        assert_eq!((rig.send(&first), rig.send(&later)), (At::Heddle, At::Heddle));
        // From a pod that is routed directly, a later fragment needs no first one.
        let later = family.packet(family.peer, family.node).fragment(8, false);
        assert_eq!(rig.send(&later.raw(Proto::UDP, &[7; 40])), At::Heddle);
    });
}

#[test]
fn tagged_multicast_and_other_frames_are_the_kernels() {
    in_both_modes(|rig, family| {
        let frame = segment(&family.to(family.node), 4000, 30_000);
        assert_eq!(rig.send(&frame), At::Heddle);
        for tag in [[0x81, 0, 0, 5], [0x88, 0xa8, 0, 5]] {
            let tagged = [&frame[..12], &tag, &frame[12..]].concat();
            rig.wire.send(&tagged);
            // The kernel shows the frame without its tag.
            assert_eq!(rig.kernel.receive(harness::SOON).unwrap().len(), frame.len());
        }
        let mut group = frame.clone();
        group[..6].copy_from_slice(&[0xff; 6]);
        assert_eq!(rig.send(&group), At::Kernel);
        assert_eq!(rig.send(&harness::frame(1, 60)), At::Kernel);
        assert_eq!(rig.send(&frame[..14 + 18]), At::Kernel);
        let mut version = frame;
        version[14] = 0x55;
        assert_eq!(rig.send(&version), At::Kernel);
    });
}

#[test]
fn packets_are_counted() {
    with_pins(|pins| {
        let mut rig = Rig::new(pins, XdpMode::Native, &steering());
        let before = rig.uplink.counters().unwrap();
        for _ in 0..3 {
            rig.send(&segment(&FAMILIES[0].to(FAMILIES[0].node), 4000, 30_000));
        }
        rig.send(&segment(&FAMILIES[0].to(FAMILIES[0].node), 4000, 22));
        let after = rig.uplink.counters().unwrap();
        assert_eq!(
            after,
            UplinkCounters {
                passed: before.passed + 1,
                steered: before.steered + 3,
            }
        );
        rig.close();
    });
}
