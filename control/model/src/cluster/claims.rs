//! Claims on things that only one Service can have: a cluster address, a node port.
//!
//! A version whose claim another object holds waits until the claim is free; the object's last good version stays.
//! Objects that wait for each other in a circle (two Services that swapped their node ports) get their claims together.
//! Pods claim nothing: an address passes from one to another while both objects exist ([`crate::Pod::cmp_as_holder`]).

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::event::{Cause, Object, Rejection, Subject};
use crate::key::ObjectRef;
use crate::port::{PortNumber, Protocol};

/// Something that only one object can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Claim {
    /// A Service's cluster address.
    ClusterAddress(IpAddr),
    /// A port on every node: a Service's `nodePort` or `healthCheckNodePort`.
    NodePort(Protocol, PortNumber),
}

impl Claim {
    fn field(self, object: &Object) -> String {
        match self {
            Claim::ClusterAddress(_) => "spec.clusterIPs".to_owned(),
            Claim::NodePort(protocol, number) => {
                let Object::Service(service) = object else {
                    return String::new();
                };
                let wanted = |p: &crate::ServicePort| p.protocol == protocol && p.node_port == Some(number);
                match service.ports.iter().position(wanted) {
                    Some(index) => format!("spec.ports[{index}].nodePort"),
                    None => "spec.healthCheckNodePort".to_owned(),
                }
            }
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Claim::ClusterAddress(ip) => ip.fmt(f),
            Claim::NodePort(protocol, port) => write!(f, "{port}/{protocol}"),
        }
    }
}

/// Returns the claims of a version of an object, without duplicates.
fn claims_of(object: &Object) -> Box<[Claim]> {
    let mut claims: Vec<Claim> = match object {
        Object::Service(service) => {
            let addresses = service.cluster_ips.get().iter().copied().map(Claim::ClusterAddress);
            let ports = service
                .ports
                .iter()
                .filter_map(|p| Some(Claim::NodePort(p.protocol, p.node_port?)));
            let health = service
                .health_check_node_port
                .map(|port| Claim::NodePort(Protocol::Tcp, port));
            addresses.chain(ports).chain(health).collect()
        }
        Object::Node(_)
        | Object::ServiceCidr(_)
        | Object::Namespace(_)
        | Object::Pod(_)
        | Object::EndpointSlice(_)
        | Object::NetworkPolicy(_)
        | Object::ClusterNetworkPolicy(_) => Vec::new(),
    };
    claims.sort_unstable();
    claims.dedup();
    claims.into()
}

/// A version that waits for its claims.
#[derive(Debug)]
struct Waiting {
    object: Object,
    claims: Box<[Claim]>,
    rejection: Rejection,
}

/// A version that gets its claims: its object, its origin, the version, the claims.
type Move = (ObjectRef, Arc<str>, Object, Box<[Claim]>);

impl Waiting {
    /// Returns the version as one that gets its claims.
    fn into_move(self, subject: ObjectRef) -> Move {
        (subject, self.rejection.origin, self.object, self.claims)
    }
}

/// The holder of each claim, and the versions that wait.
#[derive(Debug, Default)]
pub(super) struct Claims {
    holders: HashMap<Claim, ObjectRef>,
    held: HashMap<ObjectRef, Box<[Claim]>>,
    waiting: HashMap<ObjectRef, Waiting>,
    /// In the order of arrival.
    queues: HashMap<Claim, Vec<ObjectRef>>,
}

/// The result of an offer.
pub(super) enum Offer {
    /// These versions are accepted, in this order, each with its origin: the offered one, and versions that waited for claims
    /// it gave up.
    Taken(Vec<(Arc<str>, Object)>),
    /// The version waits, and this was recorded. `true` if the record is new or differs from the one before.
    Waits(bool),
}

impl Claims {
    /// Offers a version of an object. It is accepted if no other object has its claims.
    pub(super) fn offer(&mut self, origin: &Arc<str>, object: Object) -> Offer {
        let subject = object.object_ref();
        let claims = claims_of(&object);
        let before = self.stop_waiting(&subject);
        let round = match self.round(&subject, &claims) {
            Ok(round) => round,
            Err((claim, holder)) => {
                let rejection = conflict(origin, &object, claim, &holder);
                let news = before.is_none_or(|before| before.rejection != rejection);
                for claim in &claims {
                    self.queues.entry(*claim).or_default().push(subject.clone());
                }
                self.waiting.insert(
                    subject,
                    Waiting {
                        object,
                        claims,
                        rejection,
                    },
                );
                return Offer::Waits(news);
            }
        };
        let mut taken = Vec::new();
        let freed = self.take((subject, Arc::clone(origin), object, claims), round, &mut taken);
        self.serve_queues(freed, &mut taken);
        Offer::Taken(taken)
    }

    /// Returns `true` if a version of an object would be accepted.
    pub(super) fn are_free_for(&self, object: &Object) -> bool {
        self.round(&object.object_ref(), &claims_of(object)).is_ok()
    }

    /// Removes an object. Returns the versions that waited for its claims.
    pub(super) fn remove(&mut self, subject: &ObjectRef) -> (Vec<(Arc<str>, Object)>, bool) {
        let was_waiting = self.stop_waiting(subject).is_some();
        let freed = self.drop_held(subject).into_vec();
        let mut taken = Vec::new();
        self.serve_queues(freed, &mut taken);
        (taken, was_waiting)
    }

    /// Returns the rejections of all waiting versions.
    pub(super) fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        self.waiting.values().map(|waiting| &waiting.rejection)
    }

    /// Returns the rejection of an object's waiting version.
    pub(super) fn rejection_of(&self, subject: &ObjectRef) -> Option<&Rejection> {
        self.waiting.get(subject).map(|waiting| &waiting.rejection)
    }

    /// Returns the objects that must move together with `subject` so that it gets its claims: none, or the others of a
    /// circle. The error is the claim that is not free, and its holder.
    fn round(&self, subject: &ObjectRef, claims: &[Claim]) -> Result<Vec<ObjectRef>, (Claim, ObjectRef)> {
        let mut wanted: HashMap<Claim, &ObjectRef> = claims.iter().map(|claim| (*claim, subject)).collect();
        let mut others: Vec<ObjectRef> = Vec::new();
        let mut open: Vec<(&ObjectRef, &[Claim])> = vec![(subject, claims)];
        let mut first_blocked = None;
        while let Some((mover, claims)) = open.pop() {
            for claim in claims {
                let Some(holder) = self.holders.get(claim) else {
                    continue;
                };
                if holder == mover {
                    continue;
                }
                let blocked = first_blocked.get_or_insert_with(|| (*claim, holder.clone()));
                if holder == subject || others.contains(holder) {
                    continue;
                }
                let Some(waiting) = self.waiting.get(holder) else {
                    return Err(blocked.clone());
                };
                for claim in waiting.claims.iter() {
                    if wanted.insert(*claim, holder).is_some_and(|rival| rival != holder) {
                        return Err(blocked.clone());
                    }
                }
                others.push(holder.clone());
                open.push((holder, &waiting.claims));
            }
        }
        Ok(others)
    }

    /// Gives a version its claims, together with all that move with it. Returns the claims that they gave up.
    fn take(&mut self, first: Move, round: Vec<ObjectRef>, taken: &mut Vec<(Arc<str>, Object)>) -> Vec<Claim> {
        let mut moves = vec![first];
        for other in round {
            if let Some(waiting) = self.stop_waiting(&other) {
                moves.push(waiting.into_move(other));
            }
        }
        let freed = moves.iter().flat_map(|(subject, ..)| self.drop_held(subject)).collect();
        for (subject, origin, object, claims) in moves {
            for claim in &claims {
                self.holders.insert(*claim, subject.clone());
            }
            if !claims.is_empty() {
                self.held.insert(subject, claims);
            }
            taken.push((origin, object));
        }
        freed
    }

    /// Gives free claims to the versions that waited for them, and so on for the claims that these give up.
    fn serve_queues(&mut self, mut freed: Vec<Claim>, taken: &mut Vec<(Arc<str>, Object)>) {
        while let Some(claim) = freed.pop() {
            for subject in self.queues.get(&claim).cloned().unwrap_or_default() {
                let Some(waiting) = self.waiting.get(&subject) else {
                    continue;
                };
                match self.round(&subject, &waiting.claims) {
                    Ok(round) => {
                        if let Some(waiting) = self.stop_waiting(&subject) {
                            freed.extend(self.take(waiting.into_move(subject), round, taken));
                        }
                    }
                    Err((claim, holder)) => {
                        if let Some(waiting) = self.waiting.get_mut(&subject) {
                            let origin = Arc::clone(&waiting.rejection.origin);
                            waiting.rejection = conflict(&origin, &waiting.object, claim, &holder);
                        }
                    }
                }
            }
        }
    }

    fn stop_waiting(&mut self, subject: &ObjectRef) -> Option<Waiting> {
        let waiting = self.waiting.remove(subject)?;
        for claim in &waiting.claims {
            if let Some(queue) = self.queues.get_mut(claim) {
                queue.retain(|other| other != subject);
                if queue.is_empty() {
                    self.queues.remove(claim);
                }
            }
        }
        Some(waiting)
    }

    fn drop_held(&mut self, subject: &ObjectRef) -> Box<[Claim]> {
        let held = self.held.remove(subject).unwrap_or_default();
        for claim in &held {
            self.holders.remove(claim);
        }
        held
    }
}

fn conflict(origin: &Arc<str>, object: &Object, claim: Claim, holder: &ObjectRef) -> Rejection {
    let subject = object.object_ref();
    let what = match claim {
        Claim::ClusterAddress(_) => "cluster address",
        Claim::NodePort(..) => "node port",
    };
    Rejection {
        origin: Arc::clone(origin),
        line: None,
        cause: Cause::Conflict,
        field: claim.field(object),
        value: claim.to_string(),
        message: format!(
            "this {what} belongs to {holder}, so this version of {subject} is not taken: \
             it will be as soon as {holder} is deleted or gives it up"
        ),
        closes: None,
        subject: Subject::Object(subject),
    }
}
