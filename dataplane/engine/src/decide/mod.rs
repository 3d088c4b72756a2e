//! Decides new connections, as a pure function of a connection's first packet and a snapshot.
//!
//! A worker calls [`decide_with`] for the first packet of a connection, and `heddle simulate` calls [`decide`]. [`judge`] judges
//! a connection that has a translation already, because the tables are newer than its flow entry or because its packets now come
//! in from another origin. None of them reads flow entries. The stage that inserts the connection chooses whatever depends on
//! other flows, such as a free source port.

mod anti_spoof;
mod policy;
mod route;
mod service;
mod types;

use heddle_tables::{NodeTable, Snapshot};

pub(crate) use anti_spoof::{check as check_source, forwarder, is_link_local, owner};
use policy::PolicyCheck;
pub(crate) use route::{is_for_others, origin_of};
pub(crate) use service::remember;
pub use service::{BackendSelector, connection_hash, service_at, target_of};
pub use types::{Allowed, Decision, Denial, Query, Source, Target};

/// Decides a new connection of a client without session affinity.
#[must_use]
pub fn decide(snapshot: &Snapshot, q: &Query) -> Decision {
    decide_with(snapshot, q, BackendSelector::default())
}

/// Decides a new connection. `selector` has the inputs of the choice among backends.
#[must_use]
pub fn decide_with(snapshot: &Snapshot, q: &Query, selector: BackendSelector<'_>) -> Decision {
    let from = match anti_spoof::check(snapshot, q) {
        Ok(from) => from,
        Err(denial) => return Decision::Drop(denial),
    };
    if NodeTable::is_gateway(q.tuple.dst) {
        return Decision::Gateway;
    }
    let src = snapshot.address(q.tuple.src);
    let target = match service::target(snapshot, q, src, selector) {
        service::Lookup::Target(target) => target,
        service::Lookup::Reject => return Decision::Reject,
        service::Lookup::Drop(reason) => return Decision::Drop(Denial::new(reason)),
    };
    let check = PolicyCheck {
        from,
        origin: q.origin,
        src_address: q.tuple.src,
        proto: q.proto,
        target,
        src,
        dst: snapshot.address(target.dst),
    };
    check.evaluate(snapshot).map_or_else(Decision::Drop, Decision::Pass)
}

/// Judges a connection whose destination is known already.
///
/// # Errors
/// The denial.
pub fn judge(snapshot: &Snapshot, q: &Query, target: Target) -> Result<Allowed, Denial> {
    let check = PolicyCheck {
        from: anti_spoof::check(snapshot, q)?,
        origin: q.origin,
        src_address: q.tuple.src,
        proto: q.proto,
        target,
        src: snapshot.address(q.tuple.src),
        dst: snapshot.address(target.dst),
    };
    check.evaluate(snapshot)
}
