//! Requests of the CNI plugin: prepare, ready, attachment, release, readiness.
//!
//! *Prepare* allocates an id and addresses. *Ready* opens the port. It is answered when the pod's object is known, its
//! policy is compiled, and every worker has taken the tables with it, so that the pod's first packet is forwarded under its
//! policy. *Release* closes the port and frees the addresses. All of them may be repeated. An answer that reports a change
//! of the attachments waits until the journal has written it.

use std::net::IpAddr;
use std::time::Instant;

use heddle_config::MAX_SEGMENT;
use heddle_host::gateway_of;
use heddle_proto::{
    Attachment, CniError, ContainerId, ErrorCode, IfName, PrepareRequest, Prepared, PreparedAddress, PreparedRoute,
    Readiness, Ready, ReadyRequest, Released,
};
use heddle_tables::EndpointId;
use heddle_wire::MacAddr;
use ipnet::IpNet;

use super::attachments::{PendingReady, Stage, index_of};
use super::cni_answers::{Answer, DeletedStale, HeldAnswer};
use super::journal::Outcome;
use super::pod_routes;
use super::publication::WAIT_FOR_HOST;
use super::state::Controller;
use crate::api::Reply;
use crate::attachments::{Record, StoreError};
use crate::workers::{NotReopened, WorkersError};

impl Controller {
    /// Handles *readiness*: returns an error if an ADD could not be served now, or if a piece of the node's kernel state is
    /// missing that pods need.
    pub(super) fn readiness(&self) -> Result<Readiness, CniError> {
        self.ranges_to_allocate_from()
            .map_err(|why| CniError::new(ErrorCode::UNAVAILABLE, why))?;
        if let Some(problem) = self.host.problem() {
            return Err(CniError::new(
                ErrorCode::UNAVAILABLE,
                format!("the node's side of the network does not work: {problem}"),
            ));
        }
        Ok(Readiness {
            node: self.settings.node.clone(),
        })
    }

    /// Returns the ranges that addresses are allocated from, or an explanation of why there are none.
    fn ranges_to_allocate_from(&self) -> Result<Vec<IpNet>, String> {
        if self.publication.is_none() {
            return Err("the agent has not read all objects yet: try again in a moment".to_owned());
        }
        // Without the object its ranges may be another node's soon, so no new pod gets an address of them.
        let ranges = self.objects.own_pod_cidrs();
        if ranges.is_empty() {
            let node = &self.settings.node;
            return Err(format!(
                "the Node object {node} is missing or has no spec.podCIDRs, so there is no address to allocate: set spec.podCIDRs"
            ));
        }
        Ok(ranges)
    }

    /// Handles *prepare*. If there is an earlier attachment of the same interface (the plugin crashed and ADD is repeated),
    /// the host task deletes its interface, and the attachment is released, before a new one is made.
    pub(super) fn prepare(&mut self, request: PrepareRequest, reply: Reply<Prepared>) {
        match self.attachments.store.get(&request.container, &request.ifname) {
            Some(stale) => {
                tracing::info!(
                    attachment = stale.id,
                    pod = stale.name(),
                    "ADD is repeated: the earlier attachment is released"
                );
                let (id, deleted) = (stale.id, self.deleted_stale_in.clone());
                self.host.delete_interface(stale.host_ifname.as_str(), move |result| {
                    // Sending fails only after the controller has ended.
                    let _ = deleted.send(DeletedStale {
                        request,
                        reply,
                        id,
                        result,
                    });
                });
            }
            None => self.allocate(&request, reply),
        }
    }

    /// Continues a *prepare* after the earlier interface was deleted.
    pub(super) fn prepare_after_deletion(&mut self, deleted: DeletedStale) {
        let DeletedStale {
            request,
            reply,
            id,
            result,
        } = deleted;
        if let Err(e) = result {
            let _ = reply.send(Err(CniError::new(ErrorCode::KERNEL, e.to_string())));
            return;
        }
        match self.attachments.store.get(&request.container, &request.ifname).cloned() {
            Some(stale) if stale.id == id => {
                if let Err(e) = self.remove(&stale) {
                    let _ = reply.send(Err(e));
                    return;
                }
            }
            Some(other) => {
                let message = format!(
                    "attachment {id} was replaced by {}: another ADD has overtaken this one",
                    other.id
                );
                let _ = reply.send(Err(CniError::new(ErrorCode::TRY_AGAIN_LATER, message)));
                return;
            }
            None => {}
        }
        self.allocate(&request, reply);
    }

    /// Creates an attachment and answers once it is on disk.
    fn allocate(&mut self, request: &PrepareRequest, reply: Reply<Prepared>) {
        match self.add_attachment(request) {
            Ok(prepared) => self.answer_when_durable(Answer::Prepared(Box::new(prepared), reply)),
            // The plugin may have ended.
            Err(e) => drop(reply.send(Err(e))),
        }
    }

    /// Adds an attachment to the store and returns the answer to *prepare*.
    fn add_attachment(&mut self, request: &PrepareRequest) -> Result<Prepared, CniError> {
        let ranges = self
            .ranges_to_allocate_from()
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
        let record = self
            .attachments
            .store
            .add(request, &ranges, mtu, self.settings.max_pods)
            .map_err(|e| store_error(&e))?;
        self.attachments.set_stage(record.id, Stage::Prepared);
        tracing::info!(attachment = record.id, pod = record.name(), addresses = ?record.addresses, "prepared an attachment");
        let routes = pod_routes::compute(
            &self.objects.route_ranges(&self.settings),
            &record.addresses,
            record.mtu,
            self.objects.uplink_mtu(&self.settings, self.host.uplink()),
        );
        Ok(prepared(&record, routes))
    }

    /// Hands the attachments to the journal and holds an answer back until they are on disk.
    fn answer_when_durable(&mut self, answer: Answer) {
        let sequence = self.journal.save(&mut self.attachments.store);
        self.held.push(HeldAnswer { sequence, answer });
        self.send_durable_answers();
    }

    /// Sends the answers whose state is on disk.
    pub(super) fn send_durable_answers(&mut self) {
        let journal = &self.journal;
        let (durable, held): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|held| journal.is_durable(held.sequence));
        self.held = held;
        for HeldAnswer { answer, .. } in durable {
            // The plugin may have ended.
            match answer {
                Answer::Prepared(prepared, reply) => drop(reply.send(Ok(*prepared))),
                Answer::Released(released, reply) => drop(reply.send(Ok(released))),
            }
        }
    }

    /// Records a write of the journal and sends the answers that it has made durable. If it has failed, an ADD gets the error,
    /// and a DEL succeeds with its change in memory.
    pub(super) fn record_write(&mut self, outcome: &Outcome) {
        self.view_is_stale |= self.journal.record(outcome);
        self.send_durable_answers();
        let Err(e) = &outcome.result else { return };
        let error = store_error(e);
        let (failed, held): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|held| held.sequence <= outcome.sequence);
        self.held = held;
        for HeldAnswer { answer, .. } in failed {
            match answer {
                // The runtime never gets this attachment, so it is removed again.
                Answer::Prepared(prepared, reply) => {
                    drop(self.attachments.remove(prepared.attachment));
                    let _ = reply.send(Err(error.clone()));
                }
                // The port is closed and the addresses are free. An error would make the runtime repeat the DEL for ever.
                Answer::Released(released, reply) => drop(reply.send(Ok(released))),
            }
        }
        for pending in self
            .attachments
            .remove_pending(|pending| pending.sequence <= outcome.sequence)
        {
            pending.fail(error.clone());
        }
    }

    /// Handles *ready*: opens the port. [`Self::answer_pending`] answers.
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
                let sequence = self.journal.save(&mut self.attachments.store);
                self.attachments.pending.push(PendingReady {
                    id,
                    since,
                    deadline: since + self.settings.pod_wait,
                    version: None,
                    sequence,
                    reply,
                });
            }
            Err(e) => drop(reply.send(Err(e))),
        }
    }

    /// Opens the port of an attachment whose interface is configured; an open port stays open.
    fn open_attachment(
        &mut self,
        container: &ContainerId,
        ifname: &IfName,
        request: &ReadyRequest,
    ) -> Result<u16, CniError> {
        let Some(record) = self.attachments.store.get(container, ifname).cloned() else {
            return Err(unknown(container, ifname));
        };
        let id = record.id;
        // The request may be late, or name an interface that was replaced meanwhile.
        if id != request.attachment {
            let message = format!(
                "attachment {} of {container} {ifname} was replaced by {id}: another ADD has overtaken this one",
                request.attachment
            );
            return Err(CniError::new(ErrorCode::TRY_AGAIN_LATER, message));
        }
        // The interface that the plugin reports must be the one that has the name now.
        let index = match index_of(&record) {
            Ok(index) => index,
            Err(e) => return Err(CniError::new(ErrorCode::TRY_AGAIN_LATER, e.to_string())),
        };
        if index != Some(request.host_ifindex) {
            let message = format!(
                "the node's interface {} has index {}, not {}",
                record.host_ifname,
                index.map_or("none".to_owned(), |i| i.to_string()),
                request.host_ifindex
            );
            return Err(CniError::new(ErrorCode::KERNEL, message));
        }
        // If the interface was deleted and created again, its old port is closed before the new one is opened.
        if self.attachments.port(id).is_some() && record.host_ifindex != Some(request.host_ifindex) {
            self.close_port(id, "its interface was replaced".to_owned())
                .map_err(|e| workers_error(&e))?;
        }
        self.attachments.store.set_ready(id, request);
        let tcp_segments_only = request.tcp_segments_only;
        let record = Record {
            tcp_segments_only,
            ..record
        };
        self.open_port(&record, request.host_ifindex)
            .map_err(|e| workers_error(&e))?;
        Ok(id)
    }

    /// Opens an attachment's port; an open port stays open. The port drops all packets until its policy is in the tables.
    pub(super) fn open_port(&mut self, record: &Record, ifindex: u32) -> Result<(), WorkersError> {
        let (id, ifname) = (record.id, record.host_ifname.as_str());
        if self.attachments.port(id).is_some() {
            return Ok(());
        }
        let opened = self
            .workers
            .open_pod(EndpointId(id), ifname, ifindex, record.tcp_segments_only);
        let stage = match opened {
            Ok(port) => Stage::Open(port),
            Err(e) => {
                self.attachments
                    .set_closed(id, format!("its port cannot be opened: {e}"));
                return Err(e);
            }
        };
        self.attachments.set_stage(id, stage);
        // If the pod was known before, no changed object makes the next reconciliation compile the attachment.
        if let Some(publication) = &mut self.publication {
            publication.is_changed = true;
        }
        Ok(())
    }

    /// Closes an attachment's port and removes the attachment from the tables.
    fn close_port(&mut self, id: u16, why: String) -> Result<(), WorkersError> {
        let port = self.attachments.port(id);
        self.detach(id, why);
        match port {
            Some(port) => self.workers.close(port.port),
            None => Ok(()),
        }
    }

    /// Removes an attachment from the tables. Its port is closed already, or the caller closes it next.
    fn detach(&mut self, id: u16, why: String) {
        if self.attachments.stage(id).is_some_and(Stage::is_compiled)
            && let Some(publication) = &mut self.publication
        {
            publication.compiler.detach(EndpointId(id));
            publication.is_changed = true;
        }
        self.attachments.set_closed(id, why);
    }

    /// Answers the *ready* requests whose policy every worker has, and refuses the requests whose deadline has passed.
    pub(super) fn answer_pending(&mut self) {
        if self.attachments.pending.is_empty() {
            return;
        }
        let (acknowledged, published) = (self.workers.acknowledged(), self.workers.published());
        let now = Instant::now();
        for mut pending in std::mem::take(&mut self.attachments.pending) {
            let is_published = matches!(self.attachments.stage(pending.id), Some(Stage::Published(_)));
            if pending.version.is_none() && is_published {
                pending.version = Some(published);
            }
            // The node's own processes reach a host port through the nftables table.
            let waits_for_host = self.attachments.has_host_ports(pending.id)
                && !self.host.has_tried_newest_plan()
                && pending.since.elapsed() < WAIT_FOR_HOST;
            let forwards = !waits_for_host && pending.version.is_some_and(|version| acknowledged >= version);
            if forwards && self.journal.is_durable(pending.sequence) {
                let took_ms = u64::try_from(pending.since.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(attachment = pending.id, took_ms, "the attachment forwards");
                // The plugin may have ended; a CHECK will find the attachment forwarding.
                let _ = pending.reply.send(Ok(Ready {
                    attachment: pending.id,
                    took_ms,
                }));
            } else if now >= pending.deadline {
                let why = self.attachments.explain_waiting(&self.objects.cluster(), pending.id);
                let waited = self.settings.pod_wait.as_secs();
                tracing::warn!(
                    attachment = pending.id,
                    "the attachment does not forward after {waited} s: {why}"
                );
                pending.refuse(&format!("{why}; waited {waited} s"));
            } else {
                self.attachments.pending.push(pending);
            }
        }
    }

    /// Handles *attachment*: describes the attachment of an interface.
    pub(super) fn attachment(&self, container: &ContainerId, ifname: &IfName) -> Result<Attachment, CniError> {
        self.attachments
            .store
            .get(container, ifname)
            .map(|record| self.attachments.describe(&self.objects.cluster(), record))
            .ok_or_else(|| unknown(container, ifname))
    }

    /// Handles *release*. An attachment that does not exist is no error, because DEL may be repeated.
    pub(super) fn release(&mut self, container: &ContainerId, ifname: &IfName, reply: Reply<Released>) {
        let released = match self.attachments.store.get(container, ifname).cloned() {
            None => Released {
                existed: false,
                host_ifname: None,
            },
            Some(record) => {
                if let Err(e) = self.remove(&record) {
                    let _ = reply.send(Err(e));
                    return;
                }
                tracing::info!(attachment = record.id, pod = record.name(), "released the attachment");
                Released {
                    existed: true,
                    host_ifname: Some(record.host_ifname),
                }
            }
        };
        self.answer_when_durable(Answer::Released(released, reply));
    }

    /// Closes an attachment's port, refuses its waiting requests, and removes it from the tables and the store.
    fn remove(&mut self, record: &Record) -> Result<(), CniError> {
        let why = "the attachment was released meanwhile";
        for pending in self.attachments.remove_pending(|pending| pending.id == record.id) {
            pending.refuse(why);
        }
        self.close_port(record.id, why.to_owned())
            .map_err(|e| workers_error(&e))?;
        drop(self.attachments.remove(record.id));
        Ok(())
    }

    /// Closes the ports whose interface is gone without a release, because the pod's namespace was deleted. The attachment
    /// stays until DEL.
    pub(super) fn close_vanished(&mut self) {
        for record in self.attachments.vanished() {
            let why = format!("its interface {} is gone", record.host_ifname);
            tracing::warn!(
                attachment = record.id,
                pod = record.name(),
                "{why}; the attachment is kept until DEL"
            );
            self.view_is_stale = true;
            if let Err(e) = self.close_port(record.id, why) {
                tracing::error!(attachment = record.id, "cannot close its port: {e}");
            }
        }
    }

    /// Shrinks the fill rings of silent ports if other ports need the frames, and detaches pods whose port could not be
    /// opened again.
    ///
    /// # Errors
    /// A worker does not answer.
    pub(super) fn shrink_silent(&mut self) -> Result<(), WorkersError> {
        for NotReopened { port, error } in self.workers.shrink_silent()? {
            let Some(id) = self.attachments.id_of_port(port) else {
                // This is a queue of the host port.
                tracing::warn!("a queue of the host port could not be opened again: {error}");
                self.open_host()?;
                continue;
            };
            let why = format!("its port could not be opened again: {error}");
            tracing::error!(attachment = id, "{why}; it is tried again");
            self.detach(id, why);
            self.view_is_stale = true;
        }
        Ok(())
    }
}

/// Returns the answer to *prepare* for an attachment.
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
        max_segment: Some(MAX_SEGMENT),
        routes,
    }
}

/// Returns the error for an interface that has no attachment.
fn unknown(container: &ContainerId, ifname: &IfName) -> CniError {
    CniError::new(
        ErrorCode::UNKNOWN_CONTAINER,
        format!("the agent has no attachment for interface {ifname} of container {container}"),
    )
}

/// Converts an error of the store to the error of the CNI socket.
fn store_error(error: &StoreError) -> CniError {
    let code = match error {
        StoreError::TooMany { .. } | StoreError::Exhausted { .. } => ErrorCode::EXHAUSTED,
        StoreError::Io { .. } | StoreError::Damaged { .. } => ErrorCode::IO,
    };
    CniError::new(code, error.to_string())
}

/// Converts an error of the workers to the error of the CNI socket.
fn workers_error(error: &WorkersError) -> CniError {
    use heddle_io::XdpError;
    let code = match error {
        WorkersError::NoPortNumber { .. } | WorkersError::Xdp(XdpError::TooManyPorts(_)) => ErrorCode::EXHAUSTED,
        WorkersError::Xdp(_) => ErrorCode::KERNEL,
        _ => ErrorCode::AGENT,
    };
    CniError::new(code, error.to_string())
}
