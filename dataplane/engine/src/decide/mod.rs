//! Decides new connections, as a pure function of a connection's first packet and a snapshot.
//!
//! [`decide`] serves a worker for the first packet of a connection, and `heddle simulate` for a probe. [`judge`] decides a
//! connection whose translation stands already: policy is newer than its flow entry, or its packets come in elsewhere now.
//! Neither knows the flow table: the inserting stage decides what depends on other flows, such as a free source port.

mod anti_spoof;
mod policy;
mod route;
mod service;
mod types;

use heddle_tables::{NodeTable, Snapshot};

pub(crate) use anti_spoof::{check as check_source, is_link_local, origin_of, owner};
use policy::PolicyCheck;
pub(crate) use service::remember;
pub use service::{BackendSelector, connection_hash};
pub use types::{Allowed, Decision, Denial, Query, Source, Target};

/// Decides a new connection of a client without session affinity.
#[must_use]
pub fn decide(snapshot: &Snapshot, q: &Query) -> Decision {
    decide_with(snapshot, q, BackendSelector::default())
}

/// Decides a new connection.
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
        proto: q.proto,
        target,
        src: snapshot.address(q.tuple.src),
        dst: snapshot.address(target.dst),
    };
    check.evaluate(snapshot)
}
