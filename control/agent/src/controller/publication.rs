//! Publication: the compiler, the version published last, and the work that waits for the workers' acknowledgement.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use heddle_compile::{BuildResult, Compiler, NodeConfig};
use heddle_host::external_aliases::{self, ExternalAliases};
use heddle_host::frontends::ExternalFrontend;
use heddle_model::{Cluster, NodeFacts};
use heddle_tables::{FrontendKey, NodeId};
use heddle_wire::{Ip, MacAddr, Proto};

use super::objects::NewObjects;

/// The longest time for which tables wait for the host port, and an ADD with host ports for its answer. `nft` takes some 20 ms; a slow
/// one delays them no longer than this, and no tables that an ADD waits for.
pub(super) const WAIT_FOR_HOST: Duration = Duration::from_millis(500);

/// The compiler and the state of publication. It exists once every kind of object has synced.
pub(super) struct Publication {
    pub(super) compiler: Compiler,
    /// The time at which every kind of object had synced.
    pub(super) synced_at: Instant,
    /// The time of the last publication.
    pub(super) published_at: Instant,
    /// `true` if tables were published and the host port's queues are open.
    pub(super) has_published: bool,
    /// `true` if an attachment, the host port or the uplink has changed since the last build.
    pub(super) is_changed: bool,
    /// The deadline until which the next tables wait for the host port to have the addresses that they contain.
    pub(super) waits_for_host_until: Option<Instant>,
    /// The version of the tables that every worker must have before the flow table is swept. Until then a worker may
    /// still choose a backend that was removed.
    pub(super) sweep_after: Option<u64>,
    /// The time before which no further sweep begins.
    pub(super) next_sweep: Instant,
    /// The address of each family at which external frontends have aliases in the compiler.
    alias_addresses: [Option<IpAddr>; 2],
    /// The differences that were logged, so that each is logged once.
    known_differences: BTreeSet<String>,
}

impl Publication {
    /// Creates the compiler.
    pub(super) fn new(config: NodeConfig) -> Self {
        Self {
            compiler: Compiler::new(config),
            synced_at: Instant::now(),
            published_at: Instant::now(),
            has_published: false,
            is_changed: true,
            waits_for_host_until: None,
            sweep_after: None,
            next_sweep: Instant::now(),
            alias_addresses: [None; 2],
            known_differences: BTreeSet::new(),
        }
    }

    /// Hands the compiler the changed objects, or all objects, the node's facts and the host port's MAC address.
    pub(super) fn apply_changes(
        &mut self,
        cluster: &Cluster,
        changes: &NewObjects,
        facts: &NodeFacts,
        host_mac: MacAddr,
    ) {
        match changes {
            NewObjects::All => self.compiler.apply_all(cluster, facts),
            NewObjects::Changed(changes) => self.compiler.apply_changes(cluster, changes, facts),
        }
        self.compiler.set_host_mac(host_mac);
        self.is_changed |= !changes.is_empty();
    }

    /// Hands the compiler the changed aliases of external frontends, or all aliases if their addresses `at` have changed.
    pub(super) fn set_external_aliases(
        &mut self,
        cluster: &Cluster,
        at: [Option<IpAddr>; 2],
        aliases: &ExternalAliases,
        changed: Vec<(ExternalFrontend, Option<u16>)>,
    ) {
        let changed: Vec<(ExternalFrontend, Option<u16>)> = if at == self.alias_addresses {
            changed
        } else {
            self.alias_addresses = at;
            let all = aliases.all().iter().map(|(frontend, port)| (*frontend, Some(*port)));
            let removed = changed.into_iter().filter(|(_, port)| port.is_none());
            removed.chain(all).collect()
        };
        let keys = changed.into_iter().map(|(frontend, port)| {
            let key = |ip: IpAddr, port| FrontendKey {
                ip: ip.into(),
                proto: Proto(frontend.protocol.number()),
                port,
            };
            let at = external_aliases::of_family(at, frontend.ip);
            (
                key(frontend.ip, frontend.port),
                at.zip(port).map(|(at, port)| key(at, port)),
            )
        });
        self.compiler.set_aliases(cluster, keys);
    }

    /// Makes the next tables wait for the host port.
    pub(super) fn wait_for_host(&mut self) {
        self.waits_for_host_until
            .get_or_insert_with(|| Instant::now() + WAIT_FOR_HOST);
    }

    /// Compiles the changes since the last build.
    pub(super) fn build(&mut self) -> BuildResult {
        self.is_changed = false;
        self.waits_for_host_until = None;
        self.compiler.rebuild()
    }

    /// Logs each pod whose status names other addresses than its attachment has, once.
    pub(super) fn log_differences(&mut self) {
        let shown = |ips: &BTreeSet<Ip>| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let now: BTreeSet<String> = self
            .compiler
            .address_differences()
            .into_iter()
            .map(|d| {
                format!(
                    "pod {}: its attachment has {}, its status has {}",
                    d.pod,
                    shown(&d.attached),
                    shown(&d.status)
                )
            })
            .collect();
        for new in now.difference(&self.known_differences) {
            tracing::warn!("{new}; heddle uses the attachment's addresses");
        }
        self.known_differences = now;
    }
}

/// Converts the node ids of the state file to the compiler's types.
pub(super) fn node_ids(kept: &BTreeMap<String, u16>) -> BTreeMap<Arc<str>, NodeId> {
    kept.iter()
        .map(|(name, id)| (Arc::from(name.as_str()), NodeId(*id)))
        .collect()
}
