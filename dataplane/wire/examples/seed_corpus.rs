//! Writes the seeds of the fuzz corpus: one frame of each kind that the parser distinguishes, in both families.

use std::path::Path;
use std::{env, fs, io};

use heddle_wire::testing::{self, Packet, ip, mac};
use heddle_wire::{MacAddr, Proto, TcpFlags};

fn main() -> io::Result<()> {
    let folder = env::args()
        .nth(1)
        .ok_or_else(|| io::Error::other("usage: seed_corpus FOLDER"))?;
    fs::create_dir_all(&folder)?;
    for (name, frame) in seeds() {
        fs::write(Path::new(&folder).join(format!("{name}.bin")), frame)?;
    }
    Ok(())
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> = vec![
        (
            "arp-request".into(),
            testing::arp_request(mac(1), ip("10.0.0.1"), ip("169.254.1.1")),
        ),
        (
            "arp-reply".into(),
            testing::arp_reply(mac(1), mac(2), ip("10.0.0.1"), ip("10.0.0.2")),
        ),
        (
            "nd-solicitation".into(),
            testing::ndp_solicit(mac(1), ip("fd00::1"), ip("fe80::1")),
        ),
        ("nd-probe".into(), testing::ndp_solicit(mac(1), ip("::"), ip("fd00::1"))),
    ];
    let four = Packet::new(mac(1), mac(2), ip("10.0.0.1"), ip("10.0.0.2"));
    let six = Packet::new(mac(1), mac(2), ip("fd00::1"), ip("fd00::2"));
    for (family, base) in [("v4", &four), ("v6", &six)] {
        let mut add = |name: &str, frame: Vec<u8>| all.push((format!("{family}-{name}"), frame));
        add("udp", base.udp(1000, 53, b"query"));
        add("udp-partial", base.clone().partial().udp(1000, 53, b"query"));
        add(
            "tcp-syn",
            base.clone().mss(1460).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""),
        );
        let odd = base.clone().tcp_options(&[1, 2, 4, 5, 0xb4, 1, 0, 0]);
        add("tcp-syn-odd-mss", odd.tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
        add(
            "tcp-data",
            base.tcp(1000, 80, TcpFlags::ACK | TcpFlags::PSH, 1, 2, b"data"),
        );
        add("tcp-reset", base.tcp(1000, 80, TcpFlags::RST, 1, 2, b""));
        add("sctp", base.sctp(1000, 80, 7, &[1, 0, 0, 4]));
        add("echo-request", base.echo_request(1, 2, b"ping"));
        add("echo-reply", base.echo_reply(1, 2, b"ping"));
        add("ttl-1", base.clone().ttl(1).udp(1000, 53, b""));
        add(
            "first-fragment",
            base.clone()
                .fragment(0, true)
                .raw(Proto::UDP, &[3, 232, 0, 53, 0, 64, 0, 0]),
        );
        add(
            "later-fragment",
            base.clone().fragment(8, false).raw(Proto::UDP, &[5; 16]),
        );
        add("unknown-protocol", base.raw(Proto(47), &[0, 0, 8, 0]));
        let (exceeded, unreachable) = if family == "v4" { (11, 3) } else { (3, 1) };
        add(
            "time-exceeded-udp",
            base.icmp_error(exceeded, 0, 0, &base.udp(1000, 53, b"query")),
        );
        let tcp = base.tcp(1000, 80, TcpFlags::ACK, 1, 2, b"");
        add("unreachable-tcp", base.icmp_error(unreachable, 3, 0, &tcp));
        add(
            "unreachable-tcp-short",
            base.icmp_error(unreachable, 3, 0, &tcp[..tcp.len() - 12]),
        );
        add(
            "unreachable-echo",
            base.icmp_error(unreachable, 1, 0, &base.echo_request(1, 2, b"")),
        );
        add(
            "unreachable-sctp",
            base.icmp_error(unreachable, 1, 0, &base.sctp(1000, 80, 7, b"")),
        );
    }
    let padn: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
    let extended = six
        .clone()
        .extension(0, padn)
        .extension(43, &[0, 4, 0, 0, 0, 0, 0])
        .extension(60, padn);
    let ah: &[u8] = &[4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    all.push((
        "v6-extensions".into(),
        extended.extension(51, ah).udp(1000, 53, b"query"),
    ));
    all.push((
        "v6-atomic-fragment".into(),
        six.clone().extension(44, &[0; 7]).udp(1000, 53, b""),
    ));
    all.push((
        "v6-mld".into(),
        six.clone()
            .ttl(1)
            .extension(0, &[0, 5, 2, 0, 0, 1, 0])
            .icmp(143, 0, [0; 4], &[0; 20]),
    ));
    all.push(("v6-router-solicitation".into(), six.ttl(255).icmp(133, 0, [0; 4], b"")));
    all.push((
        "v4-options".into(),
        four.clone().ip_options(&[0x94, 4, 0, 0]).udp(1000, 53, b"query"),
    ));
    all.push(("v4-padded".into(), four.clone().padding(18).udp(1000, 53, b"")));
    let dhcp = testing::udp(
        mac(1),
        MacAddr::BROADCAST,
        ip("0.0.0.0"),
        ip("255.255.255.255"),
        68,
        67,
        b"discover",
    );
    all.push(("v4-broadcast".into(), dhcp));
    let mut tagged = four.udp(1000, 53, b"");
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    all.push(("vlan".into(), tagged));
    all
}
