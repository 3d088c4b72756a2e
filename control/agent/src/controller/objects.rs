//! From changed objects to published tables, and to the host port.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use heddle_compile::{Compiler, NodeConfig, ReservedAddresses};
use heddle_model::{Change, pod_range};
use heddle_tables::{FrontendKey, HostPort as HostTable, Masquerade, NodeId, Prefix};
use heddle_wire::{Ip, Proto};
use ipnet::IpNet;

use super::pod_routes::Ranges;
use super::{Controller, ControllerError};
use crate::health;
use heddle_host::external_aliases;
use heddle_host::frontends::{ExternalFrontend, Frontends};
use heddle_host::plan::{self, Inputs};

impl Controller {
    /// Works off what has changed since the last time: tables, publication, host port.
    pub(super) fn reconcile(&mut self) -> Result<(), ControllerError> {
        if self.pending.rejections {
            self.log_rejections();
        }
        if self.compiler.is_none() && !self.cluster.is_synced() {
            return Ok(());
        }
        let external_ips = self.settings.external_ips;
        let external_aliases = self.external_aliases.follow(&self.cluster, &self.pending, external_ips);
        if self.compiler.is_none() {
            self.look_at_uplink();
            self.compiler = Some(Compiler::new(self.node_config()));
            self.synced_at = Some(Instant::now());
            self.dirty = true;
            self.apply_plan();
            // Pods' ports before the tables that name them; what comes in between is dropped.
            self.take_over_ports();
            tracing::info!(node = self.settings.node, "every kind of object has synced");
        }
        let changes = std::mem::take(&mut self.pending);
        if changes.is_empty() && !self.dirty {
            return Ok(());
        }
        let first = self.dirty && self.workers.published() == 0;
        let (host, masquerade) = self.host_tables();
        if let Some(compiler) = &mut self.compiler {
            compiler.apply_changes(&self.cluster, &changes);
            compiler.set_host_port(host);
            compiler.set_masquerade(masquerade);
        }
        self.set_external_aliases(external_aliases);
        self.attach_known_pods();
        if !first && changes.objects.iter().any(concerns_host) {
            // Before the tables: a worker that answers an address of the host port finds it there.
            self.apply_plan();
        }
        self.build(first);
        if first
            || changes
                .objects
                .iter()
                .any(|change| health::concerns(&self.cluster, change))
        {
            self.check_health();
        }
        self.dirty = false;
        if first {
            // The host's queues have fixed numbers: nothing comes in by them before there are tables.
            self.open_host()?;
        }
        Ok(())
    }

    /// Tells the compiler where frontends at load balancer and external addresses are reached too, and that some are not.
    fn set_external_aliases(&mut self, news: Vec<(ExternalFrontend, Option<u16>)>) {
        let at = pod_range::external_alias_addresses(&self.pod_ranges());
        let Some(compiler) = &mut self.compiler else { return };
        let news: Vec<(ExternalFrontend, Option<u16>)> = if at == self.external_alias_addresses {
            news
        } else {
            self.external_alias_addresses = at;
            let all = self
                .external_aliases
                .all()
                .iter()
                .map(|(outer, port)| (*outer, Some(*port)));
            news.into_iter().filter(|(_, port)| port.is_none()).chain(all).collect()
        };
        let keys = news.into_iter().map(|(outer, port)| {
            let key = |ip: IpAddr, port| FrontendKey {
                ip: ip.into(),
                proto: Proto(outer.protocol.number()),
                port,
            };
            let at = external_aliases::of_family(at, outer.ip);
            (key(outer.ip, outer.port), at.zip(port).map(|(at, port)| key(at, port)))
        });
        compiler.set_aliases(&self.cluster, keys);
    }

    fn build(&mut self, first: bool) {
        let Some(compiler) = &mut self.compiler else { return };
        let built = compiler.rebuild();
        self.ready = built.ready.into_iter().collect();
        if !built.node_ids.is_empty() {
            let numbers = built
                .node_ids
                .into_iter()
                .map(|(name, number)| (name.to_string(), number.0));
            if let Err(e) = self.store.keep_node_numbers(numbers) {
                tracing::error!(
                    "numbers of nodes are not kept, connections with them are judged anew after a restart: {e}"
                );
            }
        }
        if built.changed || first {
            tracing::debug!(
                version = built.snapshot.version(),
                pages = built.pages_copied,
                endpoints_raised = built.raised.len(),
                "tables are published"
            );
            self.workers.publish(built.snapshot);
            self.published_at = Instant::now();
        }
        self.log_differences();
        if first || built.new_frontends || !built.removed_backends.is_empty() {
            self.sweep_after = Some(self.workers.published());
        }
    }

    /// Pods whose status names other addresses than their attachments have: told once.
    fn log_differences(&mut self) {
        let Some(compiler) = &self.compiler else { return };
        let shown = |ips: &BTreeSet<Ip>| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let now: BTreeSet<String> = compiler
            .address_differences()
            .into_iter()
            .map(|d| {
                format!(
                    "pod {}: attached with {}, its status says {}",
                    d.pod,
                    shown(&d.attached),
                    shown(&d.status)
                )
            })
            .collect();
        for new in now.difference(&self.known_differences) {
            tracing::warn!("{new}; the attachment's addresses count");
        }
        self.known_differences = now;
    }

    fn log_rejections(&mut self) {
        let now: BTreeSet<String> = self.cluster.rejections().map(ToString::to_string).collect();
        for new in now.difference(&self.known_rejections) {
            tracing::warn!("refused: {new}");
        }
        for gone in self.known_rejections.difference(&now) {
            tracing::info!("no longer refused: {gone}");
        }
        self.known_rejections = now;
    }

    /// This node's pod ranges.
    pub(super) fn pod_ranges(&self) -> Vec<IpNet> {
        self.cluster
            .node(&self.settings.node)
            .map(|node| node.pod_cidrs.clone())
            .unwrap_or_default()
    }

    fn node_config(&self) -> NodeConfig {
        let (host, masquerade) = self.host_tables();
        NodeConfig {
            host,
            host_port: heddle_port::PortId(0),
            masquerade,
            local_mtu: self.settings.pod_mtu,
            uplink: self.uplink_mtu(),
            service_cidrs: self.settings.service_cidrs.iter().map(|&range| prefix(range)).collect(),
            external_ips: self.settings.external_ips,
            node_ids: self
                .store
                .node_numbers()
                .iter()
                .map(|(name, number)| (Arc::from(name.as_str()), NodeId(*number)))
                .collect(),
            ..NodeConfig::named(self.settings.node.as_str())
        }
    }

    /// What the tables say of the host port, from the node's pod ranges.
    fn host_tables(&self) -> (HostTable, Masquerade) {
        let ReservedAddresses { host, masquerade } = ReservedAddresses::of(&self.pod_ranges());
        let reserved = self.settings.reserved_ports;
        let masquerade = Masquerade {
            addresses: masquerade,
            ports: (reserved.first, reserved.last),
        };
        (
            HostTable {
                mac: self.host.mac(),
                addresses: host,
            },
            masquerade,
        )
    }

    /// The pod ranges of all nodes.
    fn node_ranges(&self) -> BTreeSet<IpNet> {
        let ranges = self.cluster.nodes().flat_map(|node| node.pod_cidrs.iter().copied());
        ranges.collect()
    }

    /// The ranges of ServiceCIDR objects.
    fn service_objects(&self) -> BTreeSet<IpNet> {
        let ranges = self.cluster.service_cidrs();
        ranges.flat_map(|range| range.cidrs.iter().copied()).collect()
    }

    /// Every Service's address.
    fn service_addresses(&self) -> BTreeSet<IpAddr> {
        let services = self.cluster.services();
        services
            .flat_map(|service| service.cluster_ips.get().iter().copied())
            .collect()
    }

    /// What a pod's routes are made of now.
    pub(super) fn route_ranges(&self) -> Ranges {
        Ranges {
            own: self.pod_ranges().into_iter().collect(),
            cluster: self
                .node_ranges()
                .into_iter()
                .chain(self.settings.cluster_cidrs.iter().copied())
                .collect(),
            services: plan::service_ranges(
                &self.settings.service_cidrs,
                &self.service_objects(),
                &self.service_addresses(),
            ),
        }
    }

    /// Brings the ports of health checks to what the objects ask for.
    fn check_health(&mut self) {
        let failed = self.health.serve(health::wanted(&self.cluster, &self.settings.node));
        for (port, error) in &failed {
            if !self.health_failures.contains(port) {
                tracing::error!(
                    "healthCheckNodePort {port} cannot be served, load balancers take this node for one without endpoints: {error}; it is tried again with the next change of a Service or its endpoints"
                );
            }
        }
        self.health_failures = failed.into_iter().map(|(port, _)| port).collect();
    }

    /// Brings the host port to what the objects ask for.
    pub(super) fn apply_plan(&mut self) {
        let Some(node) = self.cluster.node(&self.settings.node) else {
            return;
        };
        let node_ranges = self.node_ranges();
        let service_objects = self.service_objects();
        let service_addresses = self.service_addresses();
        let mut frontends = Frontends::default();
        self.cluster
            .services()
            .for_each(|service| frontends.add(service, self.settings.external_ips));
        let nodes = self.cluster.nodes();
        let node_addresses = nodes.flat_map(|n| n.internal_ips.iter().chain(&n.external_ips).copied());
        let node_addresses = node_addresses.collect();
        let wanted = plan::compute(&Inputs {
            node,
            node_ranges: &node_ranges,
            cluster_cidrs: &self.settings.cluster_cidrs,
            service_cidrs: &self.settings.service_cidrs,
            service_objects: &service_objects,
            service_addresses: &service_addresses,
            frontends: &frontends,
            external_aliases: self.external_aliases.all(),
            node_addresses: &node_addresses,
            mtu: self.uplink_mtu().direct,
            reserved_ports: self.settings.reserved_ports.ports(),
        });
        if self.plan.as_ref() == Some(&wanted) {
            return;
        }
        let failures = self.runtime.block_on(self.host.apply(&wanted));
        // What failed is tried again with the next change of an object.
        self.plan = failures.is_empty().then_some(wanted);
        let failures: BTreeSet<String> = failures.into_iter().map(|e| e.to_string()).collect();
        for new in failures.difference(&self.plan_failures) {
            tracing::error!("the host port: {new}");
        }
        self.plan_failures = failures;
    }
}

/// Whether a change can reach the host port: pods and policies, most of all changes, cannot.
const fn concerns_host(change: &Change) -> bool {
    matches!(change, Change::Node(_) | Change::Service(_) | Change::ServiceCidr(_))
}

fn prefix(range: IpNet) -> Prefix {
    Prefix::new(Ip::from(range.network()), range.prefix_len())
}
