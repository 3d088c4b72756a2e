//! Compares the table with a plain hash map: random operations, after which both must return the same results.

use std::collections::HashMap;

use heddle_ids::{EndpointId, NodeId};
use heddle_wire::Proto;
use heddle_wire::rewrite::Tuple;
use proptest::prelude::*;

use super::*;

use crate::testing::{T0, config, look, pair, v4, v6};
use crate::{Config, FlowFlags, FlowState, Hit, InsertError, NewFlow, Quotas};

const CAPACITY: u32 = 12;
const QUOTA: u32 = 8;

#[derive(Clone, Debug)]
enum Op {
    Insert {
        conn: usize,
        origin: usize,
    },
    Lookup {
        conn: usize,
        origin: usize,
        direction: usize,
    },
    FindTuple {
        conn: usize,
        direction: usize,
    },
    Touch {
        nth: usize,
        direction: usize,
        flags: u8,
        bytes: u32,
    },
    Remove {
        nth: usize,
        direction: usize,
    },
    MoveOrigin {
        nth: usize,
        direction: usize,
        origin: usize,
    },
    Revalidate {
        nth: usize,
        direction: usize,
        generations: [u32; 2],
    },
    Reroute {
        nth: usize,
        direction: usize,
        endpoints: [u16; 2],
    },
    Expire {
        budget: u32,
    },
    Wait {
        ms: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let (conn, origin, direction, nth) = (0..40usize, 0..3usize, 0..2usize, 0..30usize);
    prop_oneof![
        6 => (conn.clone(), origin.clone()).prop_map(|(conn, origin)| Op::Insert { conn, origin }),
        4 => (conn.clone(), origin.clone(), direction.clone())
            .prop_map(|(conn, origin, direction)| Op::Lookup { conn, origin, direction }),
        2 => (conn, direction.clone()).prop_map(|(conn, direction)| Op::FindTuple { conn, direction }),
        4 => (nth.clone(), direction.clone(), any::<u8>(), 0..9000u32)
            .prop_map(|(nth, direction, flags, bytes)| Op::Touch { nth, direction, flags, bytes }),
        3 => (nth.clone(), direction.clone()).prop_map(|(nth, direction)| Op::Remove { nth, direction }),
        1 => (nth.clone(), direction.clone(), origin)
            .prop_map(|(nth, direction, origin)| Op::MoveOrigin { nth, direction, origin }),
        1 => (nth.clone(), direction.clone(), any::<[u32; 2]>())
            .prop_map(|(nth, direction, generations)| Op::Revalidate { nth, direction, generations }),
        1 => (nth, direction, [0..6u16, 0..6u16])
            .prop_map(|(nth, direction, endpoints)| Op::Reroute { nth, direction, endpoints }),
        1 => (0..20u32).prop_map(|budget| Op::Expire { budget }),
        2 => prop_oneof![0..2000u64, 9_000..70_000u64].prop_map(|ms| Op::Wait { ms }),
    ]
}

const ORIGINS: [Origin; 3] = [Origin::pod(EndpointId(2)), Origin::UPLINK, Origin::node(NodeId(7))];

/// Returns the `n`-th connection of the model. Many share tuples, replies' tuples, or both.
fn connection(n: usize, origin: usize) -> (NewFlow, NewFlow) {
    let proto = [Proto::TCP, Proto::UDP][n % 2];
    let ip = if n.is_multiple_of(5) { v6 } else { v4 };
    let arrives = Tuple {
        src: ip(1),
        dst: ip(2 + n as u32 % 3),
        sport: 1000 + n as u16 % 7,
        dport: 80,
    };
    let leaves = Tuple {
        dst: ip(9),
        dport: 8080,
        ..arrives
    };
    let mut flows = pair(proto, arrives, leaves, ORIGINS[origin], ORIGINS[2]);
    flows.0.endpoints = [EndpointId(2 + n as u16 % 2), EndpointId(1)];
    flows.1.endpoints = [EndpointId(1), flows.0.endpoints[0]];
    if n.is_multiple_of(4) {
        flows.0.flags |= FlowFlags::ADOPTED;
        flows.1.flags |= FlowFlags::ADOPTED;
    }
    flows
}

/// A connection of the model.
#[derive(Clone)]
struct Entry {
    slot: SlotId,
    flows: [NewFlow; 2],
    conn: crate::state::ConnState,
    last_seen: Millis,
    counters: [Counters; 2],
}

impl Entry {
    fn expired(&self, now: Millis) -> bool {
        let timeouts = config(0).timeouts;
        let mut timeout = timeouts.of(self.flows[0].key.proto, self.conn.state());
        if self.conn.is_one_sided() {
            timeout = timeout.min(timeouts.tcp_adopted);
        }
        now.since(self.last_seen) >= timeout.as_millis() as u64
    }

    fn matches(&self, view: &FlowView, direction: usize) -> bool {
        let flow = &self.flows[direction];
        view.rewrite == flow.rewrite
            && view.origin == flow.key.origin
            && view.egress == flow.egress
            && view.endpoints == flow.endpoints
            && view.generations == flow.generations
            && view.mss_clamp == flow.mss_clamp
            && view.flags == flow.flags
            && view.state == self.conn.state()
            && view.last_seen == self.last_seen
    }
}

/// The naive model: connections by number, and the connection of each tuple.
#[derive(Default)]
struct Model {
    now: Millis,
    entries: HashMap<u32, Entry>,
    tuples: HashMap<(Tuple, Proto), (u32, usize)>,
    next: u32,
    history: Vec<(SlotId, u32)>,
}

impl Model {
    fn at(&self, key: &FlowKey) -> Option<(u32, usize)> {
        let found = self.tuples.get(&(key.tuple, key.proto)).copied()?;
        (!self.entries[&found.0].expired(self.now)).then_some(found)
    }

    fn remove(&mut self, id: u32) -> bool {
        let Some(entry) = self.entries.remove(&id) else {
            return false;
        };
        for flow in entry.flows {
            self.tuples.remove(&(flow.key.tuple, flow.key.proto));
        }
        true
    }

    fn opened_by(&self, endpoint: EndpointId) -> u32 {
        self.entries
            .values()
            .filter(|e| e.flows[0].endpoints[0] == endpoint)
            .count() as u32
    }

    fn insert(&mut self, table: &FlowTable, flows: (NewFlow, NewFlow)) -> Result<(), TestCaseError> {
        let got = table.insert(&flows.0, &flows.1, self.now);
        // Expired holders of either tuple make room, the forward one first.
        for key in [flows.0.key, flows.1.key] {
            let holder = self.tuples.get(&(key.tuple, key.proto)).map(|f| f.0);
            if let Some(id) = holder.filter(|id| self.entries[id].expired(self.now)) {
                self.remove(id);
            } else if holder.is_some() {
                break;
            }
        }
        if let Some((id, direction)) = self.at(&flows.0.key) {
            let entry = &self.entries[&id];
            let (hit, same) = match got {
                Err(InsertError::Exists(hit)) => (hit, true),
                Err(InsertError::OtherOrigin(hit)) => (hit, false),
                other => return Err(TestCaseError::fail(format!("{other:?} for a tuple that exists"))),
            };
            prop_assert_eq!(same, entry.flows[direction].key.origin == flows.0.key.origin);
            prop_assert!(entry.matches(&hit.view, direction));
            return Ok(());
        }
        if self.at(&flows.1.key).is_some() {
            prop_assert_eq!(got, Err(InsertError::ReverseTaken));
            return Ok(());
        }
        let charged = flows.0.endpoints[0];
        if self.opened_by(charged) >= QUOTA && charged.is_pod() {
            prop_assert_eq!(got, Err(InsertError::Quota(charged)));
            return Ok(());
        }
        if self.entries.len() as u32 >= CAPACITY {
            // An insert into a full table checks more records than there are, so all expired ones are removed.
            let now = self.now;
            let expired: Vec<_> = self
                .entries
                .iter()
                .filter(|(_, e)| e.expired(now))
                .map(|(id, _)| *id)
                .collect();
            if expired.is_empty() {
                let open = self.entries.values().filter(|e| e.conn.is_displaceable()).count();
                if open == 0 {
                    prop_assert_eq!(got, Err(InsertError::Full));
                    return Ok(());
                }
                // One of those whose handshake is not complete made room.
                let gone: Vec<_> = self
                    .entries
                    .iter()
                    .filter(|(_, e)| table.view(e.slot).is_none())
                    .map(|(id, e)| (*id, e.conn.is_displaceable()))
                    .collect();
                prop_assert!(matches!(*gone, [(_, true)]), "{:?}", gone);
                self.remove(gone[0].0);
            }
            for id in expired {
                self.remove(id);
            }
        }
        let (slot, peer) = got.map_err(|e| TestCaseError::fail(format!("refused: {e}")))?;
        prop_assert_eq!(slot.peer(), peer);
        let id = self.next;
        self.next += 1;
        for (direction, flow) in [flows.0, flows.1].into_iter().enumerate() {
            self.tuples.insert((flow.key.tuple, flow.key.proto), (id, direction));
        }
        let conn = crate::state::ConnState::opening(flows.0.key.proto, flows.0.flags);
        let entry = Entry {
            slot,
            flows: [flows.0, flows.1],
            conn,
            last_seen: self.now,
            counters: Default::default(),
        };
        self.entries.insert(id, entry);
        self.history.push((slot, id));
        Ok(())
    }

    /// Returns the `nth` connection from the end of all connections so far, live or removed.
    fn named(&self, nth: usize, direction: usize) -> Option<(SlotId, u32)> {
        let (slot, id) = *self.history.iter().rev().nth(nth)?;
        Some((if direction == 0 { slot } else { slot.peer() }, id))
    }

    /// Does an operation on the table and on the model, and compares the results.
    ///
    /// An operation on a slot applies to both directions or to the given one, as in the table. Expiry is different: the table
    /// chooses the connections, and the model asserts that each of them had expired.
    fn step(&mut self, table: &FlowTable, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Insert { conn, origin } => self.insert(table, connection(conn, origin))?,
            Op::Lookup {
                conn,
                origin,
                direction,
            } => {
                let flows = connection(conn, origin);
                let key = [flows.0, flows.1][direction].key;
                let want = self
                    .at(&key)
                    .filter(|(id, d)| self.entries[id].flows[*d].key.origin == key.origin);
                self.compare(look(table, key, self.now), want)?;
            }
            Op::FindTuple { conn, direction } => {
                let flows = connection(conn, 0);
                let key = [flows.0, flows.1][direction].key;
                self.compare(table.find_tuple(&key, self.now), self.at(&key))?;
            }
            Op::Touch {
                nth,
                direction,
                flags,
                bytes,
            } => {
                let Some((slot, id)) = self.named(nth, direction) else {
                    return Ok(());
                };
                let touched = table.touch(slot, self.now, bytes, TcpFlags(flags));
                let now = self.now;
                let entry = self.entries.get_mut(&id);
                prop_assert_eq!(touched, entry.is_some());
                if let Some(entry) = entry {
                    entry.conn = entry.conn.after(direction, TcpFlags(flags));
                    entry.last_seen = now;
                    entry.counters[direction].packets += 1;
                    entry.counters[direction].bytes += u64::from(bytes);
                }
            }
            Op::Remove { nth, direction } => {
                let Some((slot, id)) = self.named(nth, direction) else {
                    return Ok(());
                };
                prop_assert_eq!(table.remove(slot), self.remove(id));
            }
            Op::MoveOrigin { nth, direction, origin } => {
                let Some((slot, id)) = self.named(nth, direction) else {
                    return Ok(());
                };
                let entry = self.entries.get_mut(&id);
                prop_assert_eq!(table.move_origin(slot, ORIGINS[origin]), entry.is_some());
                entry
                    .into_iter()
                    .for_each(|e| e.flows[direction].key.origin = ORIGINS[origin]);
            }
            Op::Revalidate {
                nth,
                direction,
                generations,
            } => {
                let Some((slot, id)) = self.named(nth, direction) else {
                    return Ok(());
                };
                let generations = generations.map(Generation);
                let entry = self.entries.get_mut(&id);
                prop_assert_eq!(table.revalidate(slot, generations), entry.is_some());
                entry
                    .into_iter()
                    .for_each(|e| set_pair(e, direction, |f| &mut f.generations, generations));
            }
            Op::Reroute {
                nth,
                direction,
                endpoints,
            } => {
                let Some((slot, id)) = self.named(nth, direction) else {
                    return Ok(());
                };
                let route = Route {
                    egress: [
                        crate::Egress::Uplink(crate::NextHopId(endpoints[0])),
                        crate::Egress::Node(NodeId(3)),
                    ],
                    endpoints: endpoints.map(EndpointId),
                    generations: [Generation(5), Generation(6)],
                    mss_clamp: [1, 2],
                };
                let entry = self.entries.get_mut(&id);
                prop_assert_eq!(table.reroute(slot, &route), entry.is_some());
                entry.into_iter().for_each(|e| {
                    set_pair(e, direction, |f| &mut f.endpoints, route.endpoints);
                    set_pair(e, direction, |f| &mut f.generations, route.generations);
                    for (d, n) in [(direction, 0), (direction ^ 1, 1)] {
                        e.flows[d].egress = route.egress[n];
                        e.flows[d].mss_clamp = route.mss_clamp[n];
                    }
                });
            }
            Op::Expire { budget } => {
                let removed = table.expire(self.now, budget);
                let gone: Vec<_> = self
                    .entries
                    .iter()
                    .filter(|(_, e)| table.view(e.slot).is_none())
                    .map(|(id, _)| *id)
                    .collect();
                prop_assert_eq!(removed as usize, gone.len());
                for id in gone {
                    prop_assert!(self.entries[&id].expired(self.now), "a live connection was taken");
                    self.remove(id);
                }
            }
            Op::Wait { ms } => self.now = self.now.plus(ms),
        }
        Ok(())
    }

    fn compare(&self, got: Option<Hit>, want: Option<(u32, usize)>) -> Result<(), TestCaseError> {
        prop_assert_eq!(got.is_some(), want.is_some());
        if let Some((hit, (id, direction))) = got.zip(want) {
            let entry = &self.entries[&id];
            prop_assert!(
                entry.matches(&hit.view, direction),
                "{:?} is not {:?}",
                hit.view,
                entry.flows[direction]
            );
            prop_assert_eq!(hit.slot, [entry.slot, entry.slot.peer()][direction]);
        }
        Ok(())
    }

    fn compare_whole(&self, table: &FlowTable) -> Result<(), TestCaseError> {
        prop_assert_eq!(table.stats().used as usize, self.entries.len());
        for endpoint in (0..8).map(EndpointId) {
            prop_assert_eq!(table.opened_by(endpoint), self.opened_by(endpoint));
        }
        let mut seen = Vec::new();
        table.for_each(|c| seen.push(*c));
        prop_assert_eq!(seen.len(), self.entries.len());
        for c in seen {
            let entry = self.entries.values().find(|e| e.slot == c.slot);
            let Some(entry) = entry else {
                return Err(TestCaseError::fail(format!("{c:?} is in no model")));
            };
            prop_assert_eq!(c.keys, [entry.flows[0].key, entry.flows[1].key]);
            prop_assert_eq!(c.counters, entry.counters);
            prop_assert!(entry.matches(&c.views[0], 0) && entry.matches(&c.views[1], 1));
        }
        Ok(())
    }
}

/// Sets a pair in both directions, swapped in the other one.
fn set_pair<T: Copy>(entry: &mut Entry, direction: usize, field: impl Fn(&mut NewFlow) -> &mut [T; 2], [a, b]: [T; 2]) {
    *field(&mut entry.flows[direction]) = [a, b];
    *field(&mut entry.flows[direction ^ 1]) = [b, a];
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 512 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_hash_map(ops in proptest::collection::vec(op(), 1..if cfg!(miri) { 40 } else { 300 })) {
        let table = FlowTable::anonymous(&Config { quotas: Quotas { per_pod: Some(QUOTA), ..Quotas::default() }, ..config(CAPACITY) });
        let mut model = Model { now: T0, ..Model::default() };
        for op in &ops {
            model.step(&table, op)?;
        }
        model.compare_whole(&table)?;
    }
}

#[test]
fn the_models_world_has_conflicts() {
    let all: Vec<_> = (0..40).map(|n| connection(n, 0)).collect();
    let same_answer =
        |a: &(NewFlow, NewFlow), b: &(NewFlow, NewFlow)| a.1.key == b.1.key && a.0.key.tuple != b.0.key.tuple;
    assert!(all.iter().any(|a| all.iter().any(|b| same_answer(a, b))));
    assert_eq!(FlowState::New.as_str(), "new");
}
