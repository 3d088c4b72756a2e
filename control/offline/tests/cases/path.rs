//! The path of a first packet from node to node, and of the answer back.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use heddle_engine::{AnswerKind, DropReason};
use heddle_flow::Egress;
use heddle_offline::simulate::ClusterTables;
use heddle_offline::simulate::resolve::ResolvedProbe;
use heddle_tables::{EndpointId, NodeId, Place, ServiceLookup, Snapshot};
use heddle_wire::rewrite::{Tuple, set_macs};
use heddle_wire::testing::{Packet, assert_valid};
use heddle_wire::{Ip, MacAddr, Parsed, Proto, TcpFlags, parse, vxlan};

use crate::node::{Ended, Node};

/// The neighbor of every node's uplink.
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
/// A chunk INIT of SCTP (RFC 9260 section 3.3.2): tag, window, streams out and in, first TSN.
const INIT: [u8; 20] = [1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1];
/// A chunk INIT ACK (section 3.3.3) without its mandatory cookie, which nothing on the path reads.
const INIT_ACK: [u8; 20] = [2, 0, 0, 20, 0, 0, 0, 9, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1];

/// A packet's passage through one node.
#[derive(Clone)]
struct Hop {
    node: String,
    entered: EndpointId,
    seen: Tuple,
    left: Egress,
    sent: Tuple,
}

/// The end of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It arrives in a pod.
    Arrived,
    /// It leaves to the kernel of a node, which is its destination or routes it.
    Left,
    /// It reaches no worker.
    NeverEnters,
    /// It is answered with a reset or "port unreachable".
    Rejected,
    /// It is dropped.
    Dropped(DropReason),
}

/// The path of a packet through nodes.
pub struct PacketPath {
    hops: Vec<Hop>,
    pub end: End,
}

/// The nodes of a case.
#[derive(Default)]
pub struct Nodes(BTreeMap<String, Node>);

impl Nodes {
    /// Removes all connections of all nodes.
    pub fn remove_connections(&mut self) {
        self.0.values_mut().for_each(Node::remove_connections);
    }

    fn node(&mut self, name: &str) -> &mut Node {
        self.0.entry(name.to_owned()).or_insert_with(Node::new)
    }
}

/// The port by which a packet reaches the workers of its entry node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entrance {
    /// The pod's own port: the source is a pod of the node.
    Pod(EndpointId),
    /// The host port: the source is the node itself, or a pod of its network.
    Host,
    /// The uplink, by the tunnel of the node that the source belongs to.
    Tunnel(NodeId),
    /// The uplink, outside of tunnels: the source is outside, or a node that sends to this node's own addresses.
    Uplink,
}

impl Entrance {
    pub fn of(snapshot: &Snapshot, asked: &ResolvedProbe) -> Self {
        let to = snapshot.address(Ip::from(asked.to)).place;
        match snapshot.address(Ip::from(asked.from)).place {
            Place::Local(pod) => Self::Pod(pod),
            Place::Host => Self::Host,
            Place::Node(node) => Self::Tunnel(node),
            // A node's processes send to other nodes' addresses without heddle.
            Place::RemoteHost(node) if matches!(to, Place::Local(_)) => Self::Tunnel(node),
            Place::RemoteHost(_) | Place::Unreachable | Place::Outside => Self::Uplink,
        }
    }

    const fn endpoint(self) -> EndpointId {
        match self {
            Self::Pod(pod) => pod,
            Self::Host => EndpointId::HOST,
            Self::Tunnel(_) | Self::Uplink => EndpointId::UPLINK,
        }
    }
}

/// Sends the first packet of a connection on its path, from node to node by the tunnel.
pub fn travel(
    tables: &mut ClusterTables,
    nodes: &mut Nodes,
    asked: &ResolvedProbe,
    sport: u16,
) -> Result<PacketPath, String> {
    let mut path = PacketPath {
        hops: Vec::new(),
        end: End::NeverEnters,
    };
    let mut seen = Tuple {
        src: Ip::from(asked.from),
        dst: Ip::from(asked.to),
        sport,
        dport: asked.port,
    };
    let mut at = asked.entry.clone();
    let snapshot = Arc::clone(tables.node_tables(&at).snapshot());
    let entrance = Entrance::of(&snapshot, asked);
    if bypasses_workers(&snapshot, entrance, seen, asked) {
        return Ok(path);
    }
    let mut entered = entrance.endpoint();
    let mut frame = first_packet(&snapshot, entered, seen, asked.proto);
    if let Entrance::Tunnel(node) = entrance {
        frame = encapsulate(&snapshot, node, &frame)?;
    }
    loop {
        let snapshot = Arc::clone(tables.node_tables(&at).snapshot());
        match nodes.node(&at).receive(&snapshot, entered, &frame) {
            Ended::Dropped(reason) => {
                path.end = End::Dropped(reason);
                return Ok(path);
            }
            Ended::Answered(kind, answer) => {
                check_rejection(kind, &innermost(&answer)?, seen, asked.proto)?;
                path.end = End::Rejected;
                return Ok(path);
            }
            Ended::Sent(left, out) => {
                let sent = tuple_of(&innermost(&out)?)?.1;
                path.hops.push(Hop {
                    node: at.clone(),
                    entered,
                    seen,
                    left,
                    sent,
                });
                let Egress::Node(node) = left else {
                    path.end = match left {
                        Egress::Endpoint(to) if to.is_pod() => End::Arrived,
                        _ => End::Left,
                    };
                    return Ok(path);
                };
                if path.hops.len() > 2 {
                    return Err("it goes from node to node".to_owned());
                }
                at = name_of(&snapshot, node)?;
                let there = Arc::clone(tables.node_tables(&at).snapshot());
                frame = at_uplink(&there, out);
                (seen, entered) = (sent, EndpointId::UPLINK);
            }
        }
    }
}

/// Returns the name of another node.
fn name_of(snapshot: &Snapshot, node: NodeId) -> Result<String, String> {
    let known = snapshot.remote_node(node);
    known
        .map(|node| node.name.to_string())
        .ok_or_else(|| format!("{node:?} is unknown"))
}

/// Returns a frame as it arrives at a node's uplink: the network between has changed the Ethernet addresses.
fn at_uplink(snapshot: &Snapshot, mut frame: Vec<u8>) -> Vec<u8> {
    set_macs(&mut frame, snapshot.node().uplink.mac, ROUTER);
    frame
}

/// Encapsulates a frame as another node does, byte by byte.
fn encapsulate(snapshot: &Snapshot, node: NodeId, inner: &[u8]) -> Result<Vec<u8>, String> {
    let known = snapshot.remote_node(node).ok_or("the sender is no node")?;
    let (Some(from), Some(network)) = (known.address, snapshot.node().tunnel) else {
        return Err("there is no tunnel".to_owned());
    };
    let own = snapshot
        .node()
        .address_of_family(from.is_v4())
        .ok_or("the node has no address")?;
    let [_, a, b, c] = network.vni.to_be_bytes();
    let datagram = [&[8, 0, 0, 0, a, b, c, 0], inner].concat();
    Ok(Packet::new(ROUTER, snapshot.node().uplink.mac, from, own).udp(50_000, network.port, &datagram))
}

/// Returns the frame inside of a tunnel's packet, or the frame itself.
fn innermost(frame: &[u8]) -> Result<Vec<u8>, String> {
    let parsed = parse(frame, frame.len()).map_err(|error| error.to_string())?;
    if (parsed.proto, parsed.dport) != (Proto::UDP, vxlan::PORT) {
        return Ok(frame.to_vec());
    }
    let inner = frame
        .get(parsed.payload() + vxlan::HEADER..)
        .unwrap_or_default()
        .to_vec();
    assert_valid(&inner);
    Ok(inner)
}

/// Returns true if a packet does not reach the workers: traffic of a pod or a node with itself, and traffic that no pod of the
/// node sends and that is for no pod and no Service.
fn bypasses_workers(snapshot: &Snapshot, entrance: Entrance, seen: Tuple, asked: &ResolvedProbe) -> bool {
    let service = snapshot.frontend(seen.dst, asked.proto, seen.dport) != ServiceLookup::NotAService;
    match entrance {
        Entrance::Pod(_) => seen.src == seen.dst,
        Entrance::Tunnel(_) => false,
        Entrance::Host => {
            let pod = matches!(
                snapshot.address(seen.dst).place,
                Place::Local(_) | Place::Node(_) | Place::Unreachable
            );
            !service && !pod && !snapshot.node().in_service_range(seen.dst)
        }
        // The program at the uplink takes what is for a Service. The kernel has the rest, and its route to this node's pods
        // leads to heddle.
        Entrance::Uplink => {
            let here = matches!(snapshot.address(seen.dst).place, Place::Local(_) | Place::Unreachable);
            !service && !here && !snapshot.node().in_service_range(seen.dst)
        }
    }
}

impl PacketPath {
    /// Returns the number of nodes that the packet passed.
    pub fn nodes(&self) -> usize {
        self.hops.len()
    }

    /// Returns the destination of the packet that the last node sent.
    pub fn reached(&self) -> Option<SocketAddr> {
        let sent = self.hops.last()?.sent;
        Some(SocketAddr::new(sent.dst.to_std(), sent.dport))
    }

    /// Returns the source address of the packet that the first node sent.
    pub fn source(&self) -> Option<IpAddr> {
        Some(self.hops.first()?.sent.src.to_std())
    }

    fn first_node(&self) -> &str {
        self.hops.first().map_or("", |hop| &hop.node)
    }

    /// Checks that all nodes before one passed the packet on as it was.
    fn is_forwarded_to(&self, node: &str) -> Result<(), String> {
        let before = self.hops.iter().take_while(|hop| hop.node != node);
        match before.into_iter().find(|hop| hop.sent != hop.seen) {
            Some(hop) => Err(format!(
                "{node} answers directly, but {} has translated the packet",
                hop.node
            )),
            None => Ok(()),
        }
    }

    /// Sends the answer back through every node. At each node it must leave where the packet came in, with the reversed tuple.
    ///
    /// # Errors
    /// A description of the difference.
    pub fn answer(&self, tables: &mut ClusterTables, nodes: &mut Nodes, proto: Proto) -> Result<(), String> {
        let mut frame = Vec::new();
        for (n, hop) in self.hops.iter().rev().enumerate() {
            let snapshot = Arc::clone(tables.node_tables(&hop.node).snapshot());
            let (enters, arriving) = match hop.left {
                Egress::Node(_) => (EndpointId::UPLINK, at_uplink(&snapshot, frame)),
                Egress::Uplink(_) => (EndpointId::UPLINK, Vec::new()),
                Egress::Endpoint(at) => (at, Vec::new()),
            };
            let arriving = if n == 0 {
                answer_packet(&snapshot, enters, hop.sent.reversed(), proto)
            } else {
                arriving
            };
            match nodes.node(&hop.node).receive(&snapshot, enters, &arriving) {
                Ended::Sent(to, out) => {
                    let (parsed, got) = tuple_of(&innermost(&out)?)?;
                    let wanted = hop.seen.reversed();
                    let back = match to {
                        Egress::Endpoint(to) => to,
                        Egress::Node(_) | Egress::Uplink(_) => EndpointId::UPLINK,
                    };
                    if (back, got) != (hop.entered, wanted) {
                        return Err(format!(
                            "the answer leaves {} by {to:?} as {}, not by {} as {}",
                            hop.node,
                            Shown(got),
                            hop.entered,
                            Shown(wanted)
                        ));
                    }
                    if parsed.proto != proto {
                        return Err(format!("the answer is {}", parsed.proto));
                    }
                    // A node that a connection was forwarded to answers the client itself.
                    if matches!(to, Egress::Uplink(_)) && hop.node != self.first_node() {
                        return self.is_forwarded_to(&hop.node);
                    }
                    frame = out;
                }
                Ended::Answered(kind, _) => return Err(format!("the answer is answered with {kind} at {}", hop.node)),
                Ended::Dropped(reason) => return Err(format!("the answer is dropped at {}: {reason}", hop.node)),
            }
        }
        Ok(())
    }
}

/// A tuple as text.
struct Shown(Tuple);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.0;
        write!(f, "{} {} -> {} {}", t.src, t.sport, t.dst, t.dport)
    }
}

fn tuple_of(frame: &[u8]) -> Result<(Parsed, Tuple), String> {
    let parsed = parse(frame, frame.len()).map_err(|error| error.to_string())?;
    let tuple = Tuple {
        src: parsed.src,
        dst: parsed.dst,
        sport: parsed.sport,
        dport: parsed.dport,
    };
    Ok((parsed, tuple))
}

/// Returns a packet as it comes in at the port of an endpoint. On a veth its checksum is unfinished: it covers only the
/// pseudo-header.
fn packet(snapshot: &Snapshot, from: EndpointId, tuple: Tuple) -> Packet {
    let mac = snapshot.endpoint(from).expect("an endpoint that packets came from").mac;
    if from != EndpointId::UPLINK {
        return Packet::new(mac, MacAddr::GATEWAY, tuple.src, tuple.dst).partial();
    }
    // Inside of a tunnel the destination is the gateway's address.
    let inside = matches!(snapshot.address(tuple.src).place, Place::Node(_))
        || matches!(
            (snapshot.address(tuple.src).place, snapshot.address(tuple.dst).place),
            (Place::RemoteHost(_), Place::Local(_))
        );
    let to = if inside { MacAddr::GATEWAY } else { mac };
    Packet::new(ROUTER, to, tuple.src, tuple.dst)
}

fn first_packet(snapshot: &Snapshot, from: EndpointId, t: Tuple, proto: Proto) -> Vec<u8> {
    let packet = packet(snapshot, from, t);
    match proto {
        Proto::TCP => packet.mss(1460).tcp(t.sport, t.dport, TcpFlags::SYN, 1, 0, b""),
        Proto::UDP => packet.udp(t.sport, t.dport, b"question"),
        Proto::SCTP => packet.sctp(t.sport, t.dport, 0, &INIT),
        _ => packet.echo_request(t.sport, 1, b"echo"),
    }
}

fn answer_packet(snapshot: &Snapshot, from: EndpointId, t: Tuple, proto: Proto) -> Vec<u8> {
    let packet = packet(snapshot, from, t);
    match proto {
        Proto::TCP => packet.tcp(t.sport, t.dport, TcpFlags::SYN | TcpFlags::ACK, 1, 2, b""),
        Proto::UDP => packet.udp(t.sport, t.dport, b"answer"),
        Proto::SCTP => packet.sctp(t.sport, t.dport, 7, &INIT_ACK),
        _ => packet.echo_reply(t.dport, 1, b"echo"),
    }
}

/// Checks a rejection: a reset, or "port unreachable" (RFC 792, RFC 4443 section 3.1), from the destination to the source.
fn check_rejection(kind: AnswerKind, answer: &[u8], asked: Tuple, proto: Proto) -> Result<(), String> {
    let (parsed, got) = tuple_of(answer)?;
    let right = match (kind, proto) {
        (AnswerKind::RejectReset, Proto::TCP) => got == asked.reversed() && parsed.tcp_flags.contains(TcpFlags::RST),
        (AnswerKind::RejectUnreachable, Proto::UDP | Proto::SCTP) => {
            let unreachable = if asked.src.is_v4() { (3, 3) } else { (1, 4) };
            parsed.dst == asked.src && (parsed.icmp_type, parsed.icmp_code) == unreachable
        }
        _ => false,
    };
    if right {
        Ok(())
    } else {
        Err(format!("it is answered with {kind}: {}", Shown(got)))
    }
}
