//! The attachments of this node: the store with their records, the stage of each, and the *ready* requests that wait.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use heddle_compile::Attachment as Compiled;
use heddle_host::{HostError, links};
use heddle_model::{Cluster, Kind, ObjectKey, Pod};
use heddle_port::PortId;
use heddle_proto::{Attachment, AttachmentState, CniError, ErrorCode, Ready};
use heddle_tables::EndpointId;
use heddle_wire::Ip;

use super::host_ports;
use crate::api::Reply;
use crate::attachments::{Record, Store};
use crate::workers::PodPort;

/// The stage of one attachment between ADD and DEL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// The addresses are allocated; the plugin has not sent *ready*.
    Prepared,
    /// The interface is there as an earlier agent left it. The port is opened once every kind of object has synced.
    Standing,
    /// The port is open; the compiler does not have the attachment, because its pod is not known.
    Open(PodPort),
    /// The compiler has the attachment; the tables published last do not have its policy.
    Compiled(PodPort),
    /// The tables published last have its policy.
    Published(PodPort),
    /// The attachment has no port.
    Closed(Closed),
}

/// The reason for which an attachment or the host port has no port, and the next try to open it. No failure is final: an interface that was down
/// comes up, and a queue that was busy becomes free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) why: String,
    /// The tries since the port was open.
    pub(super) tries: u32,
    /// The time of the next try.
    pub(super) next_try: Instant,
}

impl Closed {
    /// The longest pause between two tries.
    const LONGEST_PAUSE: Duration = Duration::from_secs(8);

    /// Returns the state after a port was closed or could not be opened. `before` is the state before the last try.
    pub(super) fn after(before: Option<&Self>, why: String, now: Instant) -> Self {
        let tries = before.map_or(0, |before| before.tries.saturating_add(1));
        let pause = Duration::from_secs(1 << tries.min(8)).min(Self::LONGEST_PAUSE);
        Self {
            why,
            tries,
            next_try: now + pause,
        }
    }
}

impl Stage {
    /// Returns the open port.
    pub(super) const fn port(&self) -> Option<PodPort> {
        match self {
            Self::Open(port) | Self::Compiled(port) | Self::Published(port) => Some(*port),
            Self::Prepared | Self::Standing | Self::Closed(_) => None,
        }
    }

    /// Returns `true` if the compiler has the attachment.
    pub(super) const fn is_compiled(&self) -> bool {
        matches!(self, Self::Compiled(_) | Self::Published(_))
    }
}

/// A *ready* request that is not answered yet.
pub(super) struct PendingReady {
    pub(super) id: u16,
    /// The time at which the request arrived.
    pub(super) since: Instant,
    /// The time at which it is refused.
    pub(super) deadline: Instant,
    /// The version of the tables that have its policy, once they are published.
    pub(super) version: Option<u64>,
    /// The journal's sequence number of the state in which the attachment is ready.
    pub(super) sequence: u64,
    pub(super) reply: Reply<Ready>,
}

impl PendingReady {
    /// Answers with the code for *try again later*.
    pub(super) fn refuse(self, why: &str) {
        self.fail(CniError::new(ErrorCode::TRY_AGAIN_LATER, why));
    }

    /// Answers with an error.
    pub(super) fn fail(self, error: CniError) {
        // The plugin may have ended.
        let _ = self.reply.send(Err(error));
    }
}

/// The attachments: records, stages, and the *ready* requests that wait.
pub(super) struct Attachments {
    pub(super) store: Store,
    stages: BTreeMap<u16, Stage>,
    pub(super) pending: Vec<PendingReady>,
    /// `true` if a stage or a record has changed since the read model was updated.
    pub(super) is_changed: bool,
    /// `true` if an attachment was removed since a sweep was planned: its connections have to go.
    pub(super) is_sweep_due: bool,
}

impl Attachments {
    /// Starts with the records that an earlier agent left.
    pub(super) fn new(store: Store) -> Self {
        let stage = |record: &Record| {
            let stage = if record.ready { Stage::Standing } else { Stage::Prepared };
            (record.id, stage)
        };
        Self {
            stages: store.all().iter().map(stage).collect(),
            store,
            pending: Vec::new(),
            is_changed: true,
            is_sweep_due: false,
        }
    }

    /// Returns the stage of an attachment; `None` if there is no such attachment.
    pub(super) fn stage(&self, id: u16) -> Option<&Stage> {
        self.stages.get(&id)
    }

    /// Returns the open port of an attachment.
    pub(super) fn port(&self, id: u16) -> Option<PodPort> {
        self.stages.get(&id).and_then(Stage::port)
    }

    /// Sets the stage of an attachment.
    pub(super) fn set_stage(&mut self, id: u16, stage: Stage) {
        self.stages.insert(id, stage);
        self.is_changed = true;
    }

    /// Records that an attachment has no port, and when to try again. Returns `false` if it had none before for the same reason.
    pub(super) fn set_closed(&mut self, id: u16, why: String) -> bool {
        let before = match self.stages.get(&id) {
            Some(Stage::Closed(before)) => Some(before),
            _ => None,
        };
        let is_new = before.is_none_or(|before| before.why != why);
        let closed = Closed::after(before, why, Instant::now());
        // The time of the next try is no change that readers see.
        self.is_changed |= is_new;
        self.stages.insert(id, Stage::Closed(closed));
        is_new
    }

    /// Returns the configured attachments without a port whose next try is due.
    pub(super) fn due(&self, now: Instant) -> Vec<Record> {
        let due = |stage: &Stage| matches!(stage, Stage::Closed(closed) if closed.next_try <= now);
        let ids = self.stages.iter().filter(|(_, stage)| due(stage)).map(|(&id, _)| id);
        ids.filter_map(|id| self.store.by_id(id))
            .filter(|record| record.ready)
            .cloned()
            .collect()
    }

    /// Returns `true` if ports of the node lead to an attachment's pod.
    pub(super) fn has_host_ports(&self, id: u16) -> bool {
        self.store
            .by_id(id)
            .is_some_and(|record| !record.port_mappings.is_empty())
    }

    /// Removes an attachment's stage and record, and returns the requests that waited for it.
    pub(super) fn remove(&mut self, id: u16) -> Vec<PendingReady> {
        self.stages.remove(&id);
        self.store.remove(id);
        self.is_changed = true;
        self.is_sweep_due = true;
        self.remove_pending(|pending| pending.id == id)
    }

    /// Removes and returns the waiting requests that a condition holds for.
    pub(super) fn remove_pending(&mut self, condition: impl Fn(&PendingReady) -> bool) -> Vec<PendingReady> {
        let (taken, kept) = std::mem::take(&mut self.pending).into_iter().partition(condition);
        self.pending = kept;
        taken
    }

    /// Returns the attachment that owns a port.
    pub(super) fn id_of_port(&self, port: PortId) -> Option<u16> {
        let mut stages = self.stages.iter();
        stages
            .find(|(_, stage)| stage.port().is_some_and(|open| open.port == port))
            .map(|(id, _)| *id)
    }

    /// Returns the attachments with an open port whose interface is known to be gone. If the kernel cannot be asked, nothing is
    /// known.
    pub(super) fn vanished(&self) -> Vec<Record> {
        let open = self.stages.iter().filter(|(_, stage)| stage.port().is_some());
        open.filter_map(|(&id, _)| self.store.by_id(id))
            .filter(|record| index_of(record).is_ok_and(|index| index != record.host_ifindex))
            .cloned()
            .collect()
    }

    /// Marks the open attachments of pods that have become known as compiled, and returns them for the compiler.
    pub(super) fn compile_known_pods(&mut self, cluster: &Cluster) -> Vec<Compiled> {
        let mut compiled = Vec::new();
        for (&id, stage) in &mut self.stages {
            let Stage::Open(port) = *stage else { continue };
            let Some(record) = self.store.by_id(id).filter(|record| is_known(cluster, record)) else {
                continue;
            };
            compiled.push(Compiled {
                id: EndpointId(id),
                pod: key_of(record),
                addresses: record.addresses.iter().map(|&ip| Ip::from(ip)).take(4).collect(),
                mac: record.mac,
                port: port.port,
                worker: port.worker,
                mtu: u16::try_from(record.mtu).unwrap_or(u16::MAX),
                host_ports: host_ports::of(record),
            });
            *stage = Stage::Compiled(port);
            self.is_changed = true;
        }
        compiled
    }

    /// Records the attachments that have their policy in the newest tables.
    pub(super) fn set_published(&mut self, ready: impl IntoIterator<Item = EndpointId>) {
        let ready: BTreeSet<u16> = ready.into_iter().map(|id| id.0).collect();
        for (id, stage) in &mut self.stages {
            let next = match *stage {
                Stage::Compiled(port) if ready.contains(id) => Stage::Published(port),
                Stage::Published(port) if !ready.contains(id) => Stage::Compiled(port),
                _ => continue,
            };
            *stage = next;
            self.is_changed = true;
        }
    }

    /// Explains why an attachment with an open port does not forward.
    pub(super) fn explain_waiting(&self, cluster: &Cluster, id: u16) -> String {
        let Some(record) = self.store.by_id(id) else {
            return "the attachment was released meanwhile".to_owned();
        };
        if let Some(Stage::Closed(closed)) = self.stage(id) {
            return closed.why.clone();
        }
        match &record.pod {
            Some(pod) if !is_known(cluster, record) => {
                let has_namespace = key_of(record).is_none_or(|key| has_namespace(cluster, &key));
                let what = if has_namespace { "" } else { "the namespace of " };
                format!("{what}pod {pod} is not known yet")
            }
            _ => "not every worker has taken the tables with its policy yet".to_owned(),
        }
    }

    /// Describes every attachment, for `heddle status`.
    pub(super) fn describe_all(&self, cluster: &Cluster) -> Vec<Attachment> {
        let records = self.store.all().iter();
        records.map(|record| self.describe(cluster, record)).collect()
    }

    /// Describes an attachment with its state, for CHECK and `heddle status`.
    pub(super) fn describe(&self, cluster: &Cluster, record: &Record) -> Attachment {
        let (state, why) = match self.stage(record.id) {
            None | Some(Stage::Prepared) => (AttachmentState::Prepared, String::new()),
            Some(Stage::Standing) => (AttachmentState::Waiting, "its port is not open yet".to_owned()),
            Some(Stage::Open(_) | Stage::Compiled(_)) => {
                (AttachmentState::Waiting, self.explain_waiting(cluster, record.id))
            }
            Some(Stage::Published(_)) => (AttachmentState::Forwarding, String::new()),
            Some(Stage::Closed(closed)) => (AttachmentState::Closed, closed.why.clone()),
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
            port_mappings: record.port_mappings.clone(),
            state,
            why,
        }
    }
}

/// Returns `true` if the cluster has the pod that an attachment was made for, and not an earlier pod of the same name, and
/// the pod's namespace, whose labels policies select by. An attachment without a pod counts as known.
fn is_known(cluster: &Cluster, record: &Record) -> bool {
    let (Some(pod), Some(key)) = (&record.pod, key_of(record)) else {
        return true;
    };
    let is_this_pod = |known: &Pod| pod.uid.as_ref().is_none_or(|uid| known.is_uid(uid.as_str()));
    has_namespace(cluster, &key) && cluster.pod(&key).is_some_and(|known| is_this_pod(known))
}

/// Returns `true` if the object of a pod's namespace is known. A cluster without any Namespace is a folder that leaves them
/// out.
fn has_namespace(cluster: &Cluster, key: &ObjectKey) -> bool {
    cluster.namespace(&key.namespace).is_some() || cluster.count(Kind::Namespace) == 0
}

/// Returns the key of an attachment's pod.
fn key_of(record: &Record) -> Option<ObjectKey> {
    let pod = record.pod.as_ref()?;
    Some(ObjectKey::new(pod.namespace.as_str(), pod.name.as_str()))
}

/// Returns the index that the attachment's interface has now; `None` if there is no such interface.
///
/// # Errors
/// The kernel could not be asked, which says nothing about the interface.
pub(super) fn index_of(record: &Record) -> Result<Option<u32>, HostError> {
    links::index(record.host_ifname.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_port_is_tried_again_ever_later_but_never_given_up() {
        let now = Instant::now();
        let mut closed = Closed::after(None, "down".to_owned(), now);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            pauses.push((closed.next_try - now).as_secs());
            closed = Closed::after(Some(&closed), "down".to_owned(), now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 8, 8]);
    }
}
