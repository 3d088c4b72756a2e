//! Frames as text for transcripts.

use heddle_wire::{Fragment, IcmpMessage, L3, Parsed, Proto, TcpFlags, parse};

use super::tunnel;

/// Renders a frame as one line.
pub fn render(frame: &[u8]) -> String {
    let p = match parse(frame, frame.len()) {
        Ok(p) => p,
        Err(error) => return format!("{} bytes: {error}", frame.len()),
    };
    if p.l3 == L3::Arp {
        return format!("ARP {} asks for {}", p.src, p.dst);
    }
    if let Some(inner) = tunnel::inner(frame) {
        return format!("VXLAN {}:{} > {} [{}]", p.src, p.sport, p.dst, render(inner));
    }
    let mut text = match p.fragment {
        Fragment::Later => format!("{} {} > {}", protocol(&p), p.src, p.dst),
        _ => transport(frame, &p),
    };
    if p.is_fragment() {
        let more = if p.more_fragments { " and more" } else { "" };
        let end = usize::from(p.fragment_offset) + p.l4_len();
        text += &format!(", octets {} to {end}{more}", p.fragment_offset);
    }
    format!("{text}, ttl {}", p.ttl)
}

/// Returns the protocol's name.
fn protocol(p: &Parsed) -> String {
    match p.proto {
        Proto::TCP => "TCP".to_owned(),
        Proto::UDP => "UDP".to_owned(),
        Proto::SCTP => "SCTP".to_owned(),
        Proto::ICMP => "ICMP".to_owned(),
        Proto::ICMPV6 => "ICMPv6".to_owned(),
        other => format!("protocol {}", other.0),
    }
}

/// Returns the MTU in an ICMP error: the second half of a word of ICMP (RFC 1191), a whole word of `ICMPv6` (RFC 4443).
fn mtu(frame: &[u8], p: &Parsed) -> u32 {
    let word = frame.get(p.l4() + 4..).and_then(|rest| rest.first_chunk());
    word.map_or(0, |word| u32::from_be_bytes(*word))
}

/// Renders the transport header of a packet, or the message of ICMP.
fn transport(frame: &[u8], p: &Parsed) -> String {
    let name = protocol(p);
    match p.icmp() {
        Some(IcmpMessage::EchoRequest) => format!("{name} echo request {} of {} to {}", p.sport, p.src, p.dst),
        Some(IcmpMessage::EchoReply) => format!("{name} echo reply {} of {} to {}", p.dport, p.src, p.dst),
        Some(IcmpMessage::Error) => {
            let about = heddle_wire::parse::quoted(frame, p).map_or_else(
                |error| error.to_string(),
                |inner| {
                    let tuple = inner.tuple();
                    format!("{}:{} > {}:{}", tuple.src, tuple.sport, tuple.dst, tuple.dport)
                },
            );
            let mtu = match (p.l3, p.icmp_type, p.icmp_code) {
                (L3::V4, 3, 4) | (L3::V6, 2, 0) => format!(" with MTU {}", mtu(frame, p)),
                _ => String::new(),
            };
            format!(
                "{name} error {}/{}{mtu} of {} to {} about {about}",
                p.icmp_type, p.icmp_code, p.src, p.dst
            )
        }
        Some(_) => format!("{name} {}/{} of {} to {}", p.icmp_type, p.icmp_code, p.src, p.dst),
        None => {
            let mut flags = Vec::new();
            for (flag, word) in [
                (TcpFlags::SYN, "SYN"),
                (TcpFlags::ACK, "ACK"),
                (TcpFlags::FIN, "FIN"),
                (TcpFlags::RST, "RST"),
            ] {
                if p.tcp_flags.contains(flag) {
                    flags.push(word);
                }
            }
            let flags = if flags.is_empty() {
                String::new()
            } else {
                format!(" {}", flags.join(" "))
            };
            format!("{name} {}:{} > {}:{}{flags}", p.src, p.sport, p.dst, p.dport)
        }
    }
}
