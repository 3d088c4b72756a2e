//! The host ports of local pods: frontends at the node's addresses with one backend.
//!
//! A host port without `hostIP` is a frontend like a node port, at every address of the node. One with `hostIP` has the address and, for
//! the node's own processes, an alias (see [`Aliases`]). At a loopback address, only the alias is reached, because no packet with such
//! an address reaches heddle.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_tables::{Backend, Backends, EndpointId, Frontend, FrontendKey, FrontendKind};
use heddle_wire::Ip;

use crate::node::attachment::Attachment;
use crate::node::pod_host_port::PodHostPort;
use crate::service::frontends::Aliases;

/// The host ports of all attachments.
#[derive(Debug, Default)]
pub(crate) struct HostPorts {
    /// The name, addresses and host ports of each attachment that has host ports.
    attached: BTreeMap<EndpointId, Attached>,
    /// The frontends at each key, in the order in which they came.
    frontends: BTreeMap<FrontendKey, Vec<(EndpointId, Arc<Frontend>)>>,
}

#[derive(Clone, Debug)]
struct Attached {
    name: Arc<str>,
    addresses: Vec<Ip>,
    host_ports: Box<[PodHostPort]>,
}

impl HostPorts {
    /// Returns the frontend at a key. If several pods have it, the pod that was attached last counts: the others are ending.
    pub(crate) fn at(&self, key: FrontendKey) -> Option<&Arc<Frontend>> {
        self.frontends.get(&key)?.last().map(|(_, frontend)| frontend)
    }

    /// Adds an attachment. Returns the keys whose frontend may be another one now.
    pub(crate) fn attach(&mut self, attachment: &Attachment, aliases: &Aliases) -> BTreeSet<FrontendKey> {
        if attachment.host_ports.is_empty() {
            return BTreeSet::new();
        }
        let pod = attachment.pod.as_ref();
        let attached = Attached {
            name: pod.map(ToString::to_string).unwrap_or_default().into(),
            addresses: attachment.addresses.to_vec(),
            host_ports: attachment.host_ports.clone(),
        };
        let changed = self.add(attachment.id, &attached, aliases);
        self.attached.insert(attachment.id, attached);
        changed
    }

    /// Removes an attachment. Returns the keys whose frontend may be another one now.
    pub(crate) fn detach(&mut self, id: EndpointId) -> BTreeSet<FrontendKey> {
        if self.attached.remove(&id).is_none() {
            return BTreeSet::new();
        }
        self.remove(id)
    }

    /// Makes the frontends at an address and port again, with another alias. Returns the keys whose frontend may be another one now.
    pub(crate) fn set_alias(&mut self, at: FrontendKey, aliases: &Aliases) -> BTreeSet<FrontendKey> {
        let of = |attached: &Attached| attached.host_ports.iter().any(|host_port| host_port.at == at);
        let concerned = self.attached.iter().filter(|(_, attached)| of(attached));
        let concerned: Vec<_> = concerned.map(|(id, attached)| (*id, attached.clone())).collect();
        let mut changed = BTreeSet::new();
        for (id, attached) in concerned {
            changed.extend(self.remove(id));
            changed.extend(self.add(id, &attached, aliases));
        }
        changed
    }

    fn add(&mut self, id: EndpointId, attached: &Attached, aliases: &Aliases) -> BTreeSet<FrontendKey> {
        let frontends = attached.frontends(aliases);
        let keys = frontends.iter().map(|frontend| frontend.key).collect();
        for frontend in frontends {
            self.frontends.entry(frontend.key).or_default().push((id, frontend));
        }
        keys
    }

    fn remove(&mut self, id: EndpointId) -> BTreeSet<FrontendKey> {
        let mut changed = BTreeSet::new();
        self.frontends.retain(|key, frontends| {
            let before = frontends.len();
            frontends.retain(|(of, _)| *of != id);
            if frontends.len() != before {
                changed.insert(*key);
            }
            !frontends.is_empty()
        });
        changed
    }
}

impl Attached {
    /// Makes the frontends. A host port of a family in which the pod has no address has none.
    fn frontends(&self, aliases: &Aliases) -> Vec<Arc<Frontend>> {
        let mut made = Vec::new();
        for host_port in &self.host_ports {
            let at = host_port.at;
            let Some(ip) = self.addresses.iter().find(|ip| ip.is_v4() == at.ip.is_v4()) else {
                continue;
            };
            let backend = Backend {
                ip: *ip,
                port: host_port.port,
            };
            let reached = (!at.ip.to_std().is_loopback()).then_some(at);
            made.extend([reached, aliases.get(&at).copied()].into_iter().flatten().map(|key| {
                let backends = Backends::new([backend], false);
                Arc::new(Frontend::new(
                    key,
                    FrontendKind::HostPort,
                    Arc::clone(&self.name),
                    backends,
                ))
            }));
        }
        made
    }
}
