//! Reconciliation: carries everything that has changed to the tables, the kernel and the health-check ports.

use std::time::{Duration, Instant};

use heddle_compile::{NodeConfig, TunnelConfig, prefixes};

use super::error::ControllerError;
use super::host::HostChange;
use super::objects::{NewObjects, concerns_host};
use super::publication::{self, Publication};
use super::state::Controller;
use crate::health;

/// The longest time for which the first tables wait for the host task to find the uplink, whose MTU they contain.
const WAIT_FOR_UPLINK: Duration = Duration::from_millis(500);

impl Controller {
    /// Carries everything that has changed since the last call to the tables, the kernel and the health-check ports.
    ///
    /// The steps, with the reasons for their order:
    ///
    /// 1. Log and report rejections, even while nothing is published. The last good versions of refused objects are kept on
    ///    disk once every kind has synced: what an earlier agent kept counts until then. The cluster of an API server is saved then, too.
    /// 2. The first time: create the compiler, and open the earlier agent's ports before tables are published that name
    ///    them. Packets that arrive in between are dropped.
    /// 3. Hand the host task its plan. It works beside this thread, and the tables wait for it (step 6).
    /// 4. Hand the compiler the changed objects, ...
    /// 5. ... and then the attachments of pods that have become known, so that both are in the same tables.
    /// 6. Publish the tables. They contain the addresses of the host port, so they wait until the host task has set them;
    ///    but only for a bounded time, and not if an ADD waits for the tables.
    /// 7. Open the host port's queues and the uplink after the first tables, so that no packet arrives by them earlier. Then tell the
    ///    uplink's program which packets are heddle's: after the tables with which the workers know them.
    /// 8. Update the health checks last: a load balancer must see an endpoint only when its traffic is forwarded.
    pub(super) fn reconcile(&mut self) -> Result<(), ControllerError> {
        if self.objects.log_rejections()
            && let Some(reporter) = &self.reporter
        {
            reporter.set_refusals(self.objects.cluster().rejections());
        }
        let is_first = self.publication.is_none();
        let has_other_facts = self.update_facts();
        if is_first && !self.start_publication() {
            return Ok(());
        }
        let changes = self.objects.drain_changes();
        if changes.may_change_rejections() {
            self.journal.keep(self.objects.cluster().kept());
        }
        if let Some(saver) = &self.saver
            && (changes.may_change_rejections() || changes.any(|_| true))
        {
            saver.mark_changed();
        }
        let has_other_host_ports = self.host_ports.update(&self.attachments.store);
        let is_changed =
            has_other_facts || has_other_host_ports || self.publication.as_ref().is_some_and(|p| p.is_changed);
        if changes.is_empty() && !is_changed {
            return Ok(());
        }
        self.feed_compiler_and_host(&changes, has_other_facts || has_other_host_ports);
        self.attach_known_pods();
        if self.publish() {
            self.open_ports_once()?;
            self.steer();
        }
        self.serve_health_checks(&changes);
        Ok(())
    }

    /// Creates the compiler and opens the earlier agent's ports, once every kind of object has synced and the uplink is
    /// known or its deadline has passed. Returns `false` while it waits for them.
    fn start_publication(&mut self) -> bool {
        if !self.objects.is_synced() {
            return false;
        }
        self.host
            .set_node_addresses(self.objects.facts().internal_ips().to_vec());
        let deadline = *self
            .waits_for_uplink_until
            .get_or_insert_with(|| Instant::now() + WAIT_FOR_UPLINK);
        if self.host.uplink().is_none() && Instant::now() < deadline {
            return false;
        }
        self.waits_for_uplink_until = None;
        self.host.warn_without_uplink();
        let settings = &self.settings;
        self.publication = Some(Publication::new(NodeConfig {
            host_mac: self.host.link().mac,
            local_addresses: self.host.addresses(),
            host_port: heddle_port::PortId(0),
            masquerade_ports: (settings.reserved_ports.first, settings.reserved_ports.last),
            local_mtu: settings.pod_mtu,
            uplink: self.objects.uplink_mtu(&self.settings, self.host.uplink()),
            service_cidrs: prefixes(&settings.service_cidrs),
            unmasqueraded: prefixes(&settings.non_masquerade_cidrs),
            external_ips: settings.external_ips,
            external_forwarding: settings.external_forwarding,
            tunnel: TunnelConfig {
                mode: settings.tunnel,
                network: settings.vxlan,
            },
            flannel: settings.flannel_annotations,
            node_ids: publication::node_ids(self.attachments.store.node_ids()),
            ..NodeConfig::named(settings.node.as_str())
        }));
        self.take_over_ports();
        tracing::info!(node = self.settings.node, "every kind of object has synced");
        true
    }

    /// Computes the node's facts. Returns `true` if they have changed. A new version of the node's object is recorded for an agent
    /// that starts while it is missing; the journal logs a failed write.
    fn update_facts(&mut self) -> bool {
        let store = &mut self.attachments.store;
        if !self.objects.update_facts(store) {
            return false;
        }
        if let Some(node) = &self.objects.facts().node
            && store.own_node() != Some(node)
        {
            store.set_own_node(node);
            self.journal.save(store);
        }
        if self.was_ready {
            self.report_node();
        }
        true
    }

    /// Hands the changed objects to the host task and to the compiler. With other facts of the node or other host ports, the host
    /// task's plan may be another one, whatever the changes are.
    fn feed_compiler_and_host(&mut self, changes: &NewObjects, is_node_changed: bool) {
        let plans_anew = is_node_changed || matches!(changes, NewObjects::All);
        let changed_aliases = {
            let (cluster, external_ips) = (self.objects.cluster(), self.settings.external_ips);
            let aliases = &mut self.external_aliases;
            let mut changed = if is_node_changed {
                aliases.set_host_ports(&cluster, &self.host_ports.at_addresses, external_ips)
            } else {
                Vec::new()
            };
            changed.extend(match changes {
                NewObjects::All => aliases.apply_changes(&cluster, cluster.all_changes(), external_ips),
                NewObjects::Changed(changes) => aliases.apply_changes(&cluster, &changes.objects, external_ips),
            });
            changed
        };
        if plans_anew || changes.any(concerns_host) {
            self.plan_host();
            self.set_host_nodes();
            self.uplink_ports.is_steering_stale = true;
        }
        let (cluster, facts) = (self.objects.cluster(), self.objects.facts());
        if let Some(publication) = &mut self.publication {
            if is_node_changed {
                let mtu = self.objects.uplink_mtu(&self.settings, self.host.uplink());
                publication.compiler.set_uplink_mtu(mtu);
            }
            publication.apply_changes(&cluster, changes, facts, self.host.link().mac);
            publication.set_external_aliases(&cluster, facts.alias_addresses, &self.external_aliases, changed_aliases);
            publication.is_changed |= plans_anew;
        }
    }

    /// Hands the host task the plan that follows from the objects. The next tables wait for a plan that is not applied.
    fn plan_host(&mut self) {
        self.host
            .set_node_addresses(self.objects.facts().internal_ips().to_vec());
        let plan = self.objects.host_plan(
            &self.settings,
            &self.external_aliases,
            &self.host_ports,
            self.host.uplink(),
        );
        if let Some(plan) = plan {
            self.host.set_plan(plan);
        }
        if !self.host.has_tried_newest_plan()
            && let Some(publication) = &mut self.publication
        {
            publication.wait_for_host();
        }
    }

    /// Hands the compiler the attachments whose pods have become known.
    fn attach_known_pods(&mut self) {
        let Some(publication) = &mut self.publication else {
            return;
        };
        let cluster = self.objects.cluster();
        for attachment in self.attachments.compile_known_pods(&cluster) {
            // Before the pod's first packet, so that its connections count in its namespace from the first one on.
            let group = self.groups.of(attachment.pod.as_ref().map(|pod| &*pod.namespace));
            self.workers.flows().set_group(attachment.id, group);
            publication.compiler.attach(attachment);
            publication.is_changed = true;
        }
    }

    /// Builds and publishes the tables. Returns `false` while they wait for the host task.
    fn publish(&mut self) -> bool {
        let Some(publication) = &mut self.publication else {
            return false;
        };
        // Wait for the host task while that is allowed; the flag makes the next reconciliation come back here.
        let may_wait = self.attachments.pending.is_empty() && !self.host.has_tried_newest_plan();
        if may_wait
            && publication
                .waits_for_host_until
                .is_some_and(|until| Instant::now() < until)
        {
            publication.is_changed = true;
            return false;
        }
        // Compile, and record which attachments have their policy in the result.
        let is_first = !publication.has_published;
        let built = publication.build();
        self.attachments.set_published(built.ready);
        if !built.node_ids.is_empty() {
            // The journal logs a failed write. Connections with these nodes are then revalidated after a restart.
            let ids = built.node_ids.into_iter().map(|(name, id)| (name.to_string(), id.0));
            self.attachments.store.add_node_ids(ids);
            self.journal.save(&mut self.attachments.store);
        }
        self.view_is_stale = true;
        // Unchanged tables are not published, except the first ones: the workers have none until then.
        if built.changed || is_first {
            tracing::debug!(
                version = built.snapshot.version(),
                pages = built.pages_copied,
                endpoints_raised = built.raised.len(),
                "published tables"
            );
            self.workers.publish(built.snapshot);
            publication.published_at = Instant::now();
        }
        // The time of a change counts if the workers needed other tables for it.
        if built.changed && !is_first {
            self.objects.change_times.set_published(self.workers.published());
        } else {
            self.objects.change_times.forget_applied();
        }
        publication.log_differences();
        // Connections that Services no longer lead to their backends, and connections of attachments that are gone, are swept once
        // all workers have these tables.
        let attachments_gone = std::mem::take(&mut self.attachments.is_sweep_due);
        if is_first || attachments_gone || built.new_frontends || !built.removed_backends.is_empty() {
            publication.sweep_after = Some(self.workers.published());
        }
        true
    }

    /// Opens the host port's queues and the uplink after the first tables.
    fn open_ports_once(&mut self) -> Result<(), ControllerError> {
        if let Some(publication) = &mut self.publication
            && !publication.has_published
        {
            publication.has_published = true;
            self.open_host()?;
            self.follow_underlay();
        }
        Ok(())
    }

    /// Opens and closes the ports of health checks, if a change concerns them.
    fn serve_health_checks(&mut self, changes: &NewObjects) {
        let cluster = self.objects.cluster();
        if !changes.any(|change| health::concerns(&cluster, change)) {
            return;
        }
        let failed = self.health.serve(health::checks_of_node(&cluster, &self.settings.node));
        for (port, error) in &failed {
            if !self.health_failures.contains(port) {
                tracing::error!(
                    "healthCheckNodePort {port} cannot be served: {error}. Load balancers see this node as one without \
                     endpoints. The next change of a Service or its endpoints tries again"
                );
            }
        }
        self.health_failures = failed.into_iter().map(|(port, _)| port).collect();
    }

    /// Records a report of the host task and applies its consequence to the tables and the host port's queues.
    pub(super) fn record_host_report(&mut self, report: heddle_host::Report) -> Result<(), ControllerError> {
        let change = self.host.record(report);
        // Before the first tables nothing depends on the host port.
        let Some(publication) = &mut self.publication else {
            return Ok(());
        };
        match change {
            HostChange::Nothing => {}
            HostChange::Uplink => {
                let mtu = self.objects.uplink_mtu(&self.settings, self.host.uplink());
                publication.is_changed |= publication.compiler.set_uplink_mtu(mtu);
                self.plan_host();
            }
            HostChange::Addresses => {
                publication.is_changed |= publication.compiler.set_local_addresses(self.host.addresses());
                self.uplink_ports.is_steering_stale = true;
            }
            HostChange::Underlay => self.follow_underlay(),
            HostChange::Link => publication.is_changed = true,
            HostChange::ProgramsLost(links) => {
                for link in &links {
                    // The host task reports it again until it is attached.
                    match self.workers.attach_again(link) {
                        Ok(()) => tracing::warn!(
                            interface = link.name,
                            "repaired: the XDP program was removed from the interface of a port: attached again"
                        ),
                        Err(e) => tracing::error!("cannot attach the XDP program again: {e}"),
                    }
                }
            }
            HostChange::LinksGone => self.close_vanished(),
            HostChange::Recreated => {
                // The old queues belong to an interface that is gone.
                publication.is_changed = true;
                if publication.has_published {
                    self.workers.close_host()?;
                    self.open_host()?;
                }
            }
        }
        Ok(())
    }
}
