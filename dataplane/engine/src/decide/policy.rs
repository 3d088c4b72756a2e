//! NetworkPolicy for connections: egress of the source, then ingress of the destination if that is a pod of this node.
//! Both see the pods' own addresses: after DNAT and before any SNAT.

use arrayvec::ArrayVec;
use heddle_tables::{
    AddressInfo, Direction, Endpoint, EndpointId, Place, PolicyQuery, PolicyVerdict, RuleId, Snapshot, policy_verdicts,
};
use heddle_wire::Proto;

use super::{Allowed, BATCH, Denial, Target, route};
use crate::reason::DropReason;

/// A connection whose ends are known.
#[derive(Clone, Copy)]
pub(super) struct PolicyCheck {
    pub(super) from: EndpointId,
    pub(super) proto: Proto,
    pub(super) target: Target,
    /// Who sends.
    pub(super) src: AddressInfo,
    /// Who is reached.
    pub(super) dst: AddressInfo,
}

/// The rules that allowed the connection.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub(super) egress: RuleId,
    pub(super) ingress: RuleId,
}

impl PolicyCheck {
    /// Where it goes and how, now that policy allows it.
    pub(super) fn allowed(&self, snapshot: &Snapshot, rules: Rules) -> Result<Allowed, Denial> {
        let (egress, source) = route::route(snapshot, self.from, self.target, self.src, self.dst)?;
        Ok(Allowed {
            from: self.from,
            egress,
            target: self.target,
            source,
            egress_rule: rules.egress,
            ingress_rule: rules.ingress,
        })
    }
}

/// Returns the endpoints whose policies apply: the source for egress, and the destination for ingress where it is a pod of this
/// node.
fn sides<'a>(snapshot: &'a Snapshot, case: &PolicyCheck) -> Result<(&'a Endpoint, Option<&'a Endpoint>), Denial> {
    let endpoint = |id| {
        let gone = Denial::new(DropReason::UnknownDestination);
        snapshot.endpoint(id).ok_or(gone)
    };
    let destination = match case.dst.place {
        Place::Local(pod) => Some(endpoint(pod)?),
        _ => None,
    };
    Ok((endpoint(case.from)?, destination))
}

fn egress<'a>(case: &PolicyCheck, endpoint: &'a Endpoint) -> PolicyQuery<'a> {
    PolicyQuery {
        endpoint,
        direction: Direction::Egress,
        peer: case.dst,
        proto: case.proto,
        dst_port: case.target.dport,
    }
}

fn ingress<'a>(case: &PolicyCheck, endpoint: &'a Endpoint) -> PolicyQuery<'a> {
    PolicyQuery {
        direction: Direction::Ingress,
        peer: case.src,
        ..egress(case, endpoint)
    }
}

fn allowed(ask: &PolicyQuery<'_>, verdict: PolicyVerdict) -> Result<RuleId, Denial> {
    match verdict {
        PolicyVerdict::Allow(rule) => Ok(rule),
        PolicyVerdict::Deny(rule) => Err(Denial {
            reason: match ask.direction {
                _ if rule == RuleId::NOT_READY => DropReason::PolicyNotReady,
                Direction::Egress => DropReason::PolicyDeniedEgress,
                Direction::Ingress => DropReason::PolicyDeniedIngress,
            },
            rule,
            pod: ask.endpoint.id,
        }),
    }
}

/// Judges a connection by policy.
pub(super) fn judge(snapshot: &Snapshot, case: &PolicyCheck) -> Result<Rules, Denial> {
    let (source, destination) = sides(snapshot, case)?;
    let judge = |ask: PolicyQuery<'_>| {
        allowed(
            &ask,
            ask.endpoint.judge(ask.direction, ask.peer, ask.proto, ask.dst_port),
        )
    };
    Ok(Rules {
        egress: judge(egress(case, source))?,
        ingress: destination.map_or(Ok(RuleId::NO_POLICY), |pod| judge(ingress(case, pod)))?,
    })
}

/// Judges at most [`BATCH`] connections by policy; `told` gets each result with its index.
pub(super) fn judge_all(
    snapshot: &Snapshot,
    cases: &[PolicyCheck],
    mut told: impl FnMut(usize, Result<Rules, Denial>),
) {
    let mut asks = ArrayVec::<PolicyQuery<'_>, { 2 * BATCH }>::new();
    // Of each case: its first question, and how many it has.
    let mut asked = ArrayVec::<(usize, usize), BATCH>::new();
    for (at, case) in cases.iter().enumerate().take(BATCH) {
        let first = asks.len();
        match sides(snapshot, case) {
            Ok((source, destination)) => {
                asks.push(egress(case, source));
                asks.extend(destination.map(|pod| ingress(case, pod)));
            }
            Err(gone) => told(at, Err(gone)),
        }
        asked.push((first, asks.len()));
    }
    let mut verdicts = [PolicyVerdict::Deny(RuleId::NOT_READY); 2 * BATCH];
    policy_verdicts(asks.iter().copied(), &mut verdicts[..asks.len()]);
    for (at, (first, end)) in asked.into_iter().enumerate() {
        let rule = |of: usize| match (asks.get(of), verdicts.get(of)) {
            (Some(ask), Some(verdict)) if of < end => allowed(ask, *verdict),
            _ => Ok(RuleId::NO_POLICY),
        };
        if first < end {
            told(
                at,
                rule(first).and_then(|egress| {
                    Ok(Rules {
                        egress,
                        ingress: rule(first + 1)?,
                    })
                }),
            );
        }
    }
}
