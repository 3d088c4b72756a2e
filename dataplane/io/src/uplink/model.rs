//! The decision of `src/bpf/uplink.bpf.c` in plain Rust, and a property test that compares the two on random packets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use heddle_wire::MacAddr;

use super::steering::Steering;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fragment {
    Whole,
    First,
    Later,
}

/// The identity of a fragmented datagram: source, destination, identification and, for IPv4, the protocol.
type Datagram = (IpAddr, IpAddr, [u8; 4], u8);

/// An IP packet up to its transport header.
struct Packet<'a> {
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    id: [u8; 4],
    fragment: Fragment,
    l4: &'a [u8],
}

/// The program's state: its maps.
#[derive(Default)]
pub(super) struct Model {
    pub(super) steering: Steering,
    pub(super) fragments: BTreeSet<Datagram>,
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// Returns source and destination if the fixed header is there.
fn addresses(ip: &[u8], v6: bool) -> Option<(IpAddr, IpAddr)> {
    if v6 {
        let at = |start: usize| -> Option<IpAddr> {
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(start..start + 16)?).ok()?).into())
        };
        (ip.first()? >> 4 == 6).then_some((at(8)?, at(24)?))
    } else {
        let at = |start: usize| -> Option<IpAddr> {
            Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(start..start + 4)?).ok()?).into())
        };
        (ip.first()? >> 4 == 4).then_some((at(12)?, at(16)?))
    }
}

fn is_unicast(ip: IpAddr) -> bool {
    let reserved = matches!(ip, IpAddr::V4(v4) if v4.octets()[0] >= 224);
    !ip.is_unspecified() && !ip.is_multicast() && !reserved
}

fn parse(ip: &[u8], v6: bool, quoted: bool) -> Option<Packet<'_>> {
    let (src, dst) = addresses(ip, v6)?;
    if !v6 {
        let (header, total, flags) = (usize::from(ip[0] & 15) * 4, usize::from(word(ip, 2)?), word(ip, 6)?);
        if header < 20 || (!quoted && total < header) {
            return None;
        }
        let end = if quoted { ip.len() } else { total.min(ip.len()) };
        return Some(Packet {
            src,
            dst,
            proto: ip[9],
            id: [ip[4], ip[5], 0, 0],
            fragment: match (flags & 0x1fff, flags & 0x2000) {
                (0, 0) => Fragment::Whole,
                (0, _) => Fragment::First,
                _ => Fragment::Later,
            },
            l4: ip.get(header..end).unwrap_or_default(),
        });
    }
    let end = if quoted {
        ip.len()
    } else {
        (40 + usize::from(word(ip, 4)?)).min(ip.len())
    };
    let mut packet = Packet {
        src,
        dst,
        proto: ip[6],
        id: [0; 4],
        fragment: Fragment::Whole,
        l4: ip.get(40..end).unwrap_or_default(),
    };
    let (mut headers, mut fragmented) = (0, false);
    while matches!(packet.proto, 0 | 43 | 44 | 60) {
        let header = packet.l4.get(..8)?;
        headers += 1;
        if headers > 4 {
            return None;
        }
        let mut len = 8;
        if packet.proto == 44 {
            if fragmented {
                return None;
            }
            fragmented = true;
            packet.id = [header[4], header[5], header[6], header[7]];
            let flags = word(header, 2)?;
            packet.fragment = match (flags & 0xfff8, flags & 1) {
                (0, 0) => Fragment::Whole,
                (0, _) => Fragment::First,
                _ => Fragment::Later,
            };
        } else {
            len = 8 * (usize::from(header[1]) + 1);
        }
        packet.proto = header[0];
        packet.l4 = packet.l4.get(len..).unwrap_or_default();
        if packet.fragment == Fragment::Later {
            break;
        }
    }
    Some(packet)
}

impl Model {
    /// Returns true if the frame is heddle's.
    pub(super) fn steers(&mut self, frame: &[u8]) -> bool {
        self.decide(frame).unwrap_or(false)
    }

    fn decide(&mut self, frame: &[u8]) -> Option<bool> {
        let v6 = match word(frame, 12)? {
            0x0800 => false,
            0x86dd => true,
            _ => return None,
        };
        let ip = &frame[14..];
        let (_, dst) = addresses(ip, v6)?;
        if frame[0] & 1 == 1 || !is_unicast(dst) {
            return None;
        }
        if self.steering.pods.iter().any(|network| network.contains(&dst)) {
            return Some(true);
        }
        let source = MacAddr(frame[6..12].try_into().ok()?);
        if self.steering.forwarders.contains(&(dst, source)) {
            return Some(true);
        }
        let packet = parse(ip, v6, false)?;
        let own = self.steering.addresses.contains(&dst);
        let peer = own && self.steering.peers.iter().any(|network| network.contains(&packet.src));
        let datagram = (packet.src, dst, packet.id, if v6 { 0 } else { packet.proto });
        Some(match packet.fragment {
            Fragment::Whole => peer || self.transport(&packet, own).unwrap_or(false),
            Fragment::Later => peer || self.fragments.contains(&datagram),
            Fragment::First => {
                let ours = peer || self.transport(&packet, own).unwrap_or(false);
                if ours {
                    self.fragments.insert(datagram);
                } else {
                    self.fragments.remove(&datagram);
                }
                ours
            }
        })
    }

    fn masquerades(&self, port: u16) -> bool {
        port != 0
            && self
                .steering
                .masquerade_ports
                .as_ref()
                .is_some_and(|ports| ports.contains(&port))
    }

    fn frontend(&self, ip: IpAddr, proto: u8, port: u16, own: bool) -> bool {
        let any = match ip {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let has = |ip| self.steering.frontends.contains(&(ip, proto, port));
        (own && has(any)) || (is_unicast(ip) && has(ip))
    }

    fn transport(&self, packet: &Packet<'_>, own: bool) -> Option<bool> {
        let v6 = packet.dst.is_ipv6();
        match packet.proto {
            TCP | UDP | SCTP => {
                let port = word(packet.l4, 2)?;
                let tunnel = packet.proto == UDP && port != 0 && self.steering.tunnel_port == Some(port);
                Some(own && (tunnel || self.masquerades(port)) || self.frontend(packet.dst, packet.proto, port, own))
            }
            1 if !v6 => self.icmp(packet, own, 0, &[3, 11, 12]),
            58 if v6 => self.icmp(packet, own, 129, &[1, 2, 3, 4]),
            _ => None,
        }
    }

    fn icmp(&self, packet: &Packet<'_>, own: bool, reply: u8, errors: &[u8]) -> Option<bool> {
        let header = packet.l4.get(..8)?;
        if header[0] == reply {
            return Some(own && self.masquerades(word(header, 4)?));
        }
        if !errors.contains(&header[0]) {
            return None;
        }
        let (quote, v6) = (&packet.l4[8..], packet.dst.is_ipv6());
        let (src, _) = addresses(quote, v6)?;
        if own && self.steering.pods.iter().any(|network| network.contains(&src)) {
            return Some(true);
        }
        let quoted = parse(quote, v6, true)?;
        if quoted.fragment == Fragment::Later {
            return None;
        }
        let sender = own && self.steering.addresses.contains(&src);
        match quoted.proto {
            TCP | UDP | SCTP => {
                let (sport, dport) = (word(quoted.l4, 0)?, word(quoted.l4, 2)?);
                let tunnel = quoted.proto == UDP && dport != 0 && self.steering.tunnel_port == Some(dport);
                Some(sender && (tunnel || self.masquerades(sport)) || self.frontend(src, quoted.proto, sport, sender))
            }
            1 if !v6 => self.echo(&quoted, 8, sender),
            58 if v6 => self.echo(&quoted, 128, sender),
            _ => None,
        }
    }

    fn echo(&self, quoted: &Packet<'_>, request: u8, sender: bool) -> Option<bool> {
        let header = quoted.l4.get(..8)?;
        Some(sender && header[0] == request && self.masquerades(word(header, 4)?))
    }
}

mod tests {
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

    use heddle_wire::testing::{self, ip, mac};
    use heddle_wire::{Proto, TcpFlags};
    use libbpf_rs::libbpf_sys;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};

    use super::super::object::{self, Maps, UplinkLimits};
    use super::super::steering;
    use super::*;

    /// Few values, so that packets and maps meet often.
    const V4: [&str; 7] = [
        "10.0.0.1",
        "10.0.0.2",
        "192.0.2.7",
        "10.244.1.5",
        "10.244.2.5",
        "0.0.0.0",
        "224.0.0.5",
    ];
    const V6: [&str; 8] = [
        "fd00::1",
        "fd00::2",
        "2001:db8::7",
        "fd00:1::5",
        "fd00:2::5",
        "::",
        "ff02::5",
        "::ffff:10.0.0.1",
    ];
    const NETWORKS: [&str; 7] = [
        "10.244.1.0/24",
        "10.244.2.0/24",
        "fd00:1::/64",
        "fd00:2::/64",
        "10.0.0.2/32",
        "::/0",
        "0.0.0.0/0",
    ];
    const PORTS: [u16; 8] = [0, 53, 4789, 30_000, 30_001, 60_000, 60_999, 61_000];

    fn run(program: BorrowedFd<'_>, frame: &[u8]) -> u32 {
        let mut options = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as u64,
            data_in: frame.as_ptr().cast(),
            data_size_in: u32::try_from(frame.len()).unwrap(),
            repeat: 1,
            ..Default::default()
        };
        // SAFETY: the options are valid for their size, and the frame for its own.
        let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) };
        assert_eq!(result, 0, "{} octets", frame.len());
        options.retval
    }

    fn addresses() -> impl Strategy<Value = Vec<IpAddr>> {
        let all: Vec<IpAddr> = V4.into_iter().chain(V6).map(|text| text.parse().unwrap()).collect();
        subsequence(all.clone(), 0..=all.len())
    }

    fn networks() -> impl Strategy<Value = BTreeSet<ipnet::IpNet>> {
        let all: Vec<ipnet::IpNet> = NETWORKS.into_iter().map(|text| text.parse().unwrap()).collect();
        // The default routes would hide everything else, so they are rare.
        prop_oneof![9 => subsequence(all[..5].to_vec(), 0..=2), 1 => subsequence(all, 0..=3)]
            .prop_map(|networks| networks.into_iter().collect())
    }

    fn steering() -> impl Strategy<Value = Steering> {
        let frontend = (
            select(V4.into_iter().chain(V6).collect::<Vec<_>>()),
            select(vec![TCP, UDP, SCTP]),
            select(PORTS.to_vec()),
        )
            .prop_map(|(text, proto, port)| (text.parse().unwrap(), proto, port));
        // Packets have the first MAC as their source.
        let forwarder = (
            select(V4.into_iter().chain(V6).collect::<Vec<_>>()),
            select(vec![mac(1), mac(3)]),
        )
            .prop_map(|(text, mac)| (text.parse().unwrap(), mac));
        (
            addresses(),
            select(vec![None, Some(4789), Some(53)]),
            select(vec![None, Some(60_000..=60_999), Some(0..=100)]),
            btree_set(frontend, 0..12),
            networks(),
            networks(),
            btree_set(forwarder, 0..3),
        )
            .prop_map(
                |(addresses, tunnel_port, masquerade_ports, frontends, pods, peers, forwarders)| Steering {
                    forwarders,
                    addresses: addresses.into_iter().collect(),
                    tunnel_port,
                    masquerade_ports,
                    frontends,
                    pods,
                    peers,
                },
            )
    }

    /// A packet's addresses, options and extension headers, and its fragment.
    fn base() -> impl Strategy<Value = testing::Packet> {
        let pair = prop_oneof![
            (select(V4.to_vec()), select(V4.to_vec())),
            (select(V6.to_vec()), select(V6[..7].to_vec())),
        ]
        .prop_filter("one family", |(src, dst)| ip(src).is_v4() == ip(dst).is_v4());
        let fragment = prop_oneof![3 => Just(None), 2 => (select(vec![0, 8, 1480]), any::<bool>()).prop_map(Some)];
        let extension = (select(vec![0u8, 43, 60, 51]), select(vec![0u8, 1]));
        (
            pair,
            fragment,
            vec(extension, 0..6),
            select(vec![0usize, 4, 40]),
            0u32..3,
        )
            .prop_map(|((src, dst), fragment, extensions, options, id)| {
                let mut packet = testing::Packet::new(mac(1), mac(2), ip(src), ip(dst)).identification(id);
                if packet.is_v4() {
                    packet = packet.ip_options(&vec![1; options]);
                } else {
                    // Most packets have none: more than four are not parsed.
                    for (number, units) in extensions.into_iter().skip(2) {
                        let mut rest = vec![units];
                        rest.resize(7 + 8 * usize::from(units), 0);
                        packet = packet.extension(number, &rest);
                    }
                }
                match fragment {
                    Some((offset, more)) => packet.fragment(offset, more),
                    None => packet,
                }
            })
    }

    /// A packet without a quote.
    fn plain() -> impl Strategy<Value = (testing::Packet, Vec<u8>)> {
        let port = || select(PORTS.to_vec());
        (base(), 0..8, port(), port()).prop_map(|(packet, kind, sport, dport)| {
            let frame = match kind {
                0 | 1 => packet.udp(sport, dport, b"data"),
                2 | 3 => packet.tcp(sport, dport, TcpFlags::ACK, 1, 2, b"data"),
                4 => packet.sctp(sport, dport, 1, b"data"),
                5 => packet.echo_request(sport, dport, b"data"),
                6 => packet.echo_reply(sport, dport, b"data"),
                _ => packet.raw(Proto(47), &[0; 12]),
            };
            (packet, frame)
        })
    }

    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let error = (plain(), plain(), select(vec![1u8, 2, 3, 4, 5, 11, 12])).prop_filter_map(
            "one family",
            |((packet, _), (quoted, frame), kind)| {
                (packet.is_v4() == quoted.is_v4()).then(|| packet.icmp_error(kind, 0, 0, &frame))
            },
        );
        let good = prop_oneof![3 => plain().prop_map(|(_, frame)| frame), 2 => error];
        let cut = prop_oneof![8 => Just(usize::MAX), 1 => 14usize..120];
        let change = prop_oneof![8 => Just(None), 1 => (0usize..100, any::<u8>()).prop_map(Some)];
        (good, cut, change).prop_map(|(mut frame, cut, change)| {
            frame.truncate(cut.max(14));
            if let Some((at, byte)) = change
                && let Some(place) = frame.get_mut(at)
            {
                *place = byte;
            }
            frame
        })
    }

    fn clear_fragments(maps: &Maps) {
        for key in maps.fragments.keys().unwrap() {
            maps.fragments.delete(&key).unwrap();
        }
    }

    /// Needs root. The kernel runs the program on each frame; without a socket, a packet of heddle's is dropped.
    #[test]
    fn the_program_decides_as_the_model_does() {
        const XDP_DROP: u32 = 1;
        const XDP_PASS: u32 = 2;
        let cases: u32 = std::env::var("PROPTEST_CASES")
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(10_000);
        let loaded = object::load(&UplinkLimits::default(), |_| Ok(None)).unwrap();
        let (steered, passed) = (std::cell::Cell::new(0u32), std::cell::Cell::new(0u32));
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            cases,
            failure_persistence: None,
            max_local_rejects: u32::MAX,
            ..ProptestConfig::default()
        });
        runner
            .run(&(steering(), vec(frame(), 1..24)), |(steering, frames)| {
                steering::write(&loaded.maps, &steering).unwrap();
                clear_fragments(&loaded.maps);
                let mut model = Model {
                    steering,
                    ..Model::default()
                };
                for frame in &frames {
                    let ours = model.steers(frame);
                    let expected = if ours { XDP_DROP } else { XDP_PASS };
                    let counter = if ours { &steered } else { &passed };
                    counter.set(counter.get() + 1);
                    prop_assert_eq!(run(loaded.program.as_fd(), frame), expected, "{:02x?}", frame);
                }
                Ok(())
            })
            .unwrap();
        // Both answers are frequent, or the test would say little.
        let (steered, passed) = (steered.get(), passed.get());
        assert!(steered > cases && passed > cases, "{steered} steered, {passed} passed");
        eprintln!("{steered} steered, {passed} passed");
    }
}
