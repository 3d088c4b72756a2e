//! Attachments from the agent's side of CNI: prepare, ready, state, release.
//!
//! *Prepare* hands out number and addresses. *Ready* opens the port and is answered when the pod's object is known, its
//! policy is compiled, and every worker has taken the tables with it: then the pod's first packet is forwarded under its
//! policy. *Release* closes the port and lets the addresses rest. All of them may be repeated.

use std::net::IpAddr;
use std::time::Instant;

use heddle_compile::Attachment as Compiled;
use heddle_model::ObjectKey;
use heddle_proto::{
    Attachment, AttachmentState, CniError, ContainerId, ErrorCode, IfName, PrepareRequest, Prepared, PreparedAddress,
    PreparedRoute, Readiness, Ready, ReadyRequest, Released,
};
use heddle_tables::EndpointId;
use heddle_wire::{Ip, MacAddr};
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;

use super::{Controller, pod_routes};
use crate::api::Reply;
use crate::attachments::{Record, StoreError};
use crate::workers::{NotReopened, WorkersError};
use heddle_host::{gateway_of, links};

/// An interface whose *ready* is not answered yet.
pub(crate) struct Waiting {
    id: u16,
    since: Instant,
    deadline: Instant,
    /// The tables that its policy came with, once it is in some.
    version: Option<u64>,
    reply: Reply<Ready>,
}

impl Waiting {
    /// Answers that it is to be tried again.
    pub(crate) fn refuse(self, why: &str) {
        // Who asked may have gone.
        let _ = self.reply.send(Err(CniError::new(ErrorCode::TRY_AGAIN_LATER, why)));
    }
}

impl Controller {
    /// Whether an ADD could be served now.
    pub(super) fn readiness(&self) -> Result<Readiness, CniError> {
        self.ranges_to_give()
            .map_err(|why| CniError::new(ErrorCode::UNAVAILABLE, why))?;
        Ok(Readiness {
            node: self.settings.node.clone(),
        })
    }

    /// The ranges that addresses are given from, or why there are none.
    fn ranges_to_give(&self) -> Result<Vec<IpNet>, String> {
        if self.synced_at.is_none() {
            return Err("the agent has not read all objects yet: try again in a moment".to_owned());
        }
        let ranges = self.pod_ranges();
        if ranges.is_empty() {
            let node = &self.settings.node;
            return Err(format!(
                "the Node object {node} is missing or has no spec.podCIDRs: there is no address to give"
            ));
        }
        Ok(ranges)
    }

    pub(super) fn prepare(&mut self, request: &PrepareRequest) -> Result<Prepared, CniError> {
        let ranges = self
            .ranges_to_give()
            .map_err(|why| CniError::new(ErrorCode::TRY_AGAIN_LATER, why))?;
        let mtu = match request.mtu {
            Some(mtu) if mtu < 1280 || mtu > u32::from(self.settings.pod_mtu) => {
                let message = format!(
                    "mtu {mtu} is not between 1280 and {}, the agent's podMTU",
                    self.settings.pod_mtu
                );
                return Err(CniError::new(ErrorCode::INVALID_CONFIG, message));
            }
            Some(mtu) => mtu,
            None => self.settings.pod_mtu.into(),
        };
        // An ADD that was repeated after a crash of the plugin: the first one's attachment goes with its interface.
        if let Some(stale) = self.store.get(&request.container, &request.ifname).cloned() {
            tracing::info!(attachment = stale.id, pod = stale.name(), "prepared anew");
            self.delete_interface(&stale)?;
            self.forget(&stale)?;
        }
        let record = self
            .store
            .add(request, &ranges, mtu, self.settings.max_pods)
            .map_err(|e| store_error(&e))?;
        tracing::info!(attachment = record.id, pod = record.name(), addresses = ?record.addresses, "prepared");
        let routes = pod_routes::compute(&self.route_ranges(), &record.addresses, record.mtu, self.uplink_mtu());
        Ok(prepared(&record, routes))
    }

    pub(super) fn make_ready(
        &mut self,
        container: &ContainerId,
        ifname: &IfName,
        request: &ReadyRequest,
        reply: Reply<Ready>,
    ) {
        let since = Instant::now();
        match self.open_attachment(container, ifname, request) {
            Ok(id) => {
                self.dirty = true;
                let deadline = since + self.settings.pod_wait;
                self.waiting.push(Waiting {
                    id,
                    since,
                    deadline,
                    version: None,
                    reply,
                });
            }
            Err(e) => drop(reply.send(Err(e))),
        }
    }

    /// Opens the port of an attachment whose interface stands; one that is open stays.
    fn open_attachment(
        &mut self,
        container: &ContainerId,
        ifname: &IfName,
        request: &ReadyRequest,
    ) -> Result<u16, CniError> {
        let Some(record) = self.store.get(container, ifname).cloned() else {
            return Err(unknown(container, ifname));
        };
        let id = record.id;
        if id != request.attachment {
            let message = format!(
                "attachment {} of {container} {ifname} was replaced by {id}: another ADD has overtaken this one",
                request.attachment
            );
            return Err(CniError::new(ErrorCode::TRY_AGAIN_LATER, message));
        }
        let index = index_of(&record);
        if index != Some(request.host_ifindex) {
            let message = format!(
                "the node's interface {} has index {}, not {}",
                record.host_ifname,
                index.map_or("none".to_owned(), |i| i.to_string()),
                request.host_ifindex
            );
            return Err(CniError::new(ErrorCode::KERNEL, message));
        }
        if self.open.contains_key(&id) && record.host_ifindex != Some(request.host_ifindex) {
            self.close_port(id).map_err(|e| workers_error(&e))?;
        }
        self.store
            .set_ready(id, request.host_ifindex, request.pod_mac)
            .map_err(|e| store_error(&e))?;
        if !self.open.contains_key(&id) {
            self.open_port(id, record.host_ifname.as_str(), request.host_ifindex)
                .map_err(|e| workers_error(&e))?;
        }
        Ok(id)
    }

    /// Opens an attachment's port. It forwards nothing until its policy is in the tables.
    pub(super) fn open_port(&mut self, id: u16, ifname: &str, ifindex: u32) -> Result<(), WorkersError> {
        let port = self.workers.open_pod(EndpointId(id), ifname, ifindex)?;
        self.open.insert(id, port);
        self.closed.remove(&id);
        if let Some(compiler) = &mut self.compiler
            && self.compiled.contains(&EndpointId(id))
        {
            compiler.set_attachment_port(EndpointId(id), port.port, port.worker);
        }
        self.dirty = true;
        Ok(())
    }

    fn close_port(&mut self, id: u16) -> Result<(), WorkersError> {
        match self.open.remove(&id) {
            Some(port) => self.workers.close(port.port),
            None => Ok(()),
        }
    }

    /// Gives the compiler those attachments whose pod has become known.
    pub(super) fn attach_known_pods(&mut self) {
        let Some(compiler) = &mut self.compiler else { return };
        for (&id, port) in &self.open {
            let id = EndpointId(id);
            let Some(record) = self.store.by_id(id.0).filter(|_| !self.compiled.contains(&id)) else {
                continue;
            };
            if !is_known(&self.cluster, record) {
                continue;
            }
            compiler.attach(Compiled {
                id,
                pod: key_of(record),
                addresses: record.addresses.iter().map(|&ip| Ip::from(ip)).take(4).collect(),
                mac: record.mac,
                port: port.port,
                worker: port.worker,
                mtu: u16::try_from(record.mtu).unwrap_or(u16::MAX),
            });
            self.compiled.insert(id);
        }
    }

    /// Answers those whose policy every worker has, and those who have waited long enough.
    pub(super) fn answer_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let (acknowledged, published) = (self.workers.acknowledged(), self.workers.published());
        let now = Instant::now();
        for mut waiting in std::mem::take(&mut self.waiting) {
            let id = EndpointId(waiting.id);
            if waiting.version.is_none() && self.ready.contains(&id) && self.open.contains_key(&waiting.id) {
                waiting.version = Some(published);
            }
            if waiting.version.is_some_and(|version| acknowledged >= version) {
                let took_ms = u64::try_from(waiting.since.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(attachment = waiting.id, took_ms, "forwards");
                // Who asked may have gone; a CHECK will find it forwarding.
                let _ = waiting.reply.send(Ok(Ready {
                    attachment: waiting.id,
                    took_ms,
                }));
            } else if now >= waiting.deadline {
                let why = self.why_waiting(waiting.id);
                let waited = self.settings.pod_wait.as_secs();
                tracing::warn!(attachment = waiting.id, "does not forward after {waited} s: {why}");
                waiting.refuse(&format!("{why}; waited {waited} s"));
            } else {
                self.waiting.push(waiting);
            }
        }
    }

    /// What an attachment with an open port waits for.
    pub(super) fn why_waiting(&self, id: u16) -> String {
        let Some(record) = self.store.by_id(id) else {
            return "the attachment was released meanwhile".to_owned();
        };
        match &record.pod {
            Some(pod) if !is_known(&self.cluster, record) => format!("pod {pod} is not known yet"),
            _ => "not every worker has taken the tables with its policy yet".to_owned(),
        }
    }

    pub(super) fn attachment(&self, container: &ContainerId, ifname: &IfName) -> Result<Attachment, CniError> {
        self.store
            .get(container, ifname)
            .map(|record| self.describe(record))
            .ok_or_else(|| unknown(container, ifname))
    }

    /// An attachment with its state, for CHECK and status.
    pub(super) fn describe(&self, record: &Record) -> Attachment {
        let id = EndpointId(record.id);
        let (state, why) = if !record.ready {
            (AttachmentState::Prepared, String::new())
        } else if let Some(why) = self.closed.get(&record.id) {
            (AttachmentState::Closed, why.clone())
        } else if !self.open.contains_key(&record.id) {
            (AttachmentState::Waiting, "its port is not open yet".to_owned())
        } else if self.ready.contains(&id) {
            (AttachmentState::Forwarding, String::new())
        } else {
            (AttachmentState::Waiting, self.why_waiting(record.id))
        };
        Attachment {
            attachment: record.id,
            container: record.container.clone(),
            ifname: record.ifname.clone(),
            netns: record.netns.clone(),
            pod: record.pod.clone(),
            host_ifname: record.host_ifname.clone(),
            host_ifindex: record.host_ifindex,
            mac: record.mac,
            addresses: record.addresses.clone(),
            state,
            why,
        }
    }

    pub(super) fn release(&mut self, container: &ContainerId, ifname: &IfName) -> Result<Released, CniError> {
        let Some(record) = self.store.get(container, ifname).cloned() else {
            return Ok(Released {
                existed: false,
                host_ifname: None,
            });
        };
        self.forget(&record)?;
        tracing::info!(attachment = record.id, pod = record.name(), "released");
        Ok(Released {
            existed: true,
            host_ifname: Some(record.host_ifname),
        })
    }

    /// Closes an attachment's port and takes it out of tables and store.
    fn forget(&mut self, record: &Record) -> Result<(), CniError> {
        let id = record.id;
        let (gone, others) = std::mem::take(&mut self.waiting).into_iter().partition(|w| w.id == id);
        self.waiting = others;
        for waiting in gone {
            waiting.refuse("the attachment was released meanwhile");
        }
        let closed = self.close_port(id);
        self.uncompile(id);
        self.closed.remove(&id);
        closed.map_err(|e| workers_error(&e))?;
        self.store.remove(id).map_err(|e| store_error(&e))
    }

    fn uncompile(&mut self, id: u16) {
        let id = EndpointId(id);
        if self.compiled.remove(&id) {
            if let Some(compiler) = &mut self.compiler {
                compiler.detach(id);
            }
            self.dirty = true;
        }
        self.ready.remove(&id);
    }

    fn delete_interface(&self, record: &Record) -> Result<(), CniError> {
        let deleted = self.runtime.block_on(async {
            let handle = heddle_host::netlink::connect()?;
            links::delete(&handle, record.host_ifname.as_str()).await
        });
        deleted
            .map(drop)
            .map_err(|e| CniError::new(ErrorCode::KERNEL, e.to_string()))
    }

    /// Closes the ports of interfaces that have gone without a release (their pod's namespace was deleted). The
    /// attachment stays for DEL.
    pub(super) fn close_vanished(&mut self) {
        let vanished: Vec<Record> = self
            .open
            .keys()
            .filter_map(|&id| self.store.by_id(id))
            .filter(|record| index_of(record) != record.host_ifindex)
            .cloned()
            .collect();
        for record in vanished {
            let why = format!("its interface {} has gone", record.host_ifname);
            tracing::warn!(
                attachment = record.id,
                pod = record.name(),
                "{why}; it is kept until DEL"
            );
            if let Err(e) = self.close_port(record.id) {
                tracing::error!(attachment = record.id, "closing its port: {e}");
            }
            self.uncompile(record.id);
            self.closed.insert(record.id, why);
        }
    }

    /// Takes frames back from ports that have grown and fallen silent, where others need them.
    pub(super) fn shrink_silent(&mut self) -> Result<(), WorkersError> {
        for NotReopened { port, error } in self.workers.shrink_silent()? {
            let why = format!("its port could not be opened again: {error}");
            let Some(id) = self.open.iter().find(|(_, open)| open.port == port).map(|(n, _)| *n) else {
                // A queue of the host port: without it this node's own traffic to pods stops.
                return Err(error);
            };
            tracing::error!(attachment = id, "{why}");
            self.open.remove(&id);
            self.uncompile(id);
            self.closed.insert(id, why);
        }
        Ok(())
    }
}

/// Whether the pod that an attachment was made for is known: its object, not that of an earlier pod of the same name.
fn is_known(cluster: &heddle_model::Cluster, record: &Record) -> bool {
    let Some(pod) = &record.pod else { return true };
    let Some(key) = key_of(record) else { return true };
    cluster.pod(&key).is_some_and(|known| {
        pod.uid
            .as_ref()
            .is_none_or(|uid| known.uid.is_empty() || &*known.uid == uid.as_str())
    })
}

fn key_of(record: &Record) -> Option<ObjectKey> {
    record
        .pod
        .as_ref()
        .map(|pod| ObjectKey::new(pod.namespace.as_str(), pod.name.as_str()))
}

/// The index that the interface's name has now.
pub(super) fn index_of(record: &Record) -> Option<u32> {
    if_nametoindex(record.host_ifname.as_str()).ok()
}

fn prepared(record: &Record, routes: Vec<PreparedRoute>) -> Prepared {
    let address = |&address: &IpAddr| PreparedAddress {
        address,
        gateway: gateway_of(address),
    };
    Prepared {
        attachment: record.id,
        host_ifname: record.host_ifname.clone(),
        mac: record.mac,
        mtu: record.mtu,
        addresses: record.addresses.iter().map(address).collect(),
        gateway_mac: MacAddr::GATEWAY,
        routes,
    }
}

fn unknown(container: &ContainerId, ifname: &IfName) -> CniError {
    CniError::new(
        ErrorCode::UNKNOWN_CONTAINER,
        format!("the agent knows no interface {ifname} of container {container}"),
    )
}

fn store_error(error: &StoreError) -> CniError {
    let code = match error {
        StoreError::TooMany { .. } | StoreError::Exhausted { .. } => ErrorCode::EXHAUSTED,
        StoreError::Io { .. } | StoreError::Damaged { .. } => ErrorCode::IO,
    };
    CniError::new(code, error.to_string())
}

fn workers_error(error: &WorkersError) -> CniError {
    use heddle_io::XdpError;
    let code = match error {
        WorkersError::NoPortNumber { .. } | WorkersError::Xdp(XdpError::TooManyPorts(_)) => ErrorCode::EXHAUSTED,
        WorkersError::Xdp(_) => ErrorCode::KERNEL,
        _ => ErrorCode::AGENT,
    };
    CniError::new(code, error.to_string())
}
