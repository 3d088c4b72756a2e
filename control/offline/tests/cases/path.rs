//! The path of a first packet from node to node, and of the answer back.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use heddle_engine::{AnswerKind, DropReason};
use heddle_offline::simulate::ClusterTables;
use heddle_offline::simulate::resolve::ResolvedProbe;
use heddle_tables::{EndpointId, Place, ServiceLookup, Snapshot};
use heddle_wire::rewrite::Tuple;
use heddle_wire::testing::Packet;
use heddle_wire::{Ip, MacAddr, Parsed, Proto, TcpFlags, parse};

use crate::node::{Ended, Node};

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
    left: EndpointId,
    sent: Tuple,
}

/// The end of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It arrives in a pod.
    Arrived,
    /// It leaves to the kernel of a node, which is its destination or routes it.
    Left,
    /// It leaves for another node's pod with the address of this node. Without the tunnel, that node cannot apply policy to the
    /// client.
    Masqueraded,
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
    /// The host port in place of the uplink: the source is another node, a pod of another node, or outside.
    Uplink,
}

impl Entrance {
    pub fn of(snapshot: &Snapshot, asked: &ResolvedProbe) -> Self {
        match snapshot.address(Ip::from(asked.from)).place {
            Place::Local(pod) => Self::Pod(pod),
            Place::Host => Self::Host,
            Place::Node(_) | Place::RemoteHost(_) | Place::Unreachable | Place::Outside => Self::Uplink,
        }
    }

    const fn endpoint(self) -> EndpointId {
        match self {
            Self::Pod(pod) => pod,
            Self::Host | Self::Uplink => EndpointId::HOST,
        }
    }
}

/// Sends the first packet of a connection on its path.
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
    let first = Tuple {
        src: Ip::from(asked.from),
        dst: Ip::from(asked.to),
        sport,
        dport: asked.port,
    };
    let (mut at, mut seen) = (asked.entry.clone(), first);
    loop {
        let snapshot = Arc::clone(tables.node_tables(&at).snapshot());
        let entered = Entrance::of(&snapshot, asked).endpoint();
        if bypasses_workers(&snapshot, entered, seen, asked) {
            path.end = if path.hops.is_empty() {
                End::NeverEnters
            } else {
                End::Left
            };
        } else {
            let frame = first_packet(&snapshot, entered, seen, asked.proto, path.hops.is_empty());
            match nodes.node(&at).receive(&snapshot, entered, &frame) {
                Ended::Dropped(reason) => {
                    path.end = End::Dropped(reason);
                    return Ok(path);
                }
                Ended::Answered(kind, answer) => {
                    check_rejection(kind, &answer, seen, asked.proto)?;
                    path.end = End::Rejected;
                    return Ok(path);
                }
                Ended::Sent(left, frame) => {
                    let sent = tuple_of(&frame)?.1;
                    path.hops.push(Hop {
                        node: at.clone(),
                        entered,
                        seen,
                        left,
                        sent,
                    });
                    path.end = if left.is_pod() { End::Arrived } else { End::Left };
                    if path.end == End::Arrived {
                        return Ok(path);
                    }
                    seen = sent;
                }
            }
        }
        // The kernel routes it to the node of the destination pod.
        let pod = tables.cluster().pod_at(seen.dst.to_std());
        let there = pod.and_then(|pod| pod.node.as_deref()).filter(|there| *there != at);
        let Some(there) = there.filter(|_| path.hops.len() < 2) else {
            return Ok(path);
        };
        if seen.src != first.src {
            path.end = End::Masqueraded;
            return Ok(path);
        }
        at = there.to_owned();
    }
}

/// Returns true if a packet does not reach the workers: traffic of a pod or a node with itself, and traffic that no pod of the
/// node sends and that is for neither a pod of the node nor a Service.
fn bypasses_workers(snapshot: &Snapshot, entered: EndpointId, seen: Tuple, asked: &ResolvedProbe) -> bool {
    let service = snapshot.frontend(seen.dst, asked.proto, seen.dport) != ServiceLookup::NotAService;
    let local = matches!(snapshot.address(seen.dst).place, Place::Local(_) | Place::Unreachable);
    if entered.is_pod() {
        return seen.src == seen.dst;
    }
    !service && !local && !snapshot.node().in_service_range(seen.dst)
}

impl PacketPath {
    /// Returns the destination of the packet that the last node sent.
    pub fn reached(&self) -> Option<SocketAddr> {
        let sent = self.hops.last()?.sent;
        Some(SocketAddr::new(sent.dst.to_std(), sent.dport))
    }

    /// Returns the source address of the packet that the first node sent.
    pub fn source(&self) -> Option<IpAddr> {
        Some(self.hops.first()?.sent.src.to_std())
    }

    /// Sends the answer back through every node. At each node it must have the reversed tuple of the packet that came in.
    ///
    /// # Errors
    /// A description of the difference.
    pub fn answer(&self, tables: &mut ClusterTables, nodes: &mut Nodes, proto: Proto) -> Result<(), String> {
        for hop in self.hops.iter().rev() {
            let snapshot = Arc::clone(tables.node_tables(&hop.node).snapshot());
            let reply = hop.sent.reversed();
            let frame = answer_packet(&snapshot, hop.left, reply, proto);
            match nodes.node(&hop.node).receive(&snapshot, hop.left, &frame) {
                Ended::Sent(to, frame) => {
                    let (parsed, got) = tuple_of(&frame)?;
                    let wanted = hop.seen.reversed();
                    if (to, got) != (hop.entered, wanted) {
                        return Err(format!(
                            "the answer leaves {} by port {to} as {}, not by {} as {}",
                            hop.node,
                            Shown(got),
                            hop.entered,
                            Shown(wanted)
                        ));
                    }
                    if parsed.proto != proto {
                        return Err(format!("the answer is {}", parsed.proto));
                    }
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

/// Returns a packet from the port of an endpoint. With `fresh` its checksum is unfinished, as on a veth: it covers only
/// the pseudo-header.
fn packet(snapshot: &Snapshot, from: EndpointId, tuple: Tuple, fresh: bool) -> Packet {
    let mac = snapshot.endpoint(from).expect("an endpoint that packets came from").mac;
    let packet = Packet::new(mac, MacAddr::GATEWAY, tuple.src, tuple.dst);
    if fresh { packet.partial() } else { packet }
}

fn first_packet(snapshot: &Snapshot, from: EndpointId, t: Tuple, proto: Proto, fresh: bool) -> Vec<u8> {
    let packet = packet(snapshot, from, t, fresh);
    match proto {
        Proto::TCP => packet.mss(1460).tcp(t.sport, t.dport, TcpFlags::SYN, 1, 0, b""),
        Proto::UDP => packet.udp(t.sport, t.dport, b"question"),
        Proto::SCTP => packet.sctp(t.sport, t.dport, 0, &INIT),
        _ => packet.echo_request(t.sport, 1, b"echo"),
    }
}

fn answer_packet(snapshot: &Snapshot, from: EndpointId, t: Tuple, proto: Proto) -> Vec<u8> {
    let packet = packet(snapshot, from, t, from.is_pod());
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
