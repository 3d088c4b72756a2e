//! The ports of the node that lead to attached pods (`hostPort`), as the compiler and the host task need them.

use std::collections::BTreeSet;

use heddle_compile::PodHostPort;
use heddle_host::frontends::{ExternalFrontend, NodePort};
use heddle_model::Protocol;
use heddle_proto::{MappedProtocol, PortMapping};

use crate::attachments::{Record, Store};

/// The host ports of all attachments, as the host task needs them.
#[derive(Debug, Default)]
pub(super) struct HostPorts {
    /// The host ports at every address of the node.
    pub(super) everywhere: BTreeSet<NodePort>,
    /// The host ports at one address.
    pub(super) at_addresses: BTreeSet<ExternalFrontend>,
    /// The store's revision that they were collected from.
    revision: Option<u64>,
}

impl HostPorts {
    /// Collects the host ports of the attachments whose interface exists. Returns `true` if they have changed.
    pub(super) fn update(&mut self, store: &Store) -> bool {
        if self.revision.replace(store.revision()) == Some(store.revision()) {
            return false;
        }
        let (mut everywhere, mut at_addresses) = (BTreeSet::new(), BTreeSet::new());
        let attached = store.all().iter().filter(|record| record.ready);
        for mapping in attached.flat_map(|record| &record.port_mappings) {
            let protocol = model_protocol(mapping.protocol);
            for PodHostPort { at, .. } in compiled(mapping) {
                let (ip, port) = (at.ip.to_std(), at.port);
                if ip.is_unspecified() {
                    let v4 = ip.is_ipv4();
                    everywhere.insert(NodePort { v4, protocol, port });
                } else {
                    at_addresses.insert(ExternalFrontend { ip, protocol, port });
                }
            }
        }
        let is_changed = (&everywhere, &at_addresses) != (&self.everywhere, &self.at_addresses);
        (self.everywhere, self.at_addresses) = (everywhere, at_addresses);
        is_changed
    }
}

/// Returns an attachment's host ports for the compiler.
pub(super) fn of(record: &Record) -> Box<[PodHostPort]> {
    record.port_mappings.iter().flat_map(compiled).collect()
}

/// Returns the host ports of a mapping.
fn compiled(mapping: &PortMapping) -> impl Iterator<Item = PodHostPort> {
    PodHostPort::of(
        mapping.host_ip,
        mapping.protocol.proto(),
        mapping.host_port,
        mapping.container_port,
    )
}

/// Converts a protocol of the CNI plugin to one of the objects.
const fn model_protocol(protocol: MappedProtocol) -> Protocol {
    match protocol {
        MappedProtocol::Tcp => Protocol::Tcp,
        MappedProtocol::Udp => Protocol::Udp,
        MappedProtocol::Sctp => Protocol::Sctp,
    }
}
