//! `heddle flows`: a page of the flow table, filtered, with the names of pods and Services. One page reads a bounded
//! number of records, so that the time of a query does not depend on the table's size.

use std::ops::ControlFlow;
use std::sync::Arc;

use heddle_engine::{Query, service_at};
use heddle_flow::{Connection, FlowFlags, FlowState, FlowTable, Millis};
use heddle_proto::flows::MAX_FLOWS;
use heddle_proto::{Flow, Flows, FlowsRequest, QueryError};
use heddle_tables::{ServiceLookup, Snapshot};
use heddle_wire::{Ip, Proto};

use super::model::ReadModel;
use super::names::{PodLocation, service_name, unknown};
use super::view::View;
use crate::workers::clock;

/// The maximum number of records that one page reads.
const RECORDS_PER_PAGE: u32 = 16_384;

/// The states that a query may name.
const STATES: [FlowState; 8] = [
    FlowState::New,
    FlowState::Replied,
    FlowState::SynSent,
    FlowState::SynReceived,
    FlowState::Established,
    FlowState::FinWait,
    FlowState::TimeWait,
    FlowState::Closed,
];
/// The protocols that a query may name; others are given by number.
const PROTOCOLS: [Proto; 5] = [Proto::TCP, Proto::UDP, Proto::SCTP, Proto::ICMP, Proto::ICMPV6];

/// The conditions of a query, in the types of the flow table.
#[derive(Debug, Default)]
struct FlowFilter {
    pod: Option<PodLocation>,
    /// `namespace/name`
    service: Option<String>,
    state: Option<FlowState>,
    address: Option<Ip>,
    protocol: Option<Proto>,
}

/// A connection with the direction in which it was opened.
struct Opened<'a> {
    connection: &'a Connection,
    /// The index of that direction.
    forward: usize,
}

impl<'a> Opened<'a> {
    fn new(connection: &'a Connection) -> Self {
        Self {
            forward: usize::from(connection.views[0].flags.contains(FlowFlags::REPLY)),
            connection,
        }
    }

    fn flags(&self) -> FlowFlags {
        self.connection.views[self.forward].flags
    }
}

impl FlowFilter {
    /// Returns `true` if the connection meets all conditions.
    fn matches(&self, snapshot: &Snapshot, opened: &Opened<'_>) -> bool {
        let (key, view) = (
            &opened.connection.keys[opened.forward],
            &opened.connection.views[opened.forward],
        );
        let addresses = [key.tuple.src, key.tuple.dst, view.rewrite.to.src, view.rewrite.to.dst];
        self.state.is_none_or(|state| view.state == state)
            && self.protocol.is_none_or(|protocol| key.proto == protocol)
            && self.address.is_none_or(|address| addresses.contains(&address))
            && self.pod.as_ref().is_none_or(|pod| {
                pod.endpoints.iter().any(|id| view.endpoints.contains(id))
                    || [key.tuple.src, view.rewrite.to.dst]
                        .iter()
                        .any(|end| pod.addresses.contains(end))
            })
            && self.service.as_deref().is_none_or(|service| {
                let lookup = || service_at(snapshot, &Query::from(key));
                view.flags.contains(FlowFlags::SERVICE)
                    && matches!(lookup(), ServiceLookup::Frontend(f) if service_name(f) == Some(service))
            })
    }
}

/// Returns the milliseconds for which a connection has been idle and after which it expires; `None` if it has expired.
fn idle_and_left(flows: &FlowTable, connection: &Connection, now: Millis) -> Option<(u64, u64)> {
    let view = &connection.views[0];
    let idle = now.since(view.last_seen);
    let timeout = flows.timeouts().of(connection.keys[0].proto, view.state).as_millis();
    let left = u64::try_from(timeout).unwrap_or(u64::MAX).checked_sub(idle)?;
    (left > 0).then_some((idle, left))
}

/// Finds the value with the name that a query gives, without regard to case.
///
/// # Errors
/// No value has the name; the error lists the names.
fn value_named<T: Copy>(
    what: &str,
    asked: Option<&String>,
    all: &[T],
    name: impl Fn(T) -> String,
) -> Result<Option<T>, QueryError> {
    let Some(asked) = asked else { return Ok(None) };
    let found = all.iter().find(|one| name(**one).eq_ignore_ascii_case(asked));
    found.copied().map(Some).ok_or_else(|| {
        let names: Vec<String> = all.iter().map(|one| name(*one)).collect();
        let message = format!("{asked:?} is no {what}: give one of {}", names.join(", "));
        QueryError::invalid(message)
    })
}

impl ReadModel {
    /// Answers `flows`: reads one page of the flow table.
    pub(super) fn read_flows(&self, request: &FlowsRequest) -> Result<Flows, QueryError> {
        let view = self.view();
        let filter = self.flow_filter(&view, request)?;
        let limit = request.limit.unwrap_or(MAX_FLOWS).clamp(1, MAX_FLOWS) as usize;
        let snapshot = view.snapshot.as_ref().map_or_else(Arc::default, Arc::clone);
        let table = &self.flows;
        let now = clock();
        let mut flows = Vec::new();
        let next = table.page(request.from, RECORDS_PER_PAGE, |connection| {
            let opened = Opened::new(connection);
            if filter.matches(&snapshot, &opened)
                && let Some(times) = idle_and_left(table, connection, now)
            {
                flows.push(self.row(&view, &snapshot, &opened, times, now));
            }
            if flows.len() < limit {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        Ok(Flows { flows, next })
    }

    /// Checks the conditions of a request.
    fn flow_filter(&self, view: &View, request: &FlowsRequest) -> Result<FlowFilter, QueryError> {
        let pod = self.locate_pod(view, request.pod.as_ref())?;
        if let Some(service) = &request.service {
            let key = heddle_model::ObjectKey::new(service.namespace.as_str(), service.name.as_str());
            self.cluster()
                .service(&key)
                .ok_or_else(|| unknown("Service", service))?;
        }
        let number = request.protocol.as_ref().and_then(|text| text.parse().ok()).map(Proto);
        Ok(FlowFilter {
            pod,
            service: request.service.as_ref().map(ToString::to_string),
            state: value_named("state of a connection", request.state.as_ref(), &STATES, |state| {
                state.as_str().to_owned()
            })?,
            address: request.address.map(Ip::from),
            protocol: match number {
                Some(number) => Some(number),
                None => value_named("protocol", request.protocol.as_ref(), &PROTOCOLS, |p| p.to_string())?,
            },
        })
    }

    /// Converts a connection to a message, with the names of pods and Services.
    fn row(
        &self,
        view: &View,
        snapshot: &Snapshot,
        opened: &Opened<'_>,
        (idle, left): (u64, u64),
        now: Millis,
    ) -> Flow {
        let (connection, forward) = (opened.connection, opened.forward);
        let (key, direction) = (&connection.keys[forward], &connection.views[forward]);
        // The tuple as the opener sent it, and as it leaves after translation.
        let (seen, sent, proto) = (key.tuple, direction.rewrite.to, key.proto);
        let flags = opened.flags();
        // Current: no endpoint's generation has risen since the connection was judged.
        let generations = direction
            .endpoints
            .map(|id| snapshot.endpoint(id).map(|e| e.generation));
        let current = match generations {
            [Some(a), Some(b)] => direction.is_current(self.flows.epoch(), [a, b]),
            _ => false,
        };
        let translated = (sent.src, sent.sport) != (seen.src, seen.sport);
        // The counters of the opener's direction and of the other one.
        let (from, back) = (connection.counters[forward], connection.counters[1 - forward]);
        Flow {
            id: format!("{:x}", connection.slot.id()),
            record: connection.slot.number(),
            protocol: proto.to_string(),
            state: direction.state.as_str().to_owned(),
            client: self.end(view, seen.src, seen.sport, proto),
            frontend: flags
                .contains(FlowFlags::SERVICE)
                .then(|| self.end(view, seen.dst, seen.dport, proto)),
            server: self.end(view, sent.dst, sent.dport, proto),
            translated_source: translated.then(|| self.end(view, sent.src, sent.sport, proto)),
            age_seconds: now.since(connection.inserted_at) / 1000,
            idle_seconds: idle / 1000,
            left_seconds: left / 1000,
            packets_sent: from.packets,
            bytes_sent: from.bytes,
            packets_received: back.packets,
            bytes_received: back.bytes,
            adopted: flags.contains(FlowFlags::ADOPTED),
            hairpin: flags.contains(FlowFlags::HAIRPIN),
            masquerade: flags.contains(FlowFlags::MASQUERADED),
            forwarded: flags.contains(FlowFlags::FORWARDED),
            current,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use heddle_flow::{Config, Egress, FlowKey, NewFlow, Origin, Rewrite};
    use heddle_tables::{
        Backend, Backends, EndpointId, Frontend, FrontendKey, FrontendKind, Generation, SnapshotBuilder,
    };
    use heddle_wire::rewrite::Tuple;

    use super::*;

    const CLIENT: Ip = Ip::from_v4([10, 0, 0, 9]);
    const SERVICE: Ip = Ip::from_v4([10, 96, 0, 80]);
    const SERVER: Ip = Ip::from_v4([10, 0, 0, 5]);

    /// A connection of endpoint 2 through a Service to endpoint 3, inserted by its answer.
    fn table() -> FlowTable {
        let flows = FlowTable::anonymous(&Config {
            capacity: 64,
            ..Config::default()
        });
        let tuple = |dst, dport| Tuple {
            src: CLIENT,
            dst,
            sport: 40_000,
            dport,
        };
        let (asked, sent) = (tuple(SERVICE, 80), tuple(SERVER, 8080));
        let flow = |from, to: Tuple, endpoints, flags| {
            let key = FlowKey::opening(from, Proto::TCP, Origin::HOST);
            NewFlow {
                key,
                rewrite: Rewrite::between(&key, to),
                egress: Egress::Endpoint(EndpointId(3)),
                endpoints,
                generations: [Generation(0); 2],
                mss_clamp: 0,
                flags: flags | FlowFlags::SERVICE,
            }
        };
        let ends = [EndpointId(2), EndpointId(3)];
        let there = flow(asked, sent, ends, FlowFlags::empty());
        let back = flow(sent.reversed(), asked.reversed(), [ends[1], ends[0]], FlowFlags::REPLY);
        flows.insert(&back, &there, Millis(1000)).unwrap();
        flows
    }

    fn snapshot() -> Arc<Snapshot> {
        let mut tables = SnapshotBuilder::new();
        let key = FrontendKey {
            ip: SERVICE,
            proto: Proto::TCP,
            port: 80,
        };
        let backend = Backend { ip: SERVER, port: 8080 };
        let backends = Backends::new([backend], false);
        tables.set_frontend(Arc::new(Frontend::new(
            key,
            FrontendKind::ClusterIp,
            "shop/web:http",
            backends,
        )));
        tables.build().0
    }

    /// Returns `true` if a filter matches the connection of `table`.
    fn matches(filter: &FlowFilter) -> bool {
        let (flows, snapshot) = (table(), snapshot());
        let mut found = false;
        flows.for_each(|connection| {
            let opened = Opened::new(connection);
            assert_eq!(
                opened.connection.keys[opened.forward].tuple.src, CLIENT,
                "the opener is the client"
            );
            found = filter.matches(&snapshot, &opened);
        });
        found
    }

    #[test]
    fn filters_look_at_both_ends_before_and_after_translation() {
        let address = |address| FlowFilter {
            address: Some(address),
            ..FlowFilter::default()
        };
        let service = |name: &str| FlowFilter {
            service: Some(name.to_owned()),
            ..FlowFilter::default()
        };
        let pod = |addresses: &[Ip], id| FlowFilter {
            pod: Some(PodLocation {
                addresses: addresses.to_vec(),
                endpoints: vec![EndpointId(id)],
            }),
            ..FlowFilter::default()
        };
        for yes in [
            FlowFilter::default(),
            address(CLIENT),
            address(SERVICE),
            address(SERVER),
            service("shop/web"),
            pod(&[], 2),
            pod(&[], 3),
            pod(&[SERVER], 9),
            FlowFilter {
                state: Some(FlowState::SynSent),
                protocol: Some(Proto::TCP),
                ..FlowFilter::default()
            },
        ] {
            assert!(matches(&yes), "{yes:?}");
        }
        for no in [
            address(Ip::from_v4([10, 0, 0, 1])),
            service("shop/we"),
            service("shop/web:http"),
            pod(&[SERVICE], 4),
            FlowFilter {
                state: Some(FlowState::Established),
                ..FlowFilter::default()
            },
            FlowFilter {
                protocol: Some(Proto::UDP),
                ..FlowFilter::default()
            },
        ] {
            assert!(!matches(&no), "{no:?}");
        }
    }

    #[test]
    fn an_expired_connection_has_no_time_left() {
        let flows = table();
        let at = |now| {
            let mut times = None;
            flows.for_each(|connection| times = idle_and_left(&flows, connection, Millis(now)));
            times
        };
        // SYN sent: 120 s.
        assert_eq!(at(3000), Some((2000, 118_000)));
        assert_eq!(at(120_999), Some((119_999, 1)));
        assert_eq!(at(121_000), None);
    }

    #[test]
    fn the_error_for_an_unknown_name_lists_the_known_ones() {
        let named = |state: FlowState| state.as_str().to_owned();
        let asked = |text: &str| value_named("state", Some(&text.to_owned()), &STATES, named);
        assert_eq!(asked("TIME-WAIT"), Ok(Some(FlowState::TimeWait)));
        let message = asked("open").unwrap_err().message;
        assert!(
            message.contains("\"open\"") && message.contains("established"),
            "{message}"
        );
    }
}
