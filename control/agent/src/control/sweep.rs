//! UDP connections to backends that their Service does not have any more.
//!
//! They would go on for as long as the client sends, so they are removed; TCP notices by itself, and may end what it has
//! begun. States are compared, not events followed: so it is right after a restart too, and when a Service has no
//! backend left.

use heddle_flow::{Connection, FlowFlags};
use heddle_tables::{Backend, ServiceLookup, Snapshot};
use heddle_wire::Proto;

use super::Control;

impl Control {
    /// Removes them.
    pub(super) fn sweep_backends(&self) {
        let Some(snapshot) = self.dataplane.newest() else {
            return;
        };
        let flows = self.dataplane.flows();
        let mut removed = 0u64;
        flows.for_each(|connection| {
            if lost_backend(snapshot, connection) && flows.remove(connection.slot) {
                removed += 1;
            }
        });
        if removed > 0 {
            tracing::info!(removed, "UDP connections to removed backends were cleared");
        }
    }
}

/// Whether this is a UDP connection through a Service that would not be sent to its backend today.
fn lost_backend(snapshot: &Snapshot, connection: &Connection) -> bool {
    let ([key, _], [view, _]) = (&connection.keys, &connection.views);
    if key.proto != Proto::UDP || !view.flags.contains(FlowFlags::SERVICE) {
        return false;
    }
    let backend = Backend {
        ip: view.rewrite.to.dst,
        port: view.rewrite.to.dport,
    };
    match snapshot.frontend(key.tuple.dst, key.proto, key.tuple.dport) {
        ServiceLookup::Frontend(frontend) => !frontend.backends.list().contains(&backend),
        ServiceLookup::NoSuchPort | ServiceLookup::NotAService => true,
    }
}
