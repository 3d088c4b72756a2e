//! Session affinity, and the random choice among backends.

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_tables::{Affinity, Balancing, Frontend, FrontendKind};
use heddle_wire::testing::ip;
use heddle_wire::{Proto, TcpFlags};

use crate::tables::{A, B, C, HOST, Party, external};
use crate::world::{World, worlds};

const VIP: &str = "10.96.0.10";
const NODE_PORT: u16 = 30_080;

/// Sets a Service with affinity, at its cluster address and its node port.
pub fn sticky(w: &mut World, to: &[&Party], seconds: u32, balancing: Balancing) {
    for (kind, addr, port) in [
        (FrontendKind::ClusterIp, VIP, 80),
        (FrontendKind::NodePort, "0.0.0.0", NODE_PORT),
    ] {
        let list: Vec<_> = to.iter().map(|pod| (pod.v4(), 8080)).collect();
        let mut frontend: Frontend = external(kind, addr, Proto::TCP, port, &list, false);
        frontend.affinity = (seconds > 0).then(|| Affinity::new(&frontend.name, seconds));
        frontend.balancing = balancing;
        w.tables.set_frontend(Arc::new(frontend));
    }
    w.publish();
}

/// Opens connections and returns how many reached each pod.
pub fn open(
    w: &mut World,
    from: &Party,
    addr: &str,
    port: u16,
    sports: std::ops::Range<u16>,
) -> BTreeMap<&'static str, u16> {
    let mut reached = BTreeMap::new();
    for sport in sports {
        w.push(from, &from.to(ip(addr)).tcp(sport, port, TcpFlags::SYN, 1, 0, b""));
        w.step();
        for line in w.changes() {
            for pod in [A, B, C] {
                if line == format!("{} tx 1", pod.name) {
                    w.pop(&pod);
                    *reached.entry(pod.name).or_default() += 1;
                }
            }
        }
    }
    reached
}

#[test]
fn a_client_stays_with_its_backend_by_whatever_frontend_it_comes() {
    worlds(|w| {
        sticky(w, &[&B, &C], 60, Balancing::Maglev);
        let first = open(w, &A, VIP, 80, 1000..1020);
        assert_eq!(first.values().collect::<Vec<_>>(), [&20], "{first:?}");
        assert_eq!(
            open(w, &A, "192.0.2.1", NODE_PORT, 1000..1004)
                .keys()
                .collect::<Vec<_>>(),
            first.keys().collect::<Vec<_>>()
        );
    });
}

#[test]
fn affinity_outlives_new_backends_and_ends_with_its_own() {
    worlds(|w| {
        // Alone at first, so where the client went is not where the hash would lead later.
        sticky(w, &[&C], 60, Balancing::Maglev);
        assert_eq!(open(w, &HOST, VIP, 80, 1000..1001), [("c", 1)].into());
        sticky(w, &[&A, &B, &C], 60, Balancing::Random);
        assert_eq!(open(w, &HOST, VIP, 80, 1001..1020), [("c", 19)].into());
        sticky(w, &[&A, &B], 60, Balancing::Random);
        let other = open(w, &HOST, VIP, 80, 1020..1030);
        assert_eq!(other.values().collect::<Vec<_>>(), [&10], "{other:?}");
        assert!(!other.contains_key("c"));
    });
}

#[test]
fn affinity_ends_with_its_time_which_each_connection_begins_anew() {
    worlds(|w| {
        sticky(w, &[&C], 10, Balancing::Maglev);
        open(w, &HOST, VIP, 80, 1000..1001);
        sticky(w, &[&A, &B, &C], 10, Balancing::Random);
        for n in 0..5 {
            w.now = w.now.plus(10_000);
            assert_eq!(open(w, &HOST, VIP, 80, 1001 + n..1002 + n), [("c", 1)].into());
        }
        let mut reached = BTreeMap::new();
        for n in 0..40 {
            w.now = w.now.plus(10_001);
            for (pod, count) in open(w, &HOST, VIP, 80, 1100 + n..1101 + n) {
                *reached.entry(pod).or_insert(0) += count;
            }
        }
        assert_eq!(reached.len(), 3, "{reached:?}");
    });
}

/// The longest affinity timeout that the API allows.
#[test]
fn affinity_lasts_for_a_day() {
    const DAY: u32 = 86_400;
    worlds(|w| {
        sticky(w, &[&C], DAY, Balancing::Maglev);
        open(w, &HOST, VIP, 80, 1000..1001);
        sticky(w, &[&A, &B, &C], DAY, Balancing::Random);
        w.now = w.now.plus(u64::from(DAY) * 1000);
        assert_eq!(open(w, &HOST, VIP, 80, 1001..1002), [("c", 1)].into());
        let mut reached = BTreeMap::new();
        for n in 0..20 {
            w.now = w.now.plus(u64::from(DAY) * 1000 + 1);
            for (pod, count) in open(w, &HOST, VIP, 80, 1100 + n..1101 + n) {
                *reached.entry(pod).or_insert(0) += count;
            }
        }
        assert!(reached.len() > 1, "{reached:?}");
    });
}

/// An affinity that an earlier packet of the same burst leaves is used, whatever kind of packet that is.
#[test]
fn a_client_that_comes_twice_in_a_burst_reaches_one_backend() {
    worlds(|w| {
        sticky(w, &[&B, &C], 1, Balancing::Random);
        for sport in (1000..1060).step_by(3) {
            let frame = |sport, flags| A.to(ip(VIP)).tcp(sport, 80, flags, 1, 0, b"");
            for flags in [TcpFlags::SYN, TcpFlags::RST] {
                w.push(&A, &frame(sport, flags));
                w.step();
            }
            w.changes();
            // It is forgotten, and its connection is closed.
            w.now = w.now.plus(1_001);
            for (sport, flags) in [
                (sport + 1, TcpFlags::ACK),
                (sport, TcpFlags::SYN),
                (sport + 2, TcpFlags::SYN),
            ] {
                w.push(&A, &frame(sport, flags));
            }
            w.step();
            let changes = w.changes();
            let both = changes.iter().filter(|line| *line == "b tx 2" || *line == "c tx 2");
            assert_eq!(both.count(), 1, "{changes:?}");
            w.discard_outputs();
        }
    });
}

#[test]
fn by_chance_one_connection_again_and_again_reaches_all() {
    worlds(|w| {
        sticky(w, &[&B, &C], 0, Balancing::Random);
        let mut reached = BTreeMap::new();
        for _ in 0..40 {
            for (pod, count) in open(w, &A, VIP, 80, 1000..1001) {
                *reached.entry(pod).or_insert(0) += count;
            }
            w.forget_connections();
        }
        assert!(reached.values().all(|n| *n > 5) && reached.len() == 2, "{reached:?}");
    });
}

#[test]
fn after_the_timeout_a_client_may_go_elsewhere() {
    worlds(|w| {
        sticky(w, &[&B, &C], 60, Balancing::Maglev);
        let mut reached = BTreeMap::new();
        for round in 0..40 {
            let sports = 1000 + round * 4..1004 + round * 4;
            let here = open(w, &A, VIP, 80, sports);
            // Within the timeout it stays, also over the end of a period.
            assert_eq!(here.len(), 1, "round {round}: {here:?}");
            w.now = w.now.plus(31_000);
            let later = open(w, &A, VIP, 80, 3000 + round..3001 + round);
            assert_eq!(here.keys().collect::<Vec<_>>(), later.keys().collect::<Vec<_>>());
            for pod in here.into_keys() {
                *reached.entry(pod).or_insert(0) += 1;
            }
            w.now = w.now.plus(61_000);
        }
        assert!(reached.len() == 2 && reached.values().all(|n| *n >= 8), "{reached:?}");
    });
}
