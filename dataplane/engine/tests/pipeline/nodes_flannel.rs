//! A node without heddle, whose kernel has a tunnel for each family, as Flannel makes them.

use std::sync::Arc;

use heddle_tables::{AddressInfo, FrontendKind, IdentityId, NodePath, Place, RemoteNode};
use heddle_wire::testing::{Packet, ip, mac};
use heddle_wire::{Ip, MacAddr, Proto, TcpFlags, tcp};

use crate::nodes::{self, N1, Other, ROUTER};
use crate::nodes_addresses::{node_port, outside};
use crate::tables::{A, HOST, MASQUERADE_V4, MASQUERADE_V6, OVERLAY_MTU, UPLINK, external};
use crate::world::{World, worlds};

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;

/// The end of the tunnel over IPv6 of the node whose tunnel over IPv4 is N1's.
const N1_V6: Other = Other {
    address: "2001:db8::11",
    vtep: mac(0xb6),
    ..N1
};

/// Makes a node one with Flannel.
fn set_flannel(w: &mut World) {
    let as_v6: NodePath = nodes::path(&Other {
        id: nodes::N3.id,
        ..N1_V6
    })
    .unwrap();
    let node = RemoteNode {
        name: "flannel".into(),
        address: Some(N1.address()),
        takes_own: false,
        takes_forwarded: false,
        path: nodes::path(&N1),
        path_v6: Some(as_v6),
    };
    w.tables.set_remote_node(N1.id, Some(Arc::new(node)));
    let info = AddressInfo {
        identity: IdentityId::OUTSIDE,
        place: Place::RemoteHost(N1.id),
    };
    w.tables.set_address(N1_V6.address(), info);
    w.publish();
}

/// Returns the end of the tunnel for the family of an address.
fn end_for(address: Ip) -> Other {
    if address.is_v4() { N1 } else { N1_V6 }
}

#[test]
fn each_family_has_its_tunnel() {
    worlds(|w| {
        set_flannel(w);
        for own in [A.v4(), A.v6()] {
            let (there, end) = (N1.pod(own), end_for(own));
            let (_, p) = w.sent(&A, &end, &A.to(there).partial().tcp(1000, 80, SYN, 1, 0, b""));
            assert_eq!((p.src, p.dst), (own, there));
            let (_, p) = w.received(&end, &A, &end.pod_to(own).tcp(80, 1000, SYN | ACK, 1, 2, b""));
            assert_eq!((p.src, p.dst), (there, own));
            // The other way: the kernel's pod opens, and heddle answers itself.
            w.received(&end, &A, &end.pod_to(own).tcp(1001, 80, SYN, 1, 0, b""));
            w.sent(&A, &end, &A.to(there).partial().tcp(80, 1001, SYN | ACK, 1, 2, b""));
            let expiring = end.inside(there, own).ttl(1).udp(1, 2, b"x");
            w.push(&UPLINK, &end.encapsulate(&expiring));
            w.step();
            w.changed(&["uplink rx 1", "uplink answered time-exceeded 1", "uplink tx 1"]);
            nodes::opened(&w.pop(&UPLINK), &end);
        }
    });
}

/// The path over IPv6 takes 20 octets less: the MSS is clamped to it, and fragments have its outer headers.
#[test]
fn each_family_has_its_mtu() {
    worlds(|w| {
        set_flannel(w);
        let mss = |mtu: u16, own: Ip| mtu - if own.is_v4() { 40 } else { 60 };
        for (own, mtu) in [(A.v4(), OVERLAY_MTU), (A.v6(), OVERLAY_MTU - 20)] {
            let syn = A.to(N1.pod(own)).mss(60_000).tcp(1000, 80, SYN, 1, 0, b"");
            let (out, p) = w.sent(&A, &end_for(own), &syn);
            assert_eq!(tcp::mss(&out, &p).unwrap().1, mss(mtu, own), "{own}");
        }
    });
}

/// The node's kernel answers by the tunnel only if the reply goes to a pod range: a client outside, and the node itself, are seen with
/// heddle's address of this node's range.
#[test]
fn replies_come_back_by_the_tunnel() {
    worlds(|w| {
        set_flannel(w);
        for own in [HOST.v4(), HOST.v6()] {
            let (backend, end) = (N1.pod(own), end_for(own));
            let masquerade = ip(if own.is_v4() { MASQUERADE_V4 } else { MASQUERADE_V6 });
            // A client outside, by a node port.
            node_port(w, &[backend], false);
            w.push(&UPLINK, &outside(ROUTER, own).tcp(1000, 30080, SYN, 1, 0, b""));
            w.step();
            w.changed(&["uplink rx 1", "uplink forwarded 1", "uplink tx 1"]);
            let (_, p) = nodes::opened(&w.pop(&UPLINK), &end);
            assert_eq!((p.src, p.dst), (masquerade, backend));
            let answer = end.pod_to(masquerade).tcp(8080, p.sport, SYN | ACK, 1, 2, b"");
            w.push(&UPLINK, &end.encapsulate(&answer));
            w.step();
            w.changed(&["uplink rx 1", "uplink forwarded 1", "uplink tx 1"]);
            w.pop(&UPLINK);
            // A process of the node, by a Service and without one, with the address of its Node object.
            let vip = ip(if own.is_v4() { "10.96.0.80" } else { "fd96::80" });
            let service = external(
                FrontendKind::ClusterIp,
                &vip.to_string(),
                Proto::TCP,
                80,
                &[(backend, 8080)],
                false,
            );
            w.tables.set_frontend(service.into());
            w.publish();
            for (dst, sport) in [(vip, 2000), (backend, 2001)] {
                let packet = Packet::new(HOST.mac, MacAddr::GATEWAY, own, dst).partial();
                let (_, p) = w.sent(&HOST, &end, &packet.tcp(sport, 80, SYN, 1, 0, b""));
                assert_eq!((p.src, p.dst), (masquerade, backend), "to {dst}");
                let answer = end.pod_to(masquerade).tcp(p.dport, p.sport, SYN | ACK, 1, 2, b"");
                let (_, p) = w.received(&end, &HOST, &answer);
                assert_eq!((p.src, p.dst, p.dport), (dst, own, sport));
            }
        }
        // The host port's own address is of the pod range already.
        let host_port = ip("10.0.255.1");
        let packet = Packet::new(HOST.mac, MacAddr::GATEWAY, host_port, N1.pod(host_port)).partial();
        let (_, p) = w.sent(&HOST, &N1, &packet.tcp(2002, 80, SYN, 1, 0, b""));
        assert_eq!(p.src, host_port);
    });
}

/// Pods reach the node's own addresses by the kernel, which masquerades. What the node itself sends by the tunnel is its own.
#[test]
fn the_nodes_own_addresses_are_the_kernels() {
    worlds(|w| {
        set_flannel(w);
        for (own, address) in [(A.v4(), N1.address()), (A.v6(), N1_V6.address())] {
            w.pass(&A, &HOST, &A.to(address).tcp(1000, 22, SYN, 1, 0, b""));
            // The first address of the pod range is the one of the device: no pod's, but in the range.
            let device = ip(if own.is_v4() { "10.0.1.0" } else { "fd00:1::" });
            let end = end_for(own);
            let (_, p) = w.received(&end, &A, &end.inside(device, own).tcp(1000, 80, SYN, 1, 0, b""));
            assert_eq!(p.src, device);
            w.sent(&A, &end, &A.to(device).partial().tcp(80, 1000, SYN | ACK, 1, 2, b""));
            // Nobody else's address comes by its tunnel.
            let forged = end.inside(nodes::N3.pod(own), own).tcp(1001, 80, SYN, 1, 0, b"");
            w.dropped(&UPLINK, &end.encapsulate(&forged), "spoofed-source");
        }
    });
}
