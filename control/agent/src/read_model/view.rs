//! The controller's state as it was at the end of its last turn, for readers on other threads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use heddle_engine::PortRole;
use heddle_io::XdpMode;
use heddle_port::PortId;
use heddle_proto::{Attachment, Named};
use heddle_tables::{EndpointId, Snapshot};

use crate::workers::PortInfo;

/// The controller's state at its last update. It never changes; the next update replaces it.
#[derive(Clone, Default)]
pub(crate) struct View {
    /// The tables published last.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    /// The time at which every kind of object had synced.
    pub(crate) synced_at: Option<Instant>,
    /// The time of the last publication.
    pub(crate) published_at: Option<Instant>,
    /// The numbers of identities and of compiled policies (groups) in the compiler.
    pub(crate) compiled: (usize, usize),
    /// The attachments, in the order of their ids.
    pub(crate) attachments: Vec<Attachment>,
    /// The reason for which the attachments in memory are not on disk.
    pub(crate) state_not_kept: Option<String>,
    /// The open ports.
    pub(crate) ports: BTreeMap<PortId, PortInfo>,
    /// The uplink.
    pub(crate) uplink: UplinkView,
}

/// The uplink's ports.
#[derive(Clone, Default)]
pub(crate) struct UplinkView {
    /// The mode of the program, while the ports are open.
    pub(crate) mode: Option<XdpMode>,
    /// The reason for which they are closed, if they could not be opened.
    pub(crate) closed: Option<String>,
}

impl View {
    /// Returns the attachment of an endpoint.
    pub(super) fn attachment(&self, endpoint: EndpointId) -> Option<&Attachment> {
        let at = self
            .attachments
            .binary_search_by_key(&endpoint.0, |attachment| attachment.attachment)
            .ok()?;
        self.attachments.get(at)
    }

    /// Returns the pod of an attachment.
    pub(super) fn pod_of(&self, endpoint: EndpointId) -> Option<Named> {
        let pod = self.attachment(endpoint)?.pod.as_ref()?;
        Some(Named {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
        })
    }

    /// Returns the version published last; 0 before the first one.
    pub(super) fn version(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.version())
    }

    /// Returns the name of a port as `heddle status` and `heddle drops` print it.
    pub(super) fn port_name(&self, role: PortRole) -> String {
        match role {
            PortRole::Host => "host".to_owned(),
            PortRole::Uplink => "uplink".to_owned(),
            PortRole::Pod(id) => match self.attachment(id) {
                Some(attachment) => match &attachment.pod {
                    Some(pod) => format!("pod:{pod}"),
                    None => format!("container:{}", attachment.container),
                },
                None => format!("attachment {}", id.0),
            },
        }
    }

    /// Returns the sizes of the tables by their names in `heddle status`.
    pub(super) fn table_sizes(&self) -> BTreeMap<String, u64> {
        let snapshot = self.snapshot.as_ref();
        let sizes = snapshot.map(|snapshot| snapshot.sizes()).unwrap_or_default();
        let backends = snapshot.map_or(0, |s| s.frontends().map(|f| f.backends.list().len()).sum());
        [
            ("endpoints", sizes.endpoints),
            ("addresses", sizes.addresses),
            ("policy-cidrs", sizes.policy_cidrs),
            ("frontends", sizes.frontends),
            ("service-addresses", sizes.service_addresses),
            ("backends", backends),
            ("identities", self.compiled.0),
            ("policies", self.compiled.1),
        ]
        .into_iter()
        .map(|(name, n)| (name.to_owned(), n as u64))
        .collect()
    }
}
