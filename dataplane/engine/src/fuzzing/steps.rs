//! Decodes octets into steps: the first octet of a step selects an operation ([`op`]), the next ones are its arguments. Missing
//! octets are 0 and every octet is valid, so that most inputs get far.

use heddle_wire::testing::{Packet, ip};
use heddle_wire::{Ip, MacAddr, Proto, TcpFlags, parse};

use super::cluster::ELSEWHERE;
use super::node::CheckedNode;
use super::others::{self, OTHERS, ROUTER, Sender};
use super::parties::{LINKS, PARTIES, UPLINK};

/// The operations, each with the arguments that follow it. A `from` with its high bit set comes in by the uplink.
pub mod op {
    /// The modulus of an operation's octet. Numbers without an operation of their own mean [`TURN`].
    pub const COUNT: u8 = 12;
    /// A whole packet: from, to, kind, source port, destination port, flags, TTL, length, options.
    pub const PACKET: u8 = 0;
    /// A UDP datagram or echo request in fragments: from, to, kind, port, length, size, order, lost.
    pub const DATAGRAM: u8 = 1;
    /// A fragment that belongs to no valid datagram: from, to, protocol, identification, offset, length, more, port.
    pub const FRAGMENT: u8 = 2;
    /// A frame of arbitrary octets: from, length, the octets.
    pub const RAW: u8 = 3;
    /// A packet as by `PACKET` with one octet changed: the same arguments, then the index and the value.
    pub const BROKEN: u8 = 4;
    /// Lets the workers turn until they are at rest.
    pub const TURN: u8 = 5;
    /// Lets time pass, then the workers turn: the time in units of 10 ms.
    pub const WAIT: u8 = 6;
    /// Changes a pod's policy and MTU: the pod, the policy.
    pub const POLICY: u8 = 7;
    /// Sets the Service's backends: one bit for each party, then one for the pod of each other node.
    pub const SERVE: u8 = 8;
    /// Limits the room in a TX ring: the port, the frames.
    pub const ROOM: u8 = 9;
    /// Changes the way to another node: the node, the way.
    pub const PATH: u8 = 10;
}

/// A decoder of steps.
pub(super) struct Decoder<'a> {
    left: &'a [u8],
    /// The last identification that was given to a datagram of its own.
    next_id: u32,
    /// Identifications of datagrams that were sent once, whole and valid.
    ids: Vec<u32>,
}

impl<'a> Decoder<'a> {
    pub(super) const fn new(data: &'a [u8]) -> Self {
        Self {
            left: data,
            next_id: 0x8000,
            ids: Vec::new(),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    pub(super) fn octet(&mut self) -> u8 {
        match self.left.split_first() {
            Some((first, rest)) => {
                self.left = rest;
                *first
            }
            None => 0,
        }
    }

    fn id(&mut self) -> u32 {
        self.next_id += 1;
        self.ids.push(self.next_id);
        self.next_id
    }

    /// Decodes the sender and the destination, whose high bit is the family. Returns the sender and a packet builder.
    fn ends(&mut self) -> (Sender, Packet) {
        let (sender, packet, _) = self.between();
        (sender, packet)
    }

    /// Does the same as [`Self::ends`], and returns the two addresses too.
    fn between(&mut self) -> (Sender, Packet, (Ip, Ip)) {
        let from = usize::from(self.octet());
        let to = self.octet();
        let v4 = to & 0x80 == 0;
        let family = usize::from(!v4);
        let dst: Ip = match usize::from(to & 0x7f) % (PARTIES.len() + ELSEWHERE.len()) {
            n if n < PARTIES.len() => PARTIES[n].ip(v4),
            n => ip(ELSEWHERE[n - PARTIES.len()][family]),
        };
        let (sender, macs, src) = if from & 0x80 == 0 {
            let party = from % PARTIES.len();
            let macs = (PARTIES[party].mac, MacAddr::GATEWAY);
            (Sender::Party(party), macs, PARTIES[party].ip(v4))
        } else {
            remote_sender(from & 0x7f, family)
        };
        (sender, Packet::new(macs.0, macs.1, src, dst), (src, dst))
    }

    /// Decodes a port. There are few, so that packets often belong to one flow.
    fn port(&mut self) -> u16 {
        [80, 8080, 1000, 1001, 61000, 53][usize::from(self.octet()) % 6]
    }

    /// Decodes a packet, and returns the sender and the frame.
    fn packet(&mut self) -> (Sender, Vec<u8>) {
        let (sender, packet, (src, dst)) = self.between();
        let (kind, sport, dport, flags) = (self.octet(), self.port(), self.port(), self.octet());
        let ttl = self.octet();
        let len = usize::from(self.octet());
        let how = self.octet();
        // Most packets are short; some need several frames.
        let len = if how & 8 == 0 { len } else { len * 200 };
        let mut packet = packet.ttl(if ttl % 8 == 7 { ttl / 8 % 3 } else { 64 });
        if how & 1 != 0 {
            packet = packet.partial();
        }
        if how & 2 != 0 && packet.is_v4() {
            packet = packet.dont_fragment(false).identification(self.id());
        }
        if how & 4 != 0 && packet.is_v4() {
            packet = packet.ip_options(&[0x94, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0]);
        }
        let data = vec![len as u8; len];
        let frame = match kind % 8 {
            0 | 1 => packet.udp(sport, dport, &data),
            2 | 3 => packet.tcp(sport, dport, TcpFlags(flags), 1, 1, &data),
            4 => packet.sctp(sport, dport, 7, &data),
            5 => packet.echo_request(sport, 1, &data),
            6 => packet.echo_reply(dport, 1, &data),
            _ => {
                let quoted = Packet::new(MacAddr::GATEWAY, MacAddr::GATEWAY, dst, src);
                let (kind, code) = if packet.is_v4() { (3, 3) } else { (1, 4) };
                packet.icmp_error(kind, code, 0, &quoted.udp(dport, sport, &data[..len.min(500)]))
            }
        };
        (sender, frame)
    }

    /// Sends a datagram in fragments.
    fn datagram(&mut self, node: &mut CheckedNode) {
        let (sender, packet) = self.ends();
        let (kind, port) = (self.octet(), self.port());
        let (len, size, mut order, lost) = (self.octet(), self.octet(), self.octet(), self.octet());
        // The whole datagram, with an identification of its own.
        let data: Vec<u8> = (0..usize::from(len) * 32 + 8)
            .map(|n| (n * 7 + n / 256) as u8)
            .collect();
        let size = (usize::from(size % 64) + 2) * 8;
        let id = self.id();
        let packet = packet.identification(id);
        let (v4, icmp) = (packet.is_v4(), kind % 4 == 3);
        let whole = if icmp {
            packet.echo_request(port, 1, &data)
        } else {
            packet.udp(1000, port, &data)
        };
        let proto = match (icmp, v4) {
            (true, true) => Proto::ICMP,
            (true, false) => Proto::ICMPV6,
            (false, _) => Proto::UDP,
        };
        // Its fragments of `size` octets, a multiple of 8.
        let l4 = &whole[if v4 { 34 } else { 54 }..];
        let count = l4.len().div_ceil(size);
        let mut fragments: Vec<Vec<u8>> = l4
            .chunks(size)
            .enumerate()
            .map(|(n, part)| {
                packet
                    .clone()
                    .fragment((n * size) as u16, n + 1 < count)
                    .raw(proto, part)
            })
            .collect();
        // Sent in the order that `order` selects, without the ones that `lost` selects.
        while fragments.len() > 1 {
            let n = usize::from(order) % fragments.len();
            order = order.rotate_left(3);
            let fragment = fragments.remove(n);
            if lost == 0 || usize::from(lost) % (fragments.len() + 1) != 0 {
                node.push(sender.link(), &sender.wrap(fragment));
            }
        }
        for fragment in fragments {
            node.push(sender.link(), &sender.wrap(fragment));
        }
    }

    /// Sends a fragment with arbitrary fields.
    fn fragment(&mut self, node: &mut CheckedNode) {
        let (sender, packet) = self.ends();
        let proto = [Proto::UDP, Proto::TCP, Proto::SCTP, Proto::ICMP, Proto(47)][usize::from(self.octet()) % 5];
        let (id, place, len, more) = (self.octet() % 8, self.octet(), self.octet(), self.octet());
        let port = self.port();
        let mut data = vec![len; usize::from(len % 32) * 8 + usize::from(more >> 5)];
        if place == 0 && data.len() >= 8 {
            data[..8].copy_from_slice(&[1000, port, 400, 0].map(u16::to_be_bytes).concat());
        }
        let packet = packet.identification(u32::from(id));
        let offset = if place == 255 { 65_528 } else { u16::from(place) * 8 };
        let frame = packet.fragment(offset, more & 1 == 1).raw(proto, &data);
        node.push(sender.link(), &sender.wrap(frame));
    }

    /// Sends arbitrary octets. An identification in them is no longer used only once.
    fn raw(&mut self, node: &mut CheckedNode, link: usize, frame: &[u8]) {
        for frame in [Some(frame), others::opened(frame)].into_iter().flatten() {
            if let Ok(p) = parse(frame, frame.len()) {
                self.ids.retain(|id| *id != p.fragment_id);
            }
        }
        node.push(link, frame);
    }

    /// Decodes and runs the next step.
    pub(super) fn play(&mut self, node: &mut CheckedNode) {
        match self.octet() % op::COUNT {
            op::PACKET => {
                let (sender, frame) = self.packet();
                node.push(sender.link(), &sender.wrap(frame));
            }
            op::DATAGRAM => self.datagram(node),
            op::FRAGMENT => self.fragment(node),
            op::RAW => {
                let (link, len) = (usize::from(self.octet()) % LINKS.len(), usize::from(self.octet()));
                let (frame, rest) = self.left.split_at(len.min(self.left.len()));
                self.left = rest;
                self.raw(node, link, frame);
            }
            op::BROKEN => {
                let (sender, frame) = self.packet();
                let mut frame = sender.wrap(frame);
                let (at, to) = (usize::from(self.octet()), self.octet());
                let at = at % frame.len();
                frame[at] = to;
                self.raw(node, sender.link(), &frame);
            }
            op::WAIT => {
                node.wait(u64::from(self.octet()) * 10);
                node.turn();
            }
            op::POLICY => {
                let (party, what) = (self.octet(), self.octet());
                node.set_policy(1 + usize::from(party) % 2, what);
            }
            op::SERVE => node.serve(self.octet()),
            op::ROOM => {
                let (link, frames) = (self.octet(), self.octet());
                let frames = if frames > 100 { usize::MAX } else { usize::from(frames) };
                node.set_room(usize::from(link) % LINKS.len(), frames);
            }
            op::PATH => {
                let (other, what) = (self.octet(), self.octet());
                node.set_path(usize::from(other) % OTHERS.len(), what);
            }
            _ => node.turn(),
        }
        node.check_datagrams(&self.ids);
    }
}

/// Returns the sender, the Ethernet addresses and the source of a packet that comes in by the uplink: by a tunnel or without one, from
/// a pod of another node, from that node itself, or from outside. Not all of them may send so.
fn remote_sender(choice: usize, family: usize) -> (Sender, (MacAddr, MacAddr), Ip) {
    let (node, source) = (choice % OTHERS.len(), choice / OTHERS.len() % 4);
    let src = match source {
        0 | 1 => OTHERS[node].pod[family],
        2 => OTHERS[node].own[family],
        _ => ELSEWHERE[3][family],
    };
    // The last node has no tunnel.
    if node + 1 == OTHERS.len() {
        (Sender::Plain, (ROUTER, UPLINK.mac), ip(src))
    } else {
        (Sender::Tunnel(node), (MacAddr::GATEWAY, MacAddr::GATEWAY), ip(src))
    }
}
