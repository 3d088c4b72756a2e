//! Writes the endpoints: the pods of attachments, the host and the uplink.

use std::collections::BTreeSet;
use std::sync::Arc;

use heddle_ids::PortId;
use heddle_tables::{Endpoint, EndpointId, EndpointPolicy, WorkerId};
use heddle_wire::MacAddr;

use crate::config::NodeConfig;
use crate::node::attachment::Attachments;
use crate::output::Output;
use crate::policy::state::PolicyState;

/// Raises the generations of endpoints whose policy refuses more than before, and writes the endpoints that changed.
/// `regrouped` are the endpoints whose group changed.
pub(crate) fn write_endpoints(
    attachments: &Attachments,
    regrouped: &BTreeSet<EndpointId>,
    policy: &PolicyState,
    config: &NodeConfig,
    output: &mut Output,
) {
    let mut comparison = policy.comparison();
    for (id, attached) in attachments.iter() {
        let group = attached.group.and_then(|group| policy.groups.get(group));
        let after = group.map(|group| Arc::clone(&group.policy));
        let before = output.last.endpoint(id).and_then(|e| e.policy.as_ref());
        if let (Some(before), Some(after)) = (before, &after)
            && comparison.refuses_more(before, after, !regrouped.contains(&id))
        {
            output.generations.raise(id);
        }
        // Write it only if it differs, so that an unchanged page of endpoints is not copied.
        let attachment = &attached.attachment;
        let mtu = match attachment.mtu {
            0 => config.local_mtu,
            own => own,
        };
        let generation = output.generations.get(id);
        let known = output.tables.current().endpoint(id);
        let same = known.is_some_and(|e| {
            e.generation == generation
                && e.port == attachment.port
                && e.worker == attachment.worker
                && e.mtu == mtu
                && e.mac == attachment.mac
                && e.addresses == attachment.addresses
                && is_same_policy(e.policy.as_ref(), after.as_ref())
        });
        if !same {
            output.tables.set_endpoint(Endpoint {
                id,
                generation,
                addresses: attachment.addresses.clone(),
                mac: attachment.mac,
                port: attachment.port,
                worker: attachment.worker,
                mtu,
                name: attached.name().into(),
                policy: after,
            });
        }
    }
    write_node_endpoints(config, output);
}

/// Writes the endpoints of the host and the uplink. The host port is the one of the node's own table.
pub(crate) fn write_node_endpoints(config: &NodeConfig, output: &mut Output) {
    let node = output.tables.current().node();
    let (host, uplink) = (node.host.clone(), node.uplink.clone());
    // Without an open port the endpoint stays: flows that leave by the kernel refer to it.
    let first = uplink.ports.first();
    let uplink_port = first.map_or(PortId(u16::MAX), |queue| queue.port);
    let endpoint = |id, addresses, mac: MacAddr, port, name: &str| Endpoint {
        id,
        generation: output.generations.get(id),
        addresses,
        mac,
        port,
        worker: WorkerId(0),
        mtu: config.uplink.direct,
        name: name.into(),
        policy: None,
    };
    let host = endpoint(EndpointId::HOST, host.addresses, host.mac, config.host_port, "host");
    let uplink_endpoint = endpoint(
        EndpointId::UPLINK,
        arrayvec::ArrayVec::new(),
        uplink.mac,
        uplink_port,
        "uplink",
    );
    let uplink = Endpoint {
        worker: first.map_or(WorkerId(0), |queue| queue.worker),
        ..uplink_endpoint
    };
    output.tables.set_endpoint(host);
    output.tables.set_endpoint(uplink);
}

fn is_same_policy(a: Option<&Arc<EndpointPolicy>>, b: Option<&Arc<EndpointPolicy>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    }
}
