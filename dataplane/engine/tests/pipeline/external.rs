//! NodePort, load balancer and external addresses: the backend and the source address of connections.

use std::sync::Arc;

use heddle_tables::{Backends, Frontend, FrontendKind, Prefix};
use heddle_wire::testing::{Packet, ip};
use heddle_wire::{Ip, MacAddr, Parsed, Proto, TcpFlags};

use crate::tables::{A, B, C, HOST, MASQUERADE_PORTS, MASQUERADE_V4, MASQUERADE_V6, Party, external, list};
use crate::world::{World, worlds};

const BALANCER: [&str; 2] = ["203.0.113.10", "2001:db8:5::10"];
const OUTSIDE: [&str; 2] = ["198.51.100.7", "2001:db8:7::7"];
const OTHER_NODE: &str = "192.0.2.2";

/// A frontend of each external kind: which one, and where it is asked for.
const KINDS: [(FrontendKind, [&str; 2], [&str; 2]); 3] = [
    (FrontendKind::LoadBalancer, BALANCER, BALANCER),
    (FrontendKind::ExternalIp, BALANCER, BALANCER),
    (FrontendKind::NodePort, ["0.0.0.0", "::"], ["192.0.2.1", "2001:db8::1"]),
];

fn backends(of: &[&Party], family: Ip) -> Vec<(Ip, u16)> {
    of.iter().map(|pod| (pod.ip(family), 8080)).collect()
}

/// `externalTrafficPolicy: Cluster`
fn cluster(w: &mut World, kind: FrontendKind, at: [&str; 2], to: &[&Party]) {
    for addr in at {
        let frontend = external(kind, addr, Proto::TCP, 80, &backends(to, ip(addr)), false);
        w.tables.set_frontend(Arc::new(frontend));
    }
    w.publish();
}

/// `externalTrafficPolicy: Local`, with these endpoints here and everywhere.
fn local(w: &mut World, kind: FrontendKind, at: [&str; 2], here: &[&Party], everywhere: &[&Party]) {
    for addr in at {
        let family = ip(addr);
        let mut frontend = external(
            kind,
            addr,
            Proto::TCP,
            80,
            &backends(here, family),
            !everywhere.is_empty(),
        );
        frontend.inside = Some(list(&backends(everywhere, family), false));
        w.tables.set_frontend(Arc::new(frontend));
    }
    w.publish();
}

/// A SYN of somebody behind the host port.
fn outside(src: Ip, dst: Ip, sport: u16) -> Vec<u8> {
    Packet::new(HOST.mac, MacAddr::GATEWAY, src, dst).tcp(sport, 80, TcpFlags::SYN, 1, 0, b"")
}

fn masquerade(family: Ip) -> Ip {
    ip(if family.is_v4() { MASQUERADE_V4 } else { MASQUERADE_V6 })
}

/// Answers what reached `server`, which must get to `client` as from `vip`.
#[track_caller]
fn answer(w: &mut World, server: &Party, client: &Party, seen: &Parsed, vip: Ip, asked_from: (Ip, u16)) {
    let reply = server
        .to(seen.src)
        .tcp(8080, seen.sport, TcpFlags::SYN | TcpFlags::ACK, 1, 2, b"");
    let (_, p) = w.pass(server, client, &reply);
    assert_eq!((p.src, p.sport, p.dst, p.dport), (vip, 80, asked_from.0, asked_from.1));
}

#[test]
fn with_policy_cluster_everybody_is_masqueraded_but_the_node_itself() {
    worlds(|w| {
        for (kind, at, asked) in KINDS {
            cluster(w, kind, at, &[&B]);
            for (vip, far) in asked.map(ip).into_iter().zip(OUTSIDE.map(ip)) {
                let (_, p) = w.pass(&HOST, &B, &outside(far, vip, 1000));
                assert_eq!((p.src, p.dst, p.dport), (masquerade(vip), B.ip(vip), 8080));
                assert!((MASQUERADE_PORTS.0..=MASQUERADE_PORTS.1).contains(&p.sport));
                answer(w, &B, &HOST, &p, vip, (far, 1000));

                let (_, p) = w.pass(&A, &B, &A.to(vip).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
                assert_eq!((p.src, p.dst), (masquerade(vip), B.ip(vip)), "a pod, {kind:?}");
                answer(w, &B, &A, &p, vip, (A.ip(vip), 1000));

                let (_, p) = w.pass(&HOST, &B, &HOST.to(vip).tcp(1001, 80, TcpFlags::SYN, 1, 0, b""));
                assert_eq!((p.src, p.sport), (HOST.ip(vip), 1001));
                answer(w, &B, &HOST, &p, vip, (HOST.ip(vip), 1001));
            }
            for addr in at {
                let key = external(kind, addr, Proto::TCP, 80, &[], false).key;
                w.tables.remove_frontend(key);
            }
            w.forget_connections();
        }
    });
}

#[test]
fn with_policy_local_the_source_stays_and_pods_reach_all() {
    worlds(|w| {
        for (kind, at, asked) in KINDS {
            // The one of this node, and one that only the cluster's clients are led to.
            local(w, kind, at, &[&B], &[&C]);
            for (vip, far) in asked.map(ip).into_iter().zip(OUTSIDE.map(ip)) {
                let (_, p) = w.pass(&HOST, &B, &outside(far, vip, 1000));
                assert_eq!((p.src, p.sport, p.dst), (far, 1000, B.ip(vip)));
                answer(w, &B, &HOST, &p, vip, (far, 1000));
                let (_, p) = w.pass(&A, &C, &A.to(vip).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
                assert_eq!((p.src, p.sport), (A.ip(vip), 1000), "a pod keeps its address");
                answer(w, &C, &A, &p, vip, (A.ip(vip), 1000));
                w.pass(&HOST, &C, &HOST.to(vip).tcp(1001, 80, TcpFlags::SYN, 1, 0, b""));
            }
            let other = outside(ip(OTHER_NODE), ip(asked[0]), 1000);
            let (_, p) = w.pass(&HOST, &B, &other);
            assert_eq!(p.src, ip(OTHER_NODE), "another node is outside");
            w.forget_connections();
            for addr in at {
                let key = external(kind, addr, Proto::TCP, 80, &[], false).key;
                w.tables.remove_frontend(key);
            }
        }
    });
}

#[test]
fn with_policy_local_endpoints_elsewhere_drop_and_none_at_all_rejects() {
    worlds(|w| {
        for (kind, at, asked) in KINDS {
            let (vip, far) = (ip(asked[0]), ip(OUTSIDE[0]));
            local(w, kind, at, &[], &[&C]);
            w.dropped(&HOST, &outside(far, vip, 1000), "service-no-local-endpoint");
            w.pass(&A, &C, &A.to(vip).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
            local(w, kind, at, &[], &[]);
            w.answered(&HOST, &outside(far, vip, 1001), "reject-reset");
            w.answered(&A, &A.to(vip).tcp(1001, 80, TcpFlags::SYN, 1, 0, b""), "reject-reset");
            w.forget_connections();
        }
    });
}

#[test]
fn source_ranges_keep_others_out() {
    worlds(|w| {
        let vip = ip(BALANCER[0]);
        let ranged = |list: Backends| {
            let mut frontend = external(FrontendKind::LoadBalancer, BALANCER[0], Proto::TCP, 80, &[], false);
            frontend.backends = list;
            frontend.source_ranges = Some([Prefix::new(ip("198.51.100.0"), 25), Prefix::new(A.v4(), 32)].into());
            Arc::<Frontend>::new(frontend)
        };
        w.tables.set_frontend(ranged(list(&[(B.v4(), 8080)], false)));
        w.publish();
        w.pass(&HOST, &B, &outside(ip("198.51.100.127"), vip, 1000));
        w.dropped(&HOST, &outside(ip("198.51.100.128"), vip, 1000), "service-source-range");
        w.pass(&A, &B, &A.to(vip).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
        let syn = C.to(vip).tcp(1000, 80, TcpFlags::SYN, 1, 0, b"");
        w.dropped(&C, &syn, "service-source-range");
        w.tables.set_frontend(ranged(list(&[], false)));
        w.publish();
        w.dropped(&C, &syn, "service-source-range");
        w.answered(&HOST, &outside(ip("198.51.100.9"), vip, 1001), "reject-reset");
    });
}

#[test]
fn a_masqueraded_connection_stays_so_when_tables_change() {
    worlds(|w| {
        let vip = ip("192.0.2.1");
        cluster(w, FrontendKind::NodePort, ["0.0.0.0", "::"], &[&B]);
        let (_, first) = w.pass(&A, &B, &A.to(vip).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
        w.set_policy(&B, Some(Arc::new(heddle_tables::EndpointPolicy::open())));
        let (_, again) = w.pass(&A, &B, &A.to(vip).tcp(1000, 80, TcpFlags::ACK, 2, 2, b"x"));
        assert_eq!((again.src, again.sport), (first.src, first.sport));
        assert_eq!(w.connections(), 1);
    });
}

#[test]
fn other_ports_of_the_node_are_its_own() {
    worlds(|w| {
        cluster(w, FrontendKind::NodePort, ["0.0.0.0", "::"], &[&B]);
        let (_, p) = w.pass(&A, &HOST, &A.to(HOST.v4()).tcp(1000, 22, TcpFlags::SYN, 1, 0, b""));
        assert_eq!((p.dst, p.dport), (HOST.v4(), 22));
        // A node port is the node's, not the pods'.
        let (_, p) = w.pass(&A, &C, &A.to(C.v4()).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
        assert_eq!((p.dst, p.dport), (C.v4(), 80));
    });
}

#[test]
fn a_connection_to_a_backend_whose_pod_is_gone_is_reset() {
    worlds(|w| {
        crate::services::serve(w, &[&B]);
        let vip = ip("10.96.0.10");
        w.pass(&A, &B, &A.to(vip).tcp(1000, 80, TcpFlags::SYN, 1, 0, b""));
        w.pass(&A, &B, &A.to(vip).udp(1000, 80, b"x"));
        crate::services::serve(w, &[&C]);
        // It may go on while the pod is there.
        w.pass(&A, &B, &A.to(vip).tcp(1000, 80, TcpFlags::ACK, 2, 2, b"x"));
        w.tables.remove_endpoint(B.endpoint);
        w.tables.remove_address(B.v4());
        w.publish();
        let segment = A.to(vip).tcp(1000, 80, TcpFlags::ACK, 3, 2, b"y");
        let (_, p) = w.answered(&A, &segment, "tcp-reset");
        assert_eq!((p.src, p.sport, p.dport), (vip, 80, 1000));
        w.dropped(&A, &A.to(vip).udp(1000, 80, b"x"), "unknown-destination");
        w.pass(&A, &C, &A.to(vip).tcp(1000, 80, TcpFlags::SYN, 9, 0, b""));
        w.pass(&A, &C, &A.to(vip).udp(1000, 80, b"x"));
    });
}
