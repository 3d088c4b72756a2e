//! `heddle drops`: the workers' rings of recent drops, merged, filtered and named.

use std::collections::HashMap;
use std::time::Duration;

use heddle_engine::{DropClass, DropReason, DropRecord};
use heddle_port::PortId;
use heddle_proto::drops::MAX_DROPS;
use heddle_proto::{DropCursor, DroppedPacket, Drops, DropsRequest, Policy, PolicyName, QueryError};
use heddle_tables::{EndpointId, RuleId};
use jiff::Timestamp;

use super::model::ReadModel;
use super::names::PodLocation;
use super::policies::describe;
use super::view::View;
use crate::workers::clock;

/// The number of drops in an answer if the request has no limit.
const DEFAULT_LIMIT: u32 = 100;

/// A cache for one answer: the policy of each rule id, so that each id is looked up once.
type Policies = HashMap<RuleId, Option<Policy>>;

/// The conditions of a query, in the types of the records.
#[derive(Debug)]
struct DropFilter<'a> {
    reason: Option<DropReason>,
    class: Option<DropClass>,
    policy: Option<&'a PolicyName>,
    pod: Option<PodLocation>,
}

impl DropFilter<'_> {
    /// Returns `true` if the record meets all conditions. `policy` is the policy that decided, `came_from` the endpoint whose
    /// port received the packet.
    fn matches(&self, record: &DropRecord, policy: Option<&Policy>, came_from: Option<EndpointId>) -> bool {
        self.reason.is_none_or(|reason| record.reason == reason)
            && self.class.is_none_or(|class| record.reason.class() == class)
            && self
                .policy
                .is_none_or(|name| policy.is_some_and(|policy| is_named(policy, name)))
            && self.pod.as_ref().is_none_or(|pod| {
                let addresses = record.packet.map(|(tuple, _)| [tuple.src, tuple.dst]);
                addresses.is_some_and(|ends| ends.iter().any(|end| pod.addresses.contains(end)))
                    || record.pod.is_pod() && pod.endpoints.contains(&record.pod)
                    || came_from.is_some_and(|from| pod.endpoints.contains(&from))
            })
    }
}

/// Returns `true` if a policy has this name.
fn is_named(policy: &Policy, name: &PolicyName) -> bool {
    policy.name == name.name.as_str() && policy.namespace == name.namespace.as_ref().map_or("", |n| n.as_str())
}

/// Returns the direction of a packet as seen from the pod whose policy decided; `None` if no policy decided. `from` is the
/// endpoint whose port received it.
fn direction(record: &DropRecord, from: Option<EndpointId>) -> Option<&'static str> {
    match record.reason {
        DropReason::PolicyDeniedEgress => Some("egress"),
        DropReason::PolicyDeniedIngress => Some("ingress"),
        DropReason::PolicyNotReady if record.pod.is_pod() => {
            Some(if from == Some(record.pod) { "egress" } else { "ingress" })
        }
        _ => None,
    }
}

impl ReadModel {
    /// Answers `drops`: reads the rings of all workers, and returns the newest drops that match.
    pub(super) fn read_drops(&self, request: &DropsRequest) -> Result<Drops, QueryError> {
        let view = self.view();
        let filter = self.drop_filter(&view, request)?;
        let limit = request.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_DROPS) as usize;
        let after = request.after.as_ref().filter(|after| after.agent == self.instance);
        let mut policies = Policies::new();
        let mut found: Vec<(u8, DropRecord)> = Vec::new();
        let (mut next, mut overwritten) = (Vec::new(), 0);
        // The cursor for the next request has the position after the last record read, for each worker in order.
        for worker in &self.workers {
            let from = after.and_then(|after| after.next.get(next.len())).copied().unwrap_or(0);
            let reading = worker.counters.recent().read(from, |record| {
                let policy = policy_of_rule(&view, record.rule, &mut policies);
                if filter.matches(&record, policy, endpoint_at(&view, record.ingress)) {
                    found.push((worker.id.0, record));
                }
            });
            overwritten += reading.overwritten;
            next.push(reading.next);
        }
        // If there are more than the limit, return the newest ones.
        found.sort_by_key(|(worker, record)| (record.at, *worker, record.number));
        let left_out = found.len().saturating_sub(limit);
        let now = (clock().0, Timestamp::now());
        let drops = found.split_off(left_out).into_iter();
        Ok(Drops {
            drops: drops
                .map(|(worker, record)| self.describe_drop(&view, worker, &record, now, &mut policies))
                .collect(),
            overwritten,
            left_out: left_out as u64,
            cursor: DropCursor {
                agent: self.instance,
                next,
            },
        })
    }

    /// Checks the conditions of a request.
    fn drop_filter<'a>(&self, view: &View, request: &'a DropsRequest) -> Result<DropFilter<'a>, QueryError> {
        let reason = match &request.reason {
            Some(name) => match DropReason::ALL.iter().find(|reason| reason.as_str() == name) {
                Some(reason) => Some(*reason),
                None => {
                    let message = format!("{name:?} is not a drop reason: take one from the counters in heddle status");
                    return Err(QueryError::invalid(message));
                }
            },
            None => None,
        };
        let class = match &request.class {
            Some(name) => match DropClass::ALL.iter().find(|class| class.as_str() == name) {
                Some(class) => Some(*class),
                None => {
                    let message =
                        format!("{name:?} is not a class of drop reasons: take one from the counters in heddle status");
                    return Err(QueryError::invalid(message));
                }
            },
            None => None,
        };
        let pod = self.locate_pod(view, request.pod.as_ref())?;
        Ok(DropFilter {
            reason,
            class,
            policy: request.policy.as_ref(),
            pod,
        })
    }

    /// Converts a record to a message, with the names of pods, Services and the policy.
    fn describe_drop(
        &self,
        view: &View,
        worker: u8,
        record: &DropRecord,
        (clock, wall): (u64, Timestamp),
        policies: &mut Policies,
    ) -> DroppedPacket {
        let ago = Duration::from_millis(clock.saturating_sub(record.at.0));
        let policy = policy_of_rule(view, record.rule, policies).cloned();
        DroppedPacket {
            time: format!("{:.3}", wall.checked_sub(ago).unwrap_or(wall)),
            worker,
            number: record.number,
            port: match view.ports.get(&record.ingress) {
                Some(info) => view.port_name(info.role),
                None => format!("port {}", record.ingress.0),
            },
            reason: record.reason.as_str().to_owned(),
            class: record.reason.class().as_str().to_owned(),
            meaning: record.reason.describe().trim().to_owned(),
            protocol: record.packet.map(|(_, proto)| proto.to_string()),
            source: record
                .packet
                .map(|(tuple, proto)| self.end(view, tuple.src, tuple.sport, proto)),
            destination: record
                .packet
                .map(|(tuple, proto)| self.end(view, tuple.dst, tuple.dport, proto)),
            bytes: record.len,
            direction: direction(record, endpoint_at(view, record.ingress)).map(str::to_owned),
            pod: view.pod_of(record.pod),
            policy_gone: policy.is_none() && record.rule >= RuleId::FIRST_POLICY,
            policy,
        }
    }
}

/// Returns the policy that a rule belongs to; `None` if the rule is no policy's or is gone.
fn policy_of_rule<'a>(view: &View, rule: RuleId, policies: &'a mut Policies) -> Option<&'a Policy> {
    if rule < RuleId::FIRST_POLICY {
        return None;
    }
    let look_up = || describe(view.snapshot.as_ref()?.provenance(rule)?.as_ref());
    policies.entry(rule).or_insert_with(look_up).as_ref()
}

/// Returns the endpoint, a pod or the host, that a port leads to.
fn endpoint_at(view: &View, port: PortId) -> Option<EndpointId> {
    view.ports.get(&port).map(|info| info.role.endpoint())
}

#[cfg(test)]
mod tests {
    use heddle_flow::Millis;
    use heddle_proto::ObjectName;
    use heddle_wire::rewrite::Tuple;
    use heddle_wire::{Ip, Proto};

    use super::*;
    use crate::read_model::names::unknown;

    fn record(reason: DropReason) -> DropRecord {
        DropRecord {
            number: 0,
            at: Millis(0),
            reason,
            rule: RuleId(20),
            pod: EndpointId(3),
            ingress: PortId(64),
            len: 60,
            packet: Some((
                Tuple {
                    src: Ip::from_v4([10, 0, 0, 2]),
                    dst: Ip::from_v4([10, 0, 0, 3]),
                    sport: 1,
                    dport: 2,
                },
                Proto::TCP,
            )),
        }
    }

    fn policy_named(namespace: &str, name: &str) -> Policy {
        Policy {
            kind: "NetworkPolicy".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            tier: String::new(),
            direction: "ingress".to_owned(),
            rule: None,
            rule_name: String::new(),
            says: String::new(),
        }
    }

    #[test]
    fn filters_look_at_reason_class_policy_and_pod() {
        let denied = record(DropReason::PolicyDeniedIngress);
        let mut broken = record(DropReason::Ipv4Checksum);
        (broken.packet, broken.pod, broken.rule) = (None, EndpointId::HOST, RuleId::NO_POLICY);
        let policy = policy_named("shop", "db");
        let ask = |reason, policy_name: Option<&PolicyName>, pod: Option<(&[Ip], u16)>| {
            let filter = DropFilter {
                reason,
                class: None,
                policy: policy_name,
                pod: pod.map(|(addresses, id)| PodLocation {
                    addresses: addresses.to_vec(),
                    endpoints: vec![EndpointId(id)],
                }),
            };
            [
                filter.matches(&denied, Some(&policy), Some(EndpointId(2))),
                filter.matches(&broken, None, Some(EndpointId(2))),
            ]
        };
        assert_eq!(ask(None, None, None), [true, true]);
        assert_eq!(ask(Some(DropReason::Ipv4Checksum), None, None), [false, true]);
        let of_class = |class| {
            let filter = DropFilter {
                reason: None,
                class: Some(class),
                policy: None,
                pod: None,
            };
            [
                filter.matches(&denied, Some(&policy), None),
                filter.matches(&broken, None, None),
            ]
        };
        assert_eq!(of_class(DropClass::Policy), [true, false]);
        assert_eq!(of_class(DropClass::Malformed), [false, true]);
        assert_eq!(of_class(DropClass::Capacity), [false, false]);
        let name = |text: &str| text.parse::<PolicyName>().unwrap();
        assert_eq!(ask(None, Some(&name("shop/db")), None), [true, false]);
        assert_eq!(ask(None, Some(&name("db")), None), [false, false]);
        assert_eq!(ask(None, Some(&name("shop/d")), None), [false, false]);
        // By address, by the port that received the packet, and by the pod whose policy decided.
        assert_eq!(ask(None, None, Some((&[Ip::from_v4([10, 0, 0, 3])], 9))), [true, false]);
        assert_eq!(ask(None, None, Some((&[], 2))), [true, true]);
        assert_eq!(ask(None, None, Some((&[], 3))), [true, false]);
        assert_eq!(ask(None, None, Some((&[], 4))), [false, false]);
    }

    #[test]
    fn the_direction_is_seen_from_the_pod_that_denied() {
        let direction_of = |reason, from| direction(&record(reason), from);
        assert_eq!(direction_of(DropReason::PolicyDeniedEgress, None), Some("egress"));
        assert_eq!(direction_of(DropReason::PolicyDeniedIngress, None), Some("ingress"));
        assert_eq!(
            direction_of(DropReason::PolicyNotReady, Some(EndpointId(3))),
            Some("egress")
        );
        assert_eq!(
            direction_of(DropReason::PolicyNotReady, Some(EndpointId(2))),
            Some("ingress")
        );
        assert_eq!(direction_of(DropReason::NoRoute, None), None);
    }

    #[test]
    fn an_unknown_object_is_named() {
        let name = ObjectName::new("x").unwrap();
        assert_eq!(unknown("pod", &name).message, "no pod x is known to this agent");
    }
}
