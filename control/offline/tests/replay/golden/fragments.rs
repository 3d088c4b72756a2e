//! Fragments: later ones follow the first of their datagram, in any order of arrival, and are translated alike.

use heddle_wire::testing::Packet;
use heddle_wire::{Proto, TcpFlags};

use super::{CLIENT, WEB, from, play};
use crate::script::step;

/// Cuts the packet that `packet` makes into two fragments, the first with 32 octets.
pub(super) fn halves(base: &Packet, id: u32, packet: impl Fn(&Packet) -> Vec<u8>) -> [Vec<u8>; 2] {
    let whole = packet(base);
    let (headers, protocol) = if base.is_v4() { (34, 23) } else { (54, 20) };
    let (first, second) = whole[headers..].split_at(32);
    let base = base.clone().identification(id);
    let proto = Proto(whole[protocol]);
    [
        base.clone().fragment(0, true).raw(proto, first),
        base.fragment(32, false).raw(proto, second),
    ]
}

pub(super) const DATA: &[u8; 48] = &[7; 48];

#[test]
fn fragments_through_a_cluster_ip() {
    play("fragments_through_a_cluster_ip", |f| {
        let [first, second] = halves(&from(10, f.client, f.service), 1, |p| p.udp(40_010, 53, DATA));
        let [back, rest] = halves(&from(20, f.web, f.client), 2, |p| p.udp(5353, 40_010, DATA));
        let [late_first, early] = halves(&from(10, f.client, f.service), 3, |p| p.udp(40_010, 53, DATA));
        let [late_back, early_back] = halves(&from(20, f.web, f.client), 4, |p| p.udp(5353, 40_010, DATA));
        let [new_first, new_early] = halves(&from(10, f.client, f.service), 5, |p| p.udp(40_011, 53, DATA));
        vec![
            step("the first fragment has the ports: it chooses a backend", CLIENT, first),
            step("the other one has no ports and follows it", CLIENT, second),
            step("the answer's first fragment comes from the Service", WEB, back),
            step("so does the other one", WEB, rest),
            step("a later fragment that arrives before its first", CLIENT, early),
            step("when the first arrives, both leave", CLIENT, late_first),
            step("the same in the other direction", WEB, early_back),
            step("both leave", WEB, late_back),
            step(
                "a later fragment of a connection that does not exist yet",
                CLIENT,
                new_early,
            ),
            step(
                "both leave to the backend that was chosen for the first",
                CLIENT,
                new_first,
            ),
        ]
    });
}

#[test]
fn fragments_of_other_protocols() {
    play("fragments_of_other_protocols", |f| {
        let tcp = |p: &Packet| p.tcp(40_012, 80, TcpFlags::SYN, 1, 0, DATA);
        let [syn, rest] = halves(&from(10, f.client, f.service), 1, tcp);
        let [echo, of_echo] = halves(&from(10, f.client, f.web), 2, |p| p.echo_request(90, 1, DATA));
        let [reply, of_reply] = halves(&from(20, f.web, f.client), 3, |p| p.echo_reply(90, 1, DATA));
        let [sctp, of_sctp] = halves(&from(10, f.client, f.web), 4, |p| p.sctp(40_013, 9999, 7, DATA));
        let translated = |p: &Packet| p.sctp(40_013, 99, 7, DATA);
        let [nat, of_nat] = halves(&from(10, f.client, f.service), 5, translated);
        let [own, of_own] = halves(&from(10, f.client, f.own_service), 6, |p| {
            p.tcp(40_014, 80, TcpFlags::SYN, 1, 0, DATA)
        });
        vec![
            step("TCP through a ClusterIP, the second fragment first", CLIENT, rest),
            step("both leave", CLIENT, syn),
            step("a ping", CLIENT, echo),
            step("the rest of it", CLIENT, of_echo),
            step("the rest of its answer", WEB, of_reply),
            step("both leave", WEB, reply),
            step("SCTP between pods", CLIENT, sctp),
            step("the rest of it", CLIENT, of_sctp),
            step(
                "SCTP whose port would change: its CRC also covers the other fragment",
                CLIENT,
                nat,
            ),
            step("the rest of it", CLIENT, of_nat),
            step("a pod through its own Service", CLIENT, own),
            step("the rest of it", CLIENT, of_own),
        ]
    });
}

#[test]
fn fragments_that_are_dropped() {
    play("fragments_that_are_dropped", |f| {
        let base = |id| from(10, f.client, f.web).identification(id);
        let [first, second] = halves(&from(10, f.client, f.web), 1, |p| p.udp(40_015, 53, DATA));
        let overlapping = base(1).fragment(24, false).raw(Proto::UDP, DATA);
        let [to_closed, rest] = halves(&from(10, f.client, f.closed), 2, |p| p.udp(40_015, 53, DATA));
        let [to_empty, of_empty] = halves(&from(10, f.client, f.empty), 3, |p| p.udp(40_015, 53, DATA));
        vec![
            step("a first fragment", CLIENT, first),
            step("a fragment that overlaps it", CLIENT, overlapping),
            step("its second fragment: the datagram has ended (RFC 5722)", CLIENT, second),
            step(
                "a first fragment without all of the transport header",
                CLIENT,
                base(4).fragment(0, true).raw(Proto::TCP, &[0; 16]),
            ),
            step(
                "a later one where a transport header would be (RFC 1858)",
                CLIENT,
                base(5).fragment(8, false).raw(Proto::TCP, &[0; 16]),
            ),
            step("a first fragment that policy denies", CLIENT, to_closed),
            step("the rest of it", CLIENT, rest),
            step("a first fragment to a Service without endpoints", CLIENT, to_empty),
            step("the rest of it", CLIENT, of_empty),
        ]
    });
}
