//! The sweep: removes connections of attachments that are gone, connections whose Service no longer leads to their backend,
//! and UDP flows that were opened before their destination became a Service's address.
//!
//! - A connection of an attachment that is gone is removed at once, so that a deleted pod leaves nothing in the flow table,
//!   and the next attachment with the number inherits nothing.
//! - A UDP flow would continue for as long as the client sends, so it is removed. The next packet opens a new one.
//! - A TCP connection is removed if no slice names its backend and no pod has the backend's address. Its next packet then
//!   belongs to no connection and is answered with a reset. While the pod is there, the connection may end by itself.
//! - Connections to endpoints that are not ready or terminating stay. Only UDP flows leave an endpoint that no longer serves
//!   while another one can take them; the compiler leaves such an endpoint out of the tables.
//!
//! The sweep compares the flow table with the tables instead of reacting to events, so it is also correct after a restart
//! and when a Service has no endpoint left.

use std::collections::BTreeSet;
use std::time::Instant;

use heddle_engine::{Query, service_at};
use heddle_flow::{Connection, FlowFlags};
use heddle_tables::{Backend, ServiceLookup, Snapshot};
use heddle_wire::Proto;

use super::state::Controller;

impl Controller {
    /// Removes lost connections once every worker has the tables that the sweep waits for.
    pub(super) fn sweep_when_due(&mut self) {
        let acknowledged = self.workers.acknowledged();
        let Some(publication) = &mut self.publication else {
            return;
        };
        let began = Instant::now();
        let is_due = publication.sweep_after.is_some_and(|version| acknowledged >= version);
        if !is_due || began < publication.next_sweep {
            return;
        }
        publication.sweep_after = None;
        self.sweep();
        // Sweeps take a tenth of this thread's time at most, however often pods and Services change.
        if let Some(publication) = &mut self.publication {
            publication.next_sweep = began + 10 * began.elapsed();
        }
    }

    /// Goes through the flow table once and removes the lost connections.
    fn sweep(&self) {
        let Some(snapshot) = self.workers.newest() else {
            return;
        };
        let flows = self.workers.flows();
        let attached: BTreeSet<u16> = self.attachments.store.all().iter().map(|record| record.id).collect();
        let (mut of_pods, mut of_services) = (0u64, 0u64);
        flows.for_each(|connection| {
            let count = if is_orphaned(&attached, connection) {
                &mut of_pods
            } else if is_lost(snapshot, connection) {
                &mut of_services
            } else {
                return;
            };
            *count += u64::from(flows.remove(connection.slot));
        });
        if of_pods + of_services > 0 {
            tracing::info!(
                of_pods,
                of_services,
                "removed connections of pods that are gone, and connections whose Service no longer leads to their backend"
            );
        }
    }
}

/// Returns `true` if one end of a connection is a pod whose attachment is gone.
fn is_orphaned(attached: &BTreeSet<u16>, connection: &Connection) -> bool {
    let [view, _] = &connection.views;
    view.endpoints
        .iter()
        .any(|end| end.is_pod() && !attached.contains(&end.0))
}

/// Returns `true` if a connection has to be removed, by the rules in the module's documentation.
fn is_lost(snapshot: &Snapshot, connection: &Connection) -> bool {
    let ([key, _], [view, _]) = (&connection.keys, &connection.views);
    let lookup = service_at(snapshot, &Query::from(key));
    if !view.flags.contains(FlowFlags::SERVICE) {
        return key.proto == Proto::UDP && matches!(lookup, ServiceLookup::Frontend(_));
    }
    let backend = Backend {
        ip: view.rewrite.to.dst,
        port: view.rewrite.to.dport,
    };
    let kept = match lookup {
        ServiceLookup::Frontend(frontend) => frontend.keeps(&backend),
        ServiceLookup::NoSuchPort | ServiceLookup::NotAService => false,
    };
    !kept && (key.proto == Proto::UDP || !snapshot.knows(backend.ip))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use heddle_flow::{Config, Egress, FlowKey, FlowTable, Millis, NewFlow, Origin, Rewrite};
    use heddle_tables::{
        AddressInfo, Backends, EndpointId, Frontend, FrontendKey, FrontendKind, Generation, NodeId, Place,
        SnapshotBuilder,
    };
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
        let key = |tuple, origin| FlowKey::opening(tuple, proto, origin);
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
            endpoints: [EndpointId(2), EndpointId(3)],
            generations: [Generation(0); 2],
            mss_clamp: 0,
            flags,
        };
        let forward = flow(key(asked, Origin::pod(EndpointId(2))), sent, EndpointId(3), flags);
        let answer = key(sent.reversed(), Origin::pod(EndpointId(3)));
        let reverse = flow(answer, asked.reversed(), EndpointId(2), flags | FlowFlags::REPLY);
        flows.insert(&forward, &reverse, Millis(1)).unwrap();
    }

    fn tables(backends: &[Ip]) -> Arc<Snapshot> {
        let mut builder = SnapshotBuilder::new();
        for proto in [Proto::UDP, Proto::TCP] {
            let list = backends.iter().map(|&ip| Backend { ip, port: 5353 });
            let key = FrontendKey {
                ip: SERVICE,
                proto,
                port: 53,
            };
            let backends = Backends::new(list, false);
            builder.set_frontend(Arc::new(Frontend::new(key, FrontendKind::ClusterIp, "a/dns", backends)));
        }
        builder.build().0
    }

    fn lost(snapshot: &Snapshot, flows: &FlowTable) -> Vec<u16> {
        let mut ports = Vec::new();
        flows.for_each(|connection| {
            if is_lost(snapshot, connection) {
                ports.push(connection.keys[0].tuple.sport);
            }
        });
        ports.sort_unstable();
        ports
    }

    fn with(edit: impl FnOnce(&mut Frontend), pods: &[Ip]) -> Arc<Snapshot> {
        let mut builder = SnapshotBuilder::new();
        for proto in [Proto::UDP, Proto::TCP] {
            let key = FrontendKey {
                ip: SERVICE,
                proto,
                port: 53,
            };
            let none = Backends::new([], false);
            builder.set_frontend(Arc::new(Frontend::new(key, FrontendKind::ClusterIp, "a/dns", none)));
        }
        let mut frontend = Frontend::clone(
            builder
                .current()
                .frontends()
                .find(|f| f.key.proto == Proto::TCP)
                .unwrap(),
        );
        edit(&mut frontend);
        builder.set_frontend(Arc::new(frontend));
        for pod in pods {
            builder.set_address(*pod, AddressInfo::default());
        }
        builder.build().0
    }

    #[test]
    fn tcp_ends_when_neither_a_slice_nor_a_pod_has_the_endpoint() {
        let flows = FlowTable::anonymous(&Config {
            capacity: 64,
            ..Config::default()
        });
        connect(&flows, Proto::TCP, 1001, pod(1), FlowFlags::SERVICE);
        assert_eq!(lost(&with(|_| {}, &[]), &flows), [1001]);
        assert_eq!(lost(&with(|_| {}, &[pod(1)]), &flows), [0u16; 0], "its pod is there");
        let resting = Backend { ip: pod(1), port: 5353 };
        let rests = |frontend: &mut Frontend| frontend.draining = Box::new([resting]);
        assert_eq!(lost(&with(rests, &[]), &flows), [0u16; 0], "a slice names it");
    }

    #[test]
    fn connections_of_an_attachment_that_is_gone_are_orphans() {
        let flows = FlowTable::anonymous(&Config {
            capacity: 64,
            ..Config::default()
        });
        // From attachment 2 to attachment 3.
        connect(&flows, Proto::TCP, 1001, pod(1), FlowFlags::empty());
        let orphans = |attached: &[u16]| {
            let attached = attached.iter().copied().collect();
            let mut count = 0;
            flows.for_each(|connection| count += u32::from(is_orphaned(&attached, connection)));
            count
        };
        assert_eq!(orphans(&[2, 3]), 0);
        assert_eq!(orphans(&[2]), 1);
        assert_eq!(orphans(&[3, 4]), 1);
    }

    #[test]
    fn a_service_that_comes_back_finds_nothing_of_the_time_before() {
        let flows = FlowTable::anonymous(&Config {
            capacity: 64,
            ..Config::default()
        });
        connect(&flows, Proto::UDP, 1001, pod(1), FlowFlags::SERVICE);
        // To zero and back to another pod between two sweeps: the comparison needs no history.
        assert_eq!(lost(&tables(&[pod(2)]), &flows), [1001]);
        // A flow from before the address was a Service's.
        connect(&flows, Proto::UDP, 1002, SERVICE, FlowFlags::empty());
        assert_eq!(lost(&tables(&[pod(1)]), &flows), [1002]);
        assert_eq!(lost(&Snapshot::default(), &flows), [1001]);
    }

    #[test]
    fn what_goes_to_a_backend_that_its_service_has_lost() {
        let flows = FlowTable::anonymous(&Config {
            capacity: 64,
            ..Config::default()
        });
        connect(&flows, Proto::UDP, 1001, pod(1), FlowFlags::SERVICE);
        connect(&flows, Proto::UDP, 1002, pod(2), FlowFlags::SERVICE);
        connect(&flows, Proto::TCP, 1003, pod(1), FlowFlags::SERVICE);
        connect(&flows, Proto::UDP, 1004, pod(1), FlowFlags::empty());
        assert_eq!(
            lost(&tables(&[pod(1), pod(2)]), &flows),
            [1004],
            "from before the Service"
        );
        assert_eq!(lost(&tables(&[pod(2)]), &flows), [1001, 1003, 1004]);
        assert_eq!(lost(&tables(&[]), &flows), [1001, 1002, 1003, 1004], "scaled to zero");
        assert_eq!(
            lost(&Snapshot::default(), &flows),
            [1001, 1002, 1003],
            "the Service is gone"
        );
    }

    /// A connection that another node forwarded goes to that node's node port.
    #[test]
    fn what_another_node_forwarded_stays_while_the_node_port_leads_to_its_backend() {
        let flows = FlowTable::anonymous(&Config {
            capacity: 64,
            ..Config::default()
        });
        let node = NodeId(4);
        let (client, asked_at) = (Ip::from_v4([198, 51, 100, 7]), Ip::from_v4([192, 0, 2, 4]));
        let asked = Tuple {
            src: client,
            dst: asked_at,
            sport: 1001,
            dport: 30_053,
        };
        let sent = Tuple {
            dst: pod(1),
            dport: 5353,
            ..asked
        };
        let flow = |key: FlowKey, to, flags| NewFlow {
            rewrite: Rewrite::between(&key, to),
            key,
            egress: Egress::Endpoint(EndpointId(3)),
            endpoints: [EndpointId(1), EndpointId(3)],
            generations: [Generation(0); 2],
            mss_clamp: 0,
            flags,
        };
        let there = FlowKey::opening(asked, Proto::UDP, Origin::node(node));
        let back = FlowKey::opening(sent.reversed(), Proto::UDP, Origin::pod(EndpointId(3)));
        let forward = flow(there, sent, FlowFlags::SERVICE);
        let reverse = flow(back, asked.reversed(), FlowFlags::SERVICE | FlowFlags::REPLY);
        flows.insert(&forward, &reverse, Millis(1)).unwrap();
        let tables = |backend: Ip| {
            let mut builder = SnapshotBuilder::new();
            let place = Place::RemoteHost(node);
            builder.set_address(
                asked_at,
                AddressInfo {
                    place,
                    ..AddressInfo::default()
                },
            );
            let key = FrontendKey::node_port(true, Proto::UDP, 30_053);
            let list = Backends::new(
                [Backend {
                    ip: backend,
                    port: 5353,
                }],
                false,
            );
            builder.set_frontend(Arc::new(Frontend::new(key, FrontendKind::NodePort, "a/dns", list)));
            builder.build().0
        };
        assert_eq!(lost(&tables(pod(1)), &flows), [0u16; 0]);
        assert_eq!(lost(&tables(pod(2)), &flows), [1001]);
    }
}
