//! Decides many connections at once: what the tables are read for is fetched for all of them before it is needed for one,
//! so that a burst of first packets waits for memory once a step, not once a packet.

use arrayvec::ArrayVec;
use heddle_tables::{AddressInfo, NodeTable, ServiceLookup, Snapshot};
use heddle_wire::Ip;

use super::policy::{PolicyCheck, judge_all};
use super::{BackendSelector, Decision, Denial, Query, Target, anti_spoof, service};

/// How many are decided together.
pub(crate) const BATCH: usize = 32;

/// A new connection to be decided.
#[derive(Clone, Copy)]
pub(crate) struct NewConnection<'a> {
    pub(crate) query: Query,
    pub(crate) selector: BackendSelector<'a>,
}

/// What becomes of each of the new connections: `decided` is told, by their places, in any order. `foresee` is told where
/// one goes before policy is asked.
///
/// Nothing is said of those whose decision depends on what becomes of the others: clients that go where they went before.
/// One alone is always decided.
pub(crate) fn decide_batch(
    snapshot: &Snapshot,
    connections: &[NewConnection<'_>],
    mut foresee: impl FnMut(&Query, &Target),
    mut decided: impl FnMut(usize, Decision),
) {
    let alone = connections.len() == 1;
    for (chunk, connections) in connections.chunks(BATCH).enumerate() {
        let srcs: ArrayVec<Ip, BATCH> = connections.iter().map(|o| o.query.tuple.src).collect();
        let mut clients = [AddressInfo::default(); BATCH];
        snapshot.addresses(&srcs, &mut clients);
        let keys: ArrayVec<_, BATCH> = connections.iter().map(|o| service::key(&o.query)).collect();
        let mut services = [ServiceLookup::NotAService; BATCH];
        snapshot.frontends_at(&keys, &mut services);
        for (found, src) in services.iter().zip(clients) {
            service::prefetch(*found, src);
        }

        let (mut places, mut cases) = (ArrayVec::<usize, BATCH>::new(), ArrayVec::<PolicyCheck, BATCH>::new());
        for (at, ((connection, found), src)) in connections.iter().zip(services).zip(clients).enumerate() {
            if service::is_sticky(found) && !alone {
                continue;
            }
            let place = chunk * BATCH + at;
            match begin(snapshot, connection, found, src) {
                Ok(case) => {
                    foresee(&connection.query, &case.target);
                    places.push(place);
                    cases.push(case);
                }
                Err(done) => decided(place, done),
            }
        }

        let dsts: ArrayVec<Ip, BATCH> = cases.iter().map(|case| case.target.dst).collect();
        let mut others = [AddressInfo::default(); BATCH];
        snapshot.addresses(&dsts, &mut others);
        for (case, dst) in cases.iter_mut().zip(others) {
            case.dst = dst;
        }
        judge_all(snapshot, &cases, |at, rules| {
            let allowed = rules.and_then(|rules| cases[at].allowed(snapshot, rules));
            decided(places[at], allowed.map_or_else(Decision::Drop, Decision::Pass));
        });
    }
}

/// The connection as far as it can be known before its other end is looked up, or what becomes of it already.
fn begin(
    snapshot: &Snapshot,
    connection: &NewConnection<'_>,
    found: ServiceLookup<'_>,
    src: AddressInfo,
) -> Result<PolicyCheck, Decision> {
    let query = &connection.query;
    let from = anti_spoof::check(snapshot, query).map_err(Decision::Drop)?;
    if NodeTable::is_gateway(query.tuple.dst) {
        return Err(Decision::Gateway);
    }
    let target = match service::target(found, query, src, connection.selector) {
        service::Lookup::Target(target) => target,
        service::Lookup::Reject => return Err(Decision::Reject),
        service::Lookup::Drop(reason) => return Err(Decision::Drop(Denial::new(reason))),
    };
    Ok(PolicyCheck {
        from,
        proto: query.proto,
        target,
        src,
        dst: AddressInfo::default(),
    })
}

#[cfg(test)]
mod tests {
    use heddle_flow::Origin;
    use heddle_wire::Proto;
    use heddle_wire::rewrite::Tuple;
    use proptest::prelude::*;

    use super::*;
    use crate::decide::decide;
    use crate::fuzzing::cluster::{ELSEWHERE, PARTIES, endpoint, isolate, serve, tables};
    use heddle_tables::Direction;

    fn any_query() -> impl Strategy<Value = Query> {
        let other = prop::sample::select((0..PARTIES.len() + ELSEWHERE.len()).collect::<Vec<_>>());
        let port = prop::sample::select(vec![0_u16, 53, 80, 81, 443, 30_080]);
        let proto = prop::sample::select(vec![Proto::TCP, Proto::UDP, Proto::SCTP, Proto::ICMP]);
        (0..PARTIES.len(), 0..PARTIES.len(), other, any::<bool>(), port, proto).prop_map(
            |(from, src, to, v4, dport, proto)| {
                let party = |at: usize| PARTIES.get(at).map(|party| party.ip(v4));
                let elsewhere = |at: usize| heddle_wire::testing::ip(ELSEWHERE[at - PARTIES.len()][usize::from(!v4)]);
                let from = PARTIES[from].endpoint;
                Query {
                    origin: if from.is_pod() { Origin::pod(from) } else { Origin::HOST },
                    tuple: Tuple {
                        // Mostly its own, now and then somebody else's.
                        src: party(src).unwrap(),
                        dst: party(to).unwrap_or_else(|| elsewhere(to)),
                        sport: 1000,
                        dport,
                    },
                    proto,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn many_are_decided_as_each_one_is(
            closed in prop::option::of((prop::sample::select(Direction::BOTH.to_vec()), any::<bool>())),
            backends in 0usize..3,
            queries in prop::collection::vec(any_query(), 2..70),
        ) {
            let mut tables = tables(1);
            let [_, a, b] = &PARTIES;
            serve(&mut tables, &[a, b][..backends]);
            if let Some((direction, but_for_a)) = closed {
                tables.set_endpoint(endpoint(b, 1, 1, 1500, isolate(direction, but_for_a.then_some(a))));
            }
            let (snapshot, _) = tables.build();
            let connections: Vec<_> = queries.iter().map(|q| NewConnection { query: *q, selector: BackendSelector::default() }).collect();
            let mut decided = vec![None; connections.len()];
            let mut foreseen = Vec::new();
            let foresee = |query: &Query, target: &Target| foreseen.push((*query, *target));
            decide_batch(&snapshot, &connections, foresee, |place, decision| decided[place] = Some(decision));
            for (query, decided) in queries.iter().zip(decided) {
                let Some(decided) = decided else {
                    return Err(TestCaseError::fail(format!("{query:?} was not decided")));
                };
                prop_assert_eq!(decided, decide(&snapshot, query));
                if let Decision::Pass(allowed) = decided {
                    prop_assert!(foreseen.contains(&(*query, allowed.target)));
                }
            }
        }
    }
}
