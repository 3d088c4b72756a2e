//! The state of `service`: the owner of each frontend, and the backends that frontends lost. A Service has precedence over a pod's host
//! port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_model::{Cluster, ObjectKey};
use heddle_tables::{Backend, EndpointId, Frontend, FrontendKey, SnapshotBuilder};

use crate::node::attachment::Attachment;
use crate::service::frontends::{Aliases, NodeScope, frontends_of};
use crate::service::host_ports::HostPorts;

/// A backend that a frontend no longer has. The agent removes the connections through the frontend to this backend from
/// the flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemovedBackend {
    /// The frontend. It may be gone itself.
    pub frontend: FrontendKey,
    /// The backend.
    pub backend: Backend,
}

/// The frontends in the tables.
#[derive(Debug, Default)]
pub(crate) struct ServiceState {
    frontends_of: BTreeMap<ObjectKey, Box<[FrontendKey]>>,
    owners: BTreeMap<FrontendKey, ObjectKey>,
    host_ports: HostPorts,
    aliases: Aliases,
    removed_backends: Vec<RemovedBackend>,
    new_frontends: bool,
}

impl ServiceState {
    /// Compiles the frontends of a Service, and removes those that it no longer has.
    pub(crate) fn compile(
        &mut self,
        cluster: &Cluster,
        key: &ObjectKey,
        scope: &NodeScope<'_>,
        tables: &mut SnapshotBuilder,
    ) {
        let service = cluster.service(key).filter(|s| s.is_proxied());
        let compiled = service
            .map(|service| frontends_of(cluster, service, &self.aliases, scope))
            .unwrap_or_default();
        let before = self.frontends_of.remove(key).unwrap_or_default();
        for gone in before.iter().filter(|key| !compiled.contains_key(*key)) {
            // Another Service may have taken the address over within the same changes.
            if self.owners.get(gone) == Some(key) {
                self.owners.remove(gone);
                self.write_host_ports(std::iter::once(*gone), tables);
            }
        }
        if compiled.is_empty() {
            return;
        }
        self.frontends_of
            .insert(key.clone(), compiled.keys().copied().collect());
        for (at, frontend) in compiled {
            self.record_removed(at, Some(&frontend), tables);
            tables.set_frontend(Arc::new(frontend));
            self.owners.insert(at, key.clone());
        }
    }

    /// Adds the host ports of an attachment.
    pub(crate) fn attach(&mut self, attachment: &Attachment, tables: &mut SnapshotBuilder) {
        let changed = self.host_ports.attach(attachment, &self.aliases);
        self.write_host_ports(changed, tables);
    }

    /// Removes the host ports of an attachment.
    pub(crate) fn detach(&mut self, id: EndpointId, tables: &mut SnapshotBuilder) {
        let changed = self.host_ports.detach(id);
        self.write_host_ports(changed, tables);
    }

    /// Writes the frontends of host ports at keys that no Service has.
    fn write_host_ports(&mut self, keys: impl IntoIterator<Item = FrontendKey>, tables: &mut SnapshotBuilder) {
        for key in keys {
            if self.owners.contains_key(&key) {
                continue;
            }
            let frontend = self.host_ports.at(key).cloned();
            self.record_removed(key, frontend.as_deref(), tables);
            match frontend {
                Some(frontend) => tables.set_frontend(frontend),
                None => tables.remove_frontend(key),
            }
        }
    }

    /// Records the backends that a frontend no longer has, or that the frontend is new: earlier connections to its
    /// address have another destination.
    fn record_removed(&mut self, key: FrontendKey, after: Option<&Frontend>, tables: &SnapshotBuilder) {
        let Some(before) = tables.current().frontend_at(key) else {
            self.new_frontends |= after.is_some();
            return;
        };
        let gone = before
            .endpoints()
            .filter(|b| !after.is_some_and(|after| after.keeps(b)));
        let gone: BTreeSet<RemovedBackend> = gone
            .map(|backend| RemovedBackend {
                frontend: key,
                backend: *backend,
            })
            .collect();
        self.removed_backends.extend(gone);
    }

    /// Sets or removes the alias of a frontend, and writes the host ports that have it. Returns true if it changed.
    pub(crate) fn set_alias(
        &mut self,
        frontend: FrontendKey,
        alias: Option<FrontendKey>,
        tables: &mut SnapshotBuilder,
    ) -> bool {
        let before = match alias {
            Some(alias) => self.aliases.insert(frontend, alias),
            None => self.aliases.remove(&frontend),
        };
        if before == alias {
            return false;
        }
        let changed = self.host_ports.set_alias(frontend, &self.aliases);
        self.write_host_ports(changed, tables);
        true
    }

    /// Returns the backends that frontends lost since the last call.
    pub(crate) fn take_removed_backends(&mut self) -> Vec<RemovedBackend> {
        std::mem::take(&mut self.removed_backends)
    }

    /// Returns true if an address and port became a frontend since the last call.
    pub(crate) fn take_new_frontends(&mut self) -> bool {
        std::mem::take(&mut self.new_frontends)
    }
}
