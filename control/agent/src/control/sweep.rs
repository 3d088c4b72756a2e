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
    /// Removes them once no worker chooses by older tables any more.
    pub(super) fn sweep_when_due(&mut self) {
        if self
            .sweep_after
            .is_some_and(|version| self.dataplane.acknowledged() >= version)
        {
            self.sweep_after = None;
            self.sweep_backends();
        }
    }

    fn sweep_backends(&self) {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use heddle_flow::{Config, Egress, FlowKey, FlowTable, Millis, NewFlow, Origin, Rewrite};
    use heddle_tables::{Backends, EndpointNo, Frontend, FrontendKey, FrontendKind, Generation, SnapshotBuilder};
    use heddle_wire::Ip;
    use heddle_wire::rewrite::Tuple;

    use super::*;

    const SERVICE: Ip = Ip::from_v4([10, 96, 0, 53]);
    const CLIENT: Ip = Ip::from_v4([10, 0, 0, 9]);

    fn pod(n: u8) -> Ip {
        Ip::from_v4([10, 0, 0, n])
    }

    /// A connection of the client to the Service, sent to a pod.
    fn connect(flows: &FlowTable, proto: Proto, sport: u16, backend: Ip, flags: FlowFlags) {
        let key = |tuple, origin| FlowKey { tuple, proto, origin };
        let asked = Tuple {
            src: CLIENT,
            dst: SERVICE,
            sport,
            dport: 53,
        };
        let sent = Tuple {
            src: CLIENT,
            dst: backend,
            sport,
            dport: 5353,
        };
        let flow = |key: FlowKey, to, to_endpoint, flags| NewFlow {
            rewrite: Rewrite::between(&key, to),
            key,
            egress: Egress::Endpoint(to_endpoint),
            endpoints: [EndpointNo(2), EndpointNo(3)],
            generations: [Generation(0); 2],
            mss_clamp: 0,
            flags,
        };
        let forward = flow(key(asked, Origin::pod(EndpointNo(2))), sent, EndpointNo(3), flags);
        let answer = key(sent.reversed(), Origin::pod(EndpointNo(3)));
        let reverse = flow(answer, asked.reversed(), EndpointNo(2), flags | FlowFlags::REPLY);
        flows.insert(&forward, &reverse, Millis(1)).unwrap();
    }

    fn tables(backends: &[Ip]) -> Arc<Snapshot> {
        let mut builder = SnapshotBuilder::new();
        for proto in [Proto::UDP, Proto::TCP] {
            let list = backends.iter().map(|&ip| Backend { ip, port: 5353 });
            builder.set_frontend(Arc::new(Frontend {
                key: FrontendKey {
                    ip: SERVICE,
                    proto,
                    port: 53,
                },
                kind: FrontendKind::ClusterIp,
                name: "a/dns".into(),
                backends: Backends::new(list, false),
            }));
        }
        builder.build().0
    }

    fn lost(snapshot: &Snapshot, flows: &FlowTable) -> Vec<u16> {
        let mut ports = Vec::new();
        flows.for_each(|connection| {
            if lost_backend(snapshot, connection) {
                ports.push(connection.keys[0].tuple.sport);
            }
        });
        ports.sort_unstable();
        ports
    }

    #[test]
    fn only_udp_through_a_service_to_a_backend_that_it_has_lost() {
        let flows = FlowTable::anonymous(&Config {
            capacity: 64,
            ..Config::default()
        });
        connect(&flows, Proto::UDP, 1001, pod(1), FlowFlags::SERVICE);
        connect(&flows, Proto::UDP, 1002, pod(2), FlowFlags::SERVICE);
        connect(&flows, Proto::TCP, 1003, pod(1), FlowFlags::SERVICE);
        connect(&flows, Proto::UDP, 1004, pod(1), FlowFlags::empty());
        assert_eq!(lost(&tables(&[pod(1), pod(2)]), &flows), [0u16; 0]);
        assert_eq!(lost(&tables(&[pod(2)]), &flows), [1001]);
        assert_eq!(lost(&tables(&[]), &flows), [1001, 1002], "scaled to zero");
        assert_eq!(lost(&Snapshot::default(), &flows), [1001, 1002], "the Service is gone");
    }
}
