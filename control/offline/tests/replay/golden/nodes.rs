//! Other nodes: packets that leave by a tunnel and come in by one, node ports at the uplink, sizes, fragments and refusals. The
//! network between the nodes is IPv4 to node-2 and IPv6 to node-3; inner packets are of either family.

use heddle_wire::testing::{Packet, ip};
use heddle_wire::{Ip, MacAddr, Proto, TcpFlags, vxlan};

use super::fragments::{DATA, halves};
use super::{CLIENT, Family, HOST, UPLINK, WEB, by_host, from, play};
use crate::script::step;
use crate::tunnel::VNI;

const SYN_ACK: TcpFlags = TcpFlags(TcpFlags::SYN.0 | TcpFlags::ACK.0);
/// The neighbor of the uplink by which all packets come in.
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
const UPLINK_MAC: MacAddr = MacAddr([2, 0, 192, 0, 2, 1]);
/// The outer addresses of node-2, node-3 and node-1.
const NODE_2: &str = "192.0.2.2";
const NODE_3: &str = "2001:db8::3";
const NODE_1: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// A router outside.
const ROUTERS: [&str; 2] = ["203.0.113.1", "2001:db8:ffff::1"];
/// Flags of VXLAN: there is a network identifier.
const HAS_VNI: u8 = 8;

/// Returns a packet that comes in by the uplink without a tunnel.
fn plain(src: Ip, dst: Ip) -> Packet {
    Packet::new(ROUTER, UPLINK_MAC, src, dst)
}

/// Returns a packet for the inside of a tunnel.
fn inside(src: Ip, dst: Ip) -> Packet {
    Packet::new(MacAddr([2, 0, 0, 0, 0, 2]), MacAddr::GATEWAY, src, dst)
}

/// Returns the outer packet from an address to node-1.
fn outer(src: &str) -> Packet {
    let src = ip(src);
    plain(src, ip(NODE_1[usize::from(!src.is_v4())]))
}

/// Encapsulates a frame as the node with this address does.
fn by(node: &str, frame: &[u8]) -> Vec<u8> {
    with(node, [HAS_VNI, 0, 0, 0], VNI << 8, frame)
}

/// Encapsulates a frame with the two words of a VXLAN header.
fn with(node: &str, flags: [u8; 4], network: u32, frame: &[u8]) -> Vec<u8> {
    let payload = [&flags[..], &network.to_be_bytes(), frame].concat();
    outer(node).udp(50_000, vxlan::PORT, &payload)
}

/// Returns the addresses of node-2 and node-3 with their pods.
fn others(f: &Family) -> [(&'static str, Ip); 2] {
    [(NODE_2, f.remote), (NODE_3, f.remote_3)]
}

#[test]
fn to_a_pod_of_another_node_and_back() {
    play("to_a_pod_of_another_node_and_back", |f| {
        let both = others(f).into_iter().flat_map(|(node, pod)| {
            let there = from(10, f.client, pod);
            let back = inside(pod, f.client);
            [
                step(
                    "TCP leaves by the tunnel",
                    CLIENT,
                    there.tcp(40_000, 80, TcpFlags::SYN, 1, 0, b""),
                ),
                step(
                    "its answer comes by the tunnel",
                    UPLINK,
                    by(node, &back.tcp(80, 40_000, SYN_ACK, 1, 2, b"")),
                ),
                step(
                    "data",
                    CLIENT,
                    there.clone().partial().tcp(40_000, 80, TcpFlags::ACK, 2, 2, b"GET /"),
                ),
                step("UDP", CLIENT, there.udp(40_001, 53, b"query")),
                step("its answer", UPLINK, by(node, &back.udp(53, 40_001, b"answer"))),
                step("a ping", CLIENT, there.echo_request(7, 1, b"ping")),
                step("its answer", UPLINK, by(node, &back.echo_reply(7, 1, b"ping"))),
                step("SCTP", CLIENT, there.sctp(40_002, 99, 7, b"\x01\x00\x00\x04")),
                step(
                    "its answer",
                    UPLINK,
                    by(node, &back.sctp(99, 40_002, 7, b"\x02\x00\x00\x04")),
                ),
                step(
                    "the TTL expires here: the gateway answers",
                    CLIENT,
                    there.ttl(1).udp(40_001, 53, b"x"),
                ),
            ]
        });
        both.collect()
    });
}

#[test]
fn from_a_pod_of_another_node_and_back() {
    play("from_a_pod_of_another_node_and_back", |f| {
        let both = others(f).into_iter().flat_map(|(node, pod)| {
            let there = |to| inside(pod, to);
            [
                step(
                    "TCP to a pod comes by the tunnel",
                    UPLINK,
                    by(node, &there(f.web).tcp(40_010, 8080, TcpFlags::SYN, 1, 0, b"")),
                ),
                step(
                    "its answer",
                    WEB,
                    from(20, f.web, pod).tcp(8080, 40_010, SYN_ACK, 1, 2, b""),
                ),
                step("a ping", UPLINK, by(node, &there(f.web).echo_request(8, 1, b"ping"))),
                step("its answer", WEB, from(20, f.web, pod).echo_reply(8, 1, b"ping")),
                step(
                    "to a pod that policy closes",
                    UPLINK,
                    by(node, &there(f.closed).tcp(40_011, 8080, TcpFlags::SYN, 1, 0, b"")),
                ),
                step(
                    "to this node's own address",
                    UPLINK,
                    by(node, &there(f.node).tcp(40_012, 22, TcpFlags::SYN, 1, 0, b"")),
                ),
                step(
                    "its answer: the kernel routes pods to heddle",
                    HOST,
                    by_host(f.node, pod).tcp(22, 40_012, SYN_ACK, 1, 2, b""),
                ),
                step(
                    "the TTL expires: the answer goes back by the tunnel",
                    UPLINK,
                    by(node, &there(f.web).ttl(1).udp(40_013, 53, b"x")),
                ),
                step(
                    "to a local address without a pod",
                    UPLINK,
                    by(node, &there(unused(f)).tcp(40_014, 80, TcpFlags::SYN, 1, 0, b"")),
                ),
                step(
                    "to the outside: heddle is no router between others",
                    UPLINK,
                    by(node, &there(f.outside).udp(40_015, 53, b"x")),
                ),
            ]
        });
        both.collect()
    });
}

/// Returns an address in the pod ranges of node-1 that no pod has.
fn unused(f: &Family) -> Ip {
    ip(if f.client.is_v4() { "10.1.0.99" } else { "fd00:1::99" })
}

#[test]
fn the_own_addresses_of_nodes() {
    play("the_own_addresses_of_nodes", |f| {
        vec![
            step(
                "a pod to another node's own address: by the tunnel, so that the node sees the pod's address",
                CLIENT,
                from(10, f.client, f.other_node).tcp(40_020, 22, TcpFlags::SYN, 1, 0, b""),
            ),
            step(
                "its answer",
                UPLINK,
                by(
                    NODE_2,
                    &inside(f.other_node, f.client).tcp(22, 40_020, SYN_ACK, 1, 2, b""),
                ),
            ),
            step(
                "a process of another node to a pod",
                UPLINK,
                by(
                    NODE_2,
                    &inside(f.other_node, f.web).tcp(40_021, 8080, TcpFlags::SYN, 1, 0, b""),
                ),
            ),
            step(
                "its answer",
                WEB,
                from(20, f.web, f.other_node).tcp(8080, 40_021, SYN_ACK, 1, 2, b""),
            ),
            step(
                "a process of this node to another node's pod",
                HOST,
                by_host(f.node, f.remote).tcp(40_022, 8080, TcpFlags::SYN, 1, 0, b""),
            ),
            step(
                "its answer",
                UPLINK,
                by(NODE_2, &inside(f.remote, f.node).tcp(8080, 40_022, SYN_ACK, 1, 2, b"")),
            ),
        ]
    });
}

#[test]
fn services_with_a_backend_on_another_node() {
    play("services_with_a_backend_on_another_node", |f| {
        let syn = |port, to_port, p: Packet| p.tcp(port, to_port, TcpFlags::SYN, 1, 0, b"");
        let [far, near, between] = if f.node.is_v4() { SOURCE_PORTS.0 } else { SOURCE_PORTS.1 };
        vec![
            step(
                "a pod through a ClusterIP: the backend sees the pod",
                CLIENT,
                syn(40_030, 80, from(10, f.client, f.far)),
            ),
            step(
                "its answer comes from the Service",
                UPLINK,
                by(
                    NODE_2,
                    &inside(f.remote, f.client).tcp(8080, 40_030, SYN_ACK, 1, 2, b""),
                ),
            ),
            step(
                "a process of the node through a ClusterIP",
                HOST,
                syn(40_031, 80, by_host(f.node, f.far)),
            ),
            step(
                "its answer",
                UPLINK,
                by(NODE_2, &inside(f.remote, f.node).tcp(8080, 40_031, SYN_ACK, 1, 2, b"")),
            ),
            step(
                "a client outside to a node port: masqueraded, so that the answer comes back here",
                UPLINK,
                syn(40_032, 30_081, plain(f.outside, f.node)),
            ),
            step(
                "the answer leaves to the client without a tunnel",
                UPLINK,
                by(NODE_2, &inside(f.remote, f.node).tcp(8080, far, SYN_ACK, 1, 2, b"")),
            ),
            step(
                "a client outside to a node port of traffic policy Local: the backend sees the client",
                UPLINK,
                syn(40_033, 30_080, plain(f.outside, f.node)),
            ),
            step(
                "its answer",
                WEB,
                from(20, f.web, f.outside).tcp(8080, 40_033, SYN_ACK, 1, 2, b""),
            ),
            step(
                "a client outside to a node port of traffic policy Cluster, with a local backend",
                UPLINK,
                syn(40_034, 30_082, plain(f.outside, f.node)),
            ),
            step(
                "its answer",
                WEB,
                from(20, f.web, f.masquerade).tcp(8080, near, SYN_ACK, 1, 2, b""),
            ),
            step(
                "a pod of node-3 to this node's node port: the backend on node-2 sees this node",
                UPLINK,
                by(NODE_3, &syn(40_035, 30_081, inside(f.remote_3, f.node))),
            ),
            step(
                "the answer leaves by the other tunnel",
                UPLINK,
                by(NODE_2, &inside(f.remote, f.node).tcp(8080, between, SYN_ACK, 1, 2, b"")),
            ),
        ]
    });
}

/// The source ports of masqueraded connections, IPv4 and IPv6. They are constant, because the replay's hash has a fixed seed.
const SOURCE_PORTS: ([u16; 3], [u16; 3]) = ([61_942, 65_025, 64_382], [64_170, 65_041, 62_253]);

#[test]
fn sizes_and_fragments_by_the_tunnel() {
    play("sizes_and_fragments_by_the_tunnel", |f| {
        let both = others(f).into_iter().flat_map(|(node, pod)| {
            let there = |id| from(10, f.client, pod).identification(id);
            let long = vec![7; 1460];
            let [first, second] = halves(&inside(pod, f.web), 1, |p| p.udp(40_040, 53, DATA));
            let [late, early] = halves(&inside(pod, f.web), 2, |p| p.udp(40_041, 53, DATA));
            let [out, rest] = halves(&from(20, f.web, pod), 3, |p| p.udp(53, 40_040, DATA));
            let mut steps = vec![
                step(
                    "too big for the tunnel: the error has its MTU",
                    CLIENT,
                    from(10, f.client, pod).udp(40_042, 53, &long),
                ),
                step("a first fragment by the tunnel", UPLINK, by(node, &first)),
                step("the other one", UPLINK, by(node, &second)),
                step("a later fragment before its first", UPLINK, by(node, &early)),
                step("both leave", UPLINK, by(node, &late)),
                step("a fragment to the tunnel", WEB, out),
                step("the other one has the same outer port", WEB, rest),
            ];
            if f.client.is_v4() {
                steps.push(step(
                    "a datagram without DF is cut before the tunnel",
                    CLIENT,
                    there(9).dont_fragment(false).udp(40_042, 53, &long),
                ));
            }
            steps
        });
        both.collect()
    });
}

#[test]
fn what_the_tunnel_does_not_take() {
    play("what_the_tunnel_does_not_take", |f| {
        let both = others(f).into_iter().flat_map(|(node, pod)| {
            let datagram = |src| inside(src, f.web).udp(40_050, 53, b"x");
            let good = datagram(pod);
            let other_pod = if node == NODE_2 { f.remote_3 } else { f.remote };
            let stranger = if node == NODE_2 {
                "203.0.113.7"
            } else {
                "2001:db8:ffff::7"
            };
            let whole = by(node, &good);
            let at = if node == NODE_2 { 34 } else { 54 };
            let pieces = |id| outer(node).identification(id);
            [
                step("a pod's packet", UPLINK, whole.clone()),
                step(
                    "the source is a pod of another node",
                    UPLINK,
                    by(node, &datagram(other_pod)),
                ),
                step(
                    "the source is a pod of this node",
                    UPLINK,
                    by(node, &datagram(f.client)),
                ),
                step("the source is this node", UPLINK, by(node, &datagram(f.node))),
                step("the source is outside", UPLINK, by(node, &datagram(f.outside))),
                step("the sender is no node", UPLINK, by(stranger, &good)),
                step(
                    "another network identifier",
                    UPLINK,
                    with(node, [HAS_VNI, 0, 0, 0], 2 << 8, &good),
                ),
                step("no network identifier", UPLINK, with(node, [0; 4], VNI << 8, &good)),
                step(
                    "a reserved flag",
                    UPLINK,
                    with(node, [HAS_VNI | 4, 0, 0, 0], VNI << 8, &good),
                ),
                step(
                    "a reserved bit of the second word",
                    UPLINK,
                    with(node, [HAS_VNI, 0, 0, 0], VNI << 8 | 1, &good),
                ),
                step(
                    "a fragment of an outer packet",
                    UPLINK,
                    pieces(1).fragment(0, true).raw(Proto::UDP, &whole[at..at + 32]),
                ),
                step(
                    "its other fragment",
                    UPLINK,
                    pieces(1).fragment(32, false).raw(Proto::UDP, &whole[at + 32..]),
                ),
                step("nothing behind the VXLAN header", UPLINK, by(node, b"")),
                step(
                    "a tunnel in the tunnel is a datagram to this node",
                    UPLINK,
                    by(
                        node,
                        &inside(pod, f.node).udp(
                            50_000,
                            vxlan::PORT,
                            &[&[HAS_VNI, 0, 0, 0, 0, 0, 1, 0], &good[..]].concat(),
                        ),
                    ),
                ),
                step(
                    "a pod's packet without a tunnel",
                    UPLINK,
                    plain(pod, f.web).udp(40_050, 53, b"x"),
                ),
            ]
        });
        both.collect()
    });
}

#[test]
fn direct_server_return() {
    play("direct_server_return", |f| {
        let here = plain(f.outside, f.node);
        // Node-2 forwards a connection that came to its own node port.
        let there = || inside(f.outside, f.other_node);
        let answer = from(20, f.web, f.outside).tcp(8080, 40_051, SYN_ACK, 1, 2, b"");
        let error = if f.node.is_v4() { (3, 4) } else { (2, 0) };
        vec![
            step(
                "a client outside to a node port: its packet goes to the backend's node as it is",
                UPLINK,
                here.tcp(40_050, 30_083, TcpFlags::SYN, 1, 0, b""),
            ),
            step(
                "the client has seen the SYN-ACK, which took another way",
                UPLINK,
                here.tcp(40_050, 30_083, TcpFlags::ACK, 2, 2, b"GET /"),
            ),
            step(
                "a connection that is not known any more goes there too",
                UPLINK,
                here.tcp(40_052, 30_083, TcpFlags::ACK, 2, 2, b"GET /"),
            ),
            step(
                "node-2 forwards a client's packet: the backend sees the client",
                UPLINK,
                by(NODE_2, &there().mss(9000).tcp(40_051, 30_084, TcpFlags::SYN, 1, 0, b"")),
            ),
            step(
                "its answer leaves by the kernel, from the address that the client asked",
                WEB,
                answer,
            ),
            step(
                "node-2 forwards a segment of a connection from before the start: it is adopted",
                UPLINK,
                by(NODE_2, &there().tcp(40_053, 30_084, TcpFlags::ACK, 2, 2, b"GET /")),
            ),
            step(
                "a router's error about an answer comes by the node that the client asked",
                UPLINK,
                by(
                    NODE_2,
                    &inside(ip(ROUTERS[usize::from(!f.node.is_v4())]), f.other_node).icmp_error(
                        error.0,
                        error.1,
                        1400,
                        &by_host(f.other_node, f.outside).tcp(30_084, 40_051, SYN_ACK, 1, 2, b""),
                    ),
                ),
            ),
            step(
                "node-2 forwards a client's packet to a pod: it may not",
                UPLINK,
                by(
                    NODE_2,
                    &inside(f.outside, f.web).tcp(40_054, 8080, TcpFlags::SYN, 1, 0, b""),
                ),
            ),
            step(
                "node-2 forwards a client's packet to a port that is no Service's",
                UPLINK,
                by(NODE_2, &there().tcp(40_055, 22, TcpFlags::SYN, 1, 0, b"")),
            ),
        ]
    });
}
