//! Limits that keep one sender from taking a shared resource: the slow-path work of a burst, and the source ports to a
//! masqueraded destination.

use heddle_port::BURST;
use heddle_wire::testing::{Packet, ip};
use heddle_wire::{MacAddr, Proto, TcpFlags};

use crate::tables::{A, B, C, HOST, MASQUERADE_PORTS, frontend};
use crate::world::{Options, World, worlds};

const VIP: &str = "10.96.0.10";
const OTHER_VIP: &str = "10.96.0.11";

/// A burst may cause 128 units of slow-path work: one for each packet that needs it, and one for each source port that is tried
/// after the first. All four masquerade ports are taken, so a refused SYN costs four units.
#[test]
fn a_burst_causes_a_bounded_amount_of_slow_path_work() {
    worlds(|w| {
        w.tables
            .set_frontend(frontend(VIP, Proto::TCP, 443, &[(HOST.v4(), 6443)], false));
        w.publish();
        let syn = |sport| HOST.to(ip(VIP)).tcp(sport, 443, TcpFlags::SYN, 1, 0, b"");
        for sport in MASQUERADE_PORTS.0..=MASQUERADE_PORTS.1 {
            w.pass(&HOST, &HOST, &syn(sport));
        }
        let known = HOST.to(B.v4()).udp(1000, 53, b"known");
        w.pass(&HOST, &B, &known);

        // The burst: one new connection (1 unit), 31 refused SYNs (124 units), one that has 3 units left and needs 4, 30 that have
        // none, and a packet of a known connection, which needs none.
        w.push(&HOST, &HOST.to(B.v4()).udp(1001, 53, b"new"));
        for sport in 2000..2062 {
            w.push(&HOST, &syn(sport));
        }
        w.push(&HOST, &known);
        // Another port's burst has its own limit, although the same worker handles it.
        w.push(&A, &A.to(C.v4()).udp(1000, 53, b"calm"));
        w.step();
        assert!(w.pop(&B).ends_with(b"new") && w.pop(&B).ends_with(b"known"));
        assert!(w.pop(&C).ends_with(b"calm"));
        w.changed(&[
            &format!("host rx {BURST}"),
            "host forwarded 2",
            "host dropped flow-ports-used-up 31",
            "host dropped slow-path-limit 31",
            "b tx 2",
            "a rx 1",
            "a forwarded 1",
            "c tx 1",
        ]);

        // The next burst has the whole limit again.
        w.dropped(&HOST, &syn(2061), "flow-ports-used-up");
        w.pass(&HOST, &B, &HOST.to(B.v4()).udp(1002, 53, b"x"));
        // The one that was refused in the middle of its search is dropped without another one for 200 ms.
        w.dropped(&HOST, &syn(2031), "slow-path-limit");
        w.now = w.now.plus(200);
        w.dropped(&HOST, &syn(2031), "flow-ports-used-up");
    });
}

/// A client outside of the node sends a SYN to a Service.
fn client(source: &str, vip: &str, sport: u16) -> Vec<u8> {
    Packet::new(HOST.mac, MacAddr::GATEWAY, ip(source), ip(vip)).tcp(sport, 80, TcpFlags::SYN, 1, 0, b"")
}

/// Two of the four masquerade ports to a destination are one payer's share. All clients of a /24 are one payer.
#[test]
fn a_payer_gets_its_share_of_the_masquerade_ports_to_a_destination() {
    let mut w = World::new(Options {
        port_share: Some(2),
        ..Options::default()
    });
    for (vip, backend) in [(VIP, &B), (OTHER_VIP, &C)] {
        w.tables
            .set_frontend(frontend(vip, Proto::TCP, 80, &[(backend.v4(), 8080)], false));
    }
    w.publish();
    let (_, first) = w.pass(&HOST, &B, &client("198.51.100.7", VIP, 1000));
    w.pass(&HOST, &B, &client("198.51.100.8", VIP, 1000));
    let third = client("198.51.100.9", VIP, 1000);
    w.dropped(&HOST, &third, "flow-port-share");

    // Another payer has its own share, and the same payer has one to another destination.
    w.pass(&HOST, &B, &client("203.0.113.7", VIP, 1000));
    w.pass(&HOST, &C, &client("198.51.100.9", OTHER_VIP, 1000));
    // Connections that are not masqueraded take no share.
    w.pass(&HOST, &B, &client("198.51.100.9", "10.0.0.3", 1000));
    w.dropped(&HOST, &third, "flow-port-share");

    // The pod refuses the first connection, and its entry expires ten seconds later. Its port can be used again.
    let refusal = B
        .to(first.src)
        .tcp(8080, first.sport, TcpFlags::RST | TcpFlags::ACK, 0, 2, b"");
    w.pass(&B, &HOST, &refusal);
    w.now = w.now.plus(9_000);
    expire(&mut w);
    w.dropped(&HOST, &third, "flow-port-share");
    w.now = w.now.plus(1_001);
    expire(&mut w);
    let (_, again) = w.pass(&HOST, &B, &third);
    assert!((MASQUERADE_PORTS.0..=MASQUERADE_PORTS.1).contains(&again.sport));
    w.dropped(&HOST, &client("198.51.100.10", VIP, 1000), "flow-port-share");
}

/// Lets the worker look for expired connections in its whole table. It looks at a few records in each turn.
fn expire(w: &mut World) {
    for _ in 0..w.options.flows {
        w.step();
    }
}
