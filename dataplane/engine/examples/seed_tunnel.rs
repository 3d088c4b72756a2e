//! Writes the seeds of the fuzz corpus of tunnels: packets as they come in by the uplink, and inner frames. Nodes and addresses are the
//! ones of the fuzzers' node.

use std::path::Path;
use std::{env, fs, io};

use heddle_wire::testing::{Packet, ip, mac};
use heddle_wire::{MacAddr, Proto, TcpFlags, vxlan};

const ROUTER: MacAddr = mac(0xc0);
const UPLINK: MacAddr = mac(14);
/// The header of VXLAN with the nodes' network identifier.
const HEADER: [u8; 8] = [8, 0, 0, 0, 0, 0, 77, 0];

fn main() -> io::Result<()> {
    let folder = env::args()
        .nth(1)
        .ok_or_else(|| io::Error::other("usage: seed_tunnel FOLDER"))?;
    fs::create_dir_all(&folder)?;
    for (name, frame) in seeds() {
        fs::write(Path::new(&folder).join(format!("{name}.bin")), frame)?;
    }
    Ok(())
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let four = Packet::new(ROUTER, UPLINK, ip("192.0.2.11"), ip("192.0.2.1"));
    let six = Packet::new(ROUTER, UPLINK, ip("2001:db8::12"), ip("2001:db8::1"));
    for (family, outer, [pod, own, local]) in [
        ("v4", &four, ["10.0.1.5", "192.0.2.11", "10.0.0.2"]),
        ("v6", &six, ["fd00:2::5", "2001:db8::12", "fd00::2"]),
    ] {
        let mut add = |name: &str, frame: Vec<u8>| all.push((format!("{family}-{name}"), frame));
        let inside = |src: &str| Packet::new(MacAddr::GATEWAY, MacAddr::GATEWAY, ip(src), ip(local));
        let by = |header: [u8; 8], inner: &[u8]| outer.udp(50_000, vxlan::PORT, &[&header[..], inner].concat());
        let datagram = inside(pod).udp(1000, 53, b"query");
        // Inner frames, alone and in the tunnel.
        for (name, inner) in [
            ("udp", datagram.clone()),
            ("tcp", inside(pod).mss(9000).tcp(1000, 80, TcpFlags::SYN, 1, 0, b"")),
            ("sctp", inside(pod).sctp(1000, 80, 7, &[1, 0, 0, 4])),
            ("echo", inside(pod).echo_request(7, 1, b"ping")),
            ("expired", inside(pod).ttl(1).udp(1000, 53, b"x")),
            ("fragment", inside(pod).fragment(0, true).raw(Proto::UDP, &[7; 32])),
            ("of-the-node", inside(own).udp(1000, 53, b"x")),
            ("unfinished", inside(pod).partial().udp(1000, 53, b"x")),
        ] {
            add(&format!("in-tunnel-{name}"), by(HEADER, &inner));
            add(&format!("inner-{name}"), inner);
        }
        // Packets that the tunnel refuses.
        let (stranger, host) = if outer.is_v4() {
            ("203.0.113.7", "192.0.2.1")
        } else {
            ("2001:db8:ffff::7", "2001:db8::1")
        };
        add("spoofed", by(HEADER, &inside(stranger).udp(1000, 53, b"x")));
        add("nothing", by(HEADER, b""));
        add("no-header", outer.udp(50_000, vxlan::PORT, b"short"));
        add("other-network", by([8, 0, 0, 0, 0, 0, 78, 0], &datagram));
        add("reserved", by([0x88, 0, 0, 0, 0, 0, 77, 0], &datagram));
        add(
            "nested",
            by(HEADER, &inside(pod).udp(1, vxlan::PORT, &by(HEADER, &datagram))),
        );
        let unknown = Packet::new(ROUTER, UPLINK, ip(stranger), ip(host));
        add(
            "unknown-sender",
            unknown.udp(50_000, vxlan::PORT, &[&HEADER[..], &datagram].concat()),
        );
        // Errors of a router about packets of this node, as Linux quotes them, and as short as RFC 792 allows.
        let sent = Packet::new(MacAddr::GATEWAY, MacAddr::GATEWAY, ip(local), ip(pod)).udp(53, 1000, &[7; 64]);
        let back = Packet::new(ROUTER, UPLINK, ip(host), ip(own));
        let quoted = back.udp(50_000, vxlan::PORT, &[&HEADER[..], &sent].concat());
        let router = Packet::new(ROUTER, UPLINK, ip(stranger), ip(host));
        let (too_big, code, host_unreachable) = if outer.is_v4() { (3, 4, (3, 1)) } else { (2, 0, (1, 3)) };
        add("too-big", router.icmp_error(too_big, code, 1400, &quoted));
        let short = &quoted[..quoted.len() - sent.len() - 8];
        add("too-big-short", router.icmp_error(too_big, code, 1400, short));
        let (kind, code) = host_unreachable;
        add("unreachable", router.icmp_error(kind, code, 0, &quoted));
        // Congestion experienced, around a packet that does not understand it.
        let mut congested = by(HEADER, &datagram);
        congested[15] |= if outer.is_v4() { 3 } else { 0x30 };
        if outer.is_v4() {
            // The header's checksum decreases as the word with the mark increases.
            let sum = u16::from_be_bytes([congested[24], congested[25]]) - 3;
            congested[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        add("congested", congested);
    }
    all
}
