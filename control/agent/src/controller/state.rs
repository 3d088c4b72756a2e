//! The controller's state: its parts, the queues that it reads, and the state that belongs to no part.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::{Receiver, Sender, unbounded};
use heddle_config::{ObjectSource, Settings};
use heddle_flow::Takeover;
use heddle_host::external_aliases::ExternalAliases;
use heddle_model::Kept;
use heddle_source::Batch;
use heddle_source::kube::Reporter;
use tokio::runtime::Handle;

use super::attachments::{Attachments, Closed};
use super::cni_answers::{DeletedStale, HeldAnswer};
use super::error::ControllerError;
use super::groups::Groups;
use super::host::HostReconciler;
use super::host_ports::HostPorts;
use super::journal::Journal;
use super::objects::Objects;
use super::publication::Publication;
use super::uplink_ports::UplinkPorts;
use crate::api::Request;
use crate::attachments::Store;
use crate::health::HealthChecks;
use crate::kept::KeptFile;
use crate::read_model::{ReadModel, UplinkView, View};
use crate::saved_cluster::Saver;
use crate::workers::Workers;

/// The inputs of [`Controller::new`].
pub struct Parts {
    /// The configuration.
    pub settings: Settings,
    /// The attachments that the state directory records.
    pub store: Store,
    /// The file of last good versions in the state directory, and the versions that an earlier agent kept there.
    pub kept: (KeptFile, Kept),
    /// The workers and their ports.
    pub workers: Workers,
    /// The outcome of the flow table's takeover.
    pub takeover: Takeover,
    /// The runtime that serves the health checks' sockets.
    pub runtime: Handle,
    /// Batches of events from the source of objects.
    pub events: Receiver<Batch>,
    /// Requests of the CNI socket.
    pub requests: Receiver<Request>,
    /// A message, or the end of the channel, ends the controller.
    pub stop: Receiver<()>,
}

/// The controller: its parts, and the state that belongs to none of them.
///
/// One thread owns it. The modules beside this one add the methods, each for one task.
pub struct Controller {
    pub(super) settings: Settings,
    pub(super) events: Receiver<Batch>,
    pub(super) requests: Receiver<Request>,
    pub(super) stop: Receiver<()>,

    pub(super) workers: Workers,
    pub(super) takeover: Takeover,
    pub(super) objects: Objects,
    pub(super) attachments: Attachments,
    /// The groups of the attachments' namespaces, for the flow table's quotas.
    pub(super) groups: Groups,
    /// `None` until every kind of object has synced.
    pub(super) publication: Option<Publication>,
    pub(super) host: HostReconciler,
    /// The reason for which a queue of the host port is not open, and the next try.
    pub(super) closed_host: Option<Closed>,
    pub(super) uplink_ports: UplinkPorts,
    /// The ports at which the node's processes reach load balancer and external addresses that the node itself holds.
    pub(super) external_aliases: ExternalAliases,
    /// The ports of the node that lead to attached pods.
    pub(super) host_ports: HostPorts,
    pub(super) journal: Journal,
    /// Saves the cluster for the next start; `None` for a folder, which is there at the next start too.
    pub(super) saver: Option<Saver>,
    /// Writes to the API server, if the source is one.
    pub(super) reporter: Option<Reporter>,
    /// Answers that wait until the journal has written their state.
    pub(super) held: Vec<HeldAnswer>,
    pub(super) deleted_stale_in: Sender<DeletedStale>,
    /// *Prepare* requests whose earlier interface the host task has deleted.
    pub(super) deleted_stale: Receiver<DeletedStale>,
    /// The deadline for finding the uplink; `None` until every kind of object has synced, and again afterwards.
    pub(super) waits_for_uplink_until: Option<Instant>,
    pub(super) health: HealthChecks,
    /// Ports of health checks that could not be opened. Each is logged once.
    pub(super) health_failures: BTreeSet<u16>,
    pub(super) read_model: Arc<ReadModel>,
    /// `true` since the moment at which the agent was ready.
    pub(super) was_ready: bool,
    /// `true` if tables or ports have changed since the read model was updated.
    pub(super) view_is_stale: bool,
}

impl Controller {
    /// Starts the host task, which creates the host port or takes it over, and the journal. `run` calls it in the
    /// agent's network namespace before [`Controller::run`].
    ///
    /// # Errors
    /// The kernel refuses the host port, or a thread cannot be started.
    pub fn new(parts: Parts) -> Result<Self, ControllerError> {
        let Parts {
            settings,
            store,
            kept: (kept_file, kept),
            workers,
            takeover,
            runtime,
            events,
            requests,
            stop,
        } = parts;
        let objects = Objects::new(&settings.node, &kept, store.own_node().cloned());
        let (deleted_stale_in, deleted_stale) = unbounded();
        let host = HostReconciler::start(&settings)?;
        let read_model = Arc::new(ReadModel::new(
            settings.clone(),
            takeover,
            objects.shared(),
            host.watch_status(),
            &workers,
        ));
        let host_status = host.watch_status();
        let saver = match &settings.source {
            ObjectSource::Manifests(_) => None,
            ObjectSource::ApiServer { .. } => Some(Saver::start(&settings.state_dir, {
                let read_model = Arc::clone(&read_model);
                move || read_model.saved_cluster()
            })?),
        };
        let mut controller = Self {
            host,
            closed_host: None,
            uplink_ports: UplinkPorts::default(),
            settings,
            events,
            requests,
            stop,
            workers,
            takeover,
            objects,
            attachments: Attachments::new(store),
            groups: Groups::default(),
            publication: None,
            external_aliases: ExternalAliases::default(),
            host_ports: HostPorts::default(),
            journal: Journal::start(kept_file)?,
            saver,
            reporter: None,
            held: Vec::new(),
            deleted_stale_in,
            deleted_stale,
            waits_for_uplink_until: None,
            health: HealthChecks::new(runtime, host_status),
            health_failures: BTreeSet::new(),
            read_model,
            was_ready: false,
            view_is_stale: true,
        };
        controller.update_read_model();
        Ok(controller)
    }

    /// Returns the read model, which answers queries while the controller runs.
    #[must_use]
    pub fn read_model(&self) -> Arc<ReadModel> {
        Arc::clone(&self.read_model)
    }

    /// Shows readers whether an ADD can be served: the agent was ready once, and CNI STATUS succeeds.
    pub(super) fn show_can_add(&self) {
        let can_add = match self.readiness() {
            Ok(_) if !self.was_ready => Err("not every worker has the first tables yet".to_owned()),
            Ok(_) => Ok(()),
            Err(e) => Err(e.msg),
        };
        self.read_model.set_can_add(can_add);
    }

    /// Hands the read model the acknowledged version, and a new view if the state that readers see has changed.
    pub(super) fn update_read_model(&mut self) {
        let acknowledged = self.workers.acknowledged();
        self.read_model.set_acknowledged(acknowledged);
        for time in self
            .objects
            .change_times
            .take_acknowledged(acknowledged, Instant::now())
        {
            self.read_model.add_change_time(time);
        }
        let attachments_changed = std::mem::take(&mut self.attachments.is_changed);
        if !std::mem::take(&mut self.view_is_stale) && !attachments_changed {
            return;
        }
        self.host.set_ports(self.workers.port_links());
        let publication = self.publication.as_ref();
        self.read_model.update(View {
            snapshot: self.workers.newest().cloned(),
            synced_at: publication.map(|p| p.synced_at),
            published_at: publication.map(|p| p.published_at),
            compiled: publication.map_or((0, 0), |p| (p.compiler.identity_count(), p.compiler.policy_count())),
            attachments: self.attachments.describe_all(&self.objects.cluster()),
            state_not_kept: self.journal.why_not_kept().map(str::to_owned),
            ports: self.workers.ports().map(|(port, info)| (port, info.clone())).collect(),
            uplink: UplinkView {
                mode: self.workers.uplink().map(|(.., mode)| mode),
                closed: self.uplink_ports.closed.as_ref().map(|closed| closed.why.clone()),
            },
        });
    }
}
