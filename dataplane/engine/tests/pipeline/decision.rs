//! The slow path without a frame returns the verdict that the packet gets. `heddle simulate` depends on it.

use heddle_engine::{Decision, Denial, DropReason, Query, Source, decide};
use heddle_flow::Origin;
use heddle_tables::{Direction, EndpointId, RuleId};
use heddle_wire::rewrite::Tuple;
use heddle_wire::testing::ip;
use heddle_wire::{Ip, Proto, TcpFlags};
use proptest::prelude::*;

use crate::nodes::N1;
use crate::services::serve;
use crate::tables::{A, B, C, DEFAULT_DENY, HOST, MASQUERADE_V4, Party, RULE, UPLINK, frontend, isolate};
use crate::world::{Options, World};

fn query(from: &Party, dst: Ip, dport: u16) -> Query {
    let origin = if from.endpoint.is_pod() {
        Origin::pod(from.endpoint)
    } else {
        Origin::HOST
    };
    let tuple = Tuple {
        src: from.ip(dst),
        dst,
        sport: 1000,
        dport,
    };
    Query {
        origin,
        tuple,
        proto: Proto::TCP,
    }
}

fn world() -> World {
    let mut w = World::new(Options::default());
    serve(&mut w, &[&A, &B]);
    w.tables
        .set_frontend(frontend("10.96.0.1", Proto::TCP, 443, &[(HOST.v4(), 6443)], false));
    w.set_policy(&B, Some(isolate(Direction::Ingress, &[(&A, 80)])));
    w
}

#[test]
fn a_decision_names_backend_translation_and_rule() {
    let w = world();
    let snapshot = w.tables.current();
    let Decision::Pass(p) = decide(snapshot, &query(&A, B.v4(), 80)) else {
        panic!("A may reach B");
    };
    assert_eq!(
        (p.from, p.to(), p.source, p.target.service),
        (A.endpoint, B.endpoint, Source::Kept, false)
    );
    assert_eq!((p.egress_rule, p.ingress_rule), (RuleId::NO_POLICY, RULE));
    let denied = Denial {
        reason: DropReason::PolicyDeniedIngress,
        rule: DEFAULT_DENY,
        pod: B.endpoint,
    };
    assert_eq!(decide(snapshot, &query(&C, B.v4(), 80)), Decision::Drop(denied));
    let Decision::Pass(p) = decide(snapshot, &query(&HOST, ip("10.96.0.1"), 443)) else {
        panic!("the host may reach the API server's Service");
    };
    assert_eq!(
        (p.to(), p.source),
        (EndpointId::HOST, Source::Masqueraded(ip(MASQUERADE_V4)))
    );
    assert_eq!(
        (p.target.dst, p.target.dport, p.target.service),
        (HOST.v4(), 6443, true)
    );
    assert_eq!(decide(snapshot, &query(&A, ip("10.96.0.10"), 81)), Decision::Reject);
    assert_eq!(decide(snapshot, &query(&A, ip("169.254.1.1"), 80)), Decision::Gateway);
}

proptest! {
    /// The decision and the packet's end are the same.
    #[test]
    fn a_packet_ends_as_decided(
        from in prop::sample::select(vec![A, B, C, HOST]),
        dst in prop::sample::select(vec![
            "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.99", "10.0.1.9", "10.96.0.1", "10.96.0.10", "10.96.0.99",
            "192.0.2.1", "198.51.100.7", "169.254.1.1", "fd00::2", "fd00::3", "fd96::10", "2001:db8::1", "fe80::1",
        ]),
        port in prop::sample::select(vec![80_u16, 81, 443, 8080]),
    ) {
        let mut w = world();
        let dst = ip(dst);
        let decision = decide(w.tables.current(), &query(&from, dst, port));
        w.push(&from, &from.to(dst).tcp(1000, port, TcpFlags::SYN, 1, 0, b""));
        w.step();
        let name = from.name;
        let mut expected = vec![format!("{name} rx 1")];
        match decision {
            Decision::Pass(p) => {
                let to = [A, B, C, HOST, UPLINK].into_iter().find(|x| x.endpoint == p.to()).unwrap();
                let mut out = w.pop(&to);
                if to.endpoint == UPLINK.endpoint {
                    out = crate::nodes::opened(&out, &N1).0;
                }
                let sent = heddle_wire::parse(&out, out.len()).unwrap();
                prop_assert_eq!((sent.dst, sent.dport), (p.target.dst, p.target.dport));
                let src = match p.source {
                    Source::Kept => from.ip(dst),
                    Source::Hairpin(ip) | Source::Masqueraded(ip) => ip,
                };
                prop_assert_eq!(sent.src, src);
                expected.extend([format!("{name} forwarded 1"), format!("{} tx 1", to.name)]);
            }
            Decision::Reject => {
                w.pop(&from);
                expected.extend([format!("{name} answered reject-reset 1"), format!("{name} tx 1")]);
            }
            Decision::Gateway => expected.push(format!("{name} absorbed to-gateway 1")),
            Decision::Drop(denial) => expected.push(format!("{name} dropped {} 1", denial.reason)),
        }
        w.changed(&expected.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
