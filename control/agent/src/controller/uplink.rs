//! The uplink: its ports are opened when the node's interface is known, closed when it is gone, and opened again. The compiler gets
//! the network between the nodes as the host task sees it, and the uplink's program gets the packets that are heddle's.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use heddle_compile::{Underlay, UnderlayRoute};
use heddle_host::UplinkFacts;
use heddle_io::uplink::Steering;
use heddle_model::Cluster;
use heddle_model::flannel::FlannelNode;
use heddle_tables::{FrontendKind, NodeId, Snapshot, TunnelMode, Uplink};
use heddle_wire::{Ip, MacAddr};
use ipnet::IpNet;

use super::attachments::Closed;
use super::state::Controller;

/// The longest time for which an agent that is ready otherwise waits for the uplink.
const WAIT_FOR_UPLINK: Duration = Duration::from_millis(500);

impl Controller {
    /// Opens or closes the uplink's ports, as the host task's newest report says, and hands the compiler the network between the
    /// nodes. Before the first tables nothing is opened, because packets would arrive.
    pub(super) fn follow_underlay(&mut self) {
        if self.publication.as_ref().is_some_and(|p| p.has_published) {
            self.uplink_ports.due_since.get_or_insert_with(Instant::now);
            self.follow_uplink();
        }
        self.write_underlay();
    }

    fn follow_uplink(&mut self) {
        let wanted = self.host.underlay().uplink.clone();
        let open = self.workers.uplink().map(|(_, index, _)| index);
        if open.is_some() && open != wanted.as_ref().map(|uplink| uplink.index) {
            tracing::warn!("the uplink is gone: packets to other nodes leave by the kernel until it is back");
            self.workers.close_uplink();
            self.view_is_stale = true;
        }
        let ports = self.workers.uplink_ports().len();
        if let Some(queues) = wanted.as_ref().and_then(|uplink| uplink.queues)
            && self.workers.uplink().is_some()
            && usize::try_from(queues) != Ok(ports)
        {
            tracing::warn!("the uplink has {queues} receive queues and not {ports}: its ports are opened again");
            self.workers.close_uplink();
            self.view_is_stale = true;
        }
        if self.workers.uplink().is_none()
            && let Some(uplink) = wanted.filter(|uplink| uplink.up)
            && self
                .uplink_ports
                .closed
                .as_ref()
                .is_none_or(|closed| closed.next_try <= Instant::now())
        {
            self.open_uplink(&uplink);
        }
    }

    fn open_uplink(&mut self, uplink: &UplinkFacts) {
        self.view_is_stale = true;
        self.uplink_ports.steering = None;
        self.uplink_ports.is_steering_stale = true;
        match self
            .workers
            .open_uplink(&self.settings.run_dir, &uplink.name, uplink.index)
        {
            Ok(()) => {
                if let Some((name, _, mode)) = self.workers.uplink() {
                    let queues = self.workers.uplink_ports().len();
                    tracing::info!(uplink = name, %mode, queues, "opened the uplink");
                }
                self.uplink_ports.closed = None;
                if self.was_ready {
                    self.report_node();
                }
            }
            Err(error) => {
                let message = format!("the ports of uplink {} cannot be opened: {error}", uplink.name);
                let before = self.uplink_ports.closed.take();
                if before.as_ref().is_none_or(|closed| closed.why != message) {
                    tracing::error!("{message}. Pods of other nodes are not reached until heddle's next try succeeds");
                }
                self.uplink_ports.closed = Some(Closed::after(before.as_ref(), message, Instant::now()));
            }
        }
    }

    /// Returns `true` if the uplink is open, or was tried, or is not there. The host task's first report may be late; it is waited for
    /// a bounded time.
    pub(super) fn is_uplink_settled(&self) -> bool {
        let is_tried = self.workers.uplink().is_some() || self.uplink_ports.closed.is_some();
        let is_known = self.host.underlay().uplink.as_ref();
        let waited = self
            .uplink_ports
            .due_since
            .is_some_and(|since| since.elapsed() >= WAIT_FOR_UPLINK);
        is_tried || waited || is_known.is_some_and(|uplink| !uplink.up)
    }

    /// Tries again to open the uplink, if it is time. The controller calls it once a second.
    pub(super) fn retry_uplink(&mut self) {
        let is_due = |closed: &Closed| closed.next_try <= Instant::now();
        if self.uplink_ports.closed.as_ref().is_some_and(is_due) {
            self.follow_underlay();
        }
    }

    /// Hands the compiler the network between the nodes.
    fn write_underlay(&mut self) {
        let underlay = underlay(self.host.underlay(), self.workers.uplink_ports());
        if let Some(publication) = &mut self.publication {
            publication.compiler.set_underlay(underlay);
            publication.is_changed = true;
            // The nodes that are reached without a tunnel may be others.
            self.uplink_ports.is_steering_stale |= self.settings.tunnel != TunnelMode::Vxlan;
        }
    }

    /// Hands the host task the addresses of the other nodes.
    pub(super) fn set_host_nodes(&self) {
        let cluster = self.objects.cluster();
        let others = cluster.nodes().filter(|node| *node.name != *self.settings.node);
        let reads_flannel = self.settings.flannel_annotations;
        let addresses = others.flat_map(|node| {
            let flannel = node.flannel_alone().filter(|_| reads_flannel);
            let ends = flannel.into_iter().flat_map(FlannelNode::addresses);
            node.internal_ips.iter().copied().chain(ends)
        });
        self.host.set_nodes(addresses.collect());
    }

    /// Tells the uplink's program which packets are heddle's, if that has changed. Called after the tables are published, so that the
    /// workers know the packets that arrive.
    pub(super) fn steer(&mut self) {
        if self.workers.uplink().is_none() || !self.uplink_ports.is_steering_stale {
            return;
        }
        // Opening the uplink changes the paths to other nodes, after the tables were compiled. The steering follows from the next
        // tables too.
        self.uplink_ports.is_steering_stale = self.publication.as_ref().is_some_and(|p| p.is_changed);
        let Some(snapshot) = self.workers.newest().cloned() else {
            return;
        };
        let facts = self.objects.facts();
        let interfaces = self.host.addresses().into_iter().map(Ip::to_std);
        let own = interfaces.chain(facts.internal_ips().iter().copied());
        let steering = Steering {
            addresses: own.collect(),
            pods: match self.settings.tunnel {
                TunnelMode::Vxlan => BTreeSet::new(),
                TunnelMode::None | TunnelMode::Auto => facts.pod_ranges(),
            },
            tunnel_port: snapshot.node().tunnel.map(|tunnel| tunnel.port),
            masquerade_ports: Some(self.settings.reserved_ports.ports()),
            frontends: frontends(&snapshot),
            peers: direct_ranges(&snapshot, &self.objects.cluster()),
            forwarders: forwarders(&snapshot, &self.objects.cluster()),
        };
        if self.uplink_ports.steering.as_ref() == Some(&steering) {
            return;
        }
        match self.workers.steer(&steering) {
            Ok(()) => self.uplink_ports.steering = Some(steering),
            Err(error) => {
                // The next change of the tables tries again.
                tracing::error!("the uplink's program does not get all packets that are heddle's: {error}");
                self.uplink_ports.steering = None;
            }
        }
    }
}

/// Returns the network between the nodes for the compiler.
fn underlay(seen: &heddle_host::Underlay, ports: Vec<heddle_tables::UplinkPort>) -> Underlay {
    let index = seen.uplink.as_ref().map(|uplink| uplink.index);
    let routes = seen.paths.iter().filter_map(|(node, path)| {
        let path = path.as_ref().ok()?;
        let route = UnderlayRoute {
            neighbor: path.mac.filter(|_| Some(path.index) == index),
            on_link: path.is_on_link(),
            mtu: path.mtu,
        };
        Some((*node, route))
    });
    let mac = seen.uplink.as_ref().and_then(|uplink| uplink.mac);
    Underlay {
        uplink: Uplink {
            mac: mac.unwrap_or_default(),
            // Without an Ethernet address no frame can leave.
            ports: if mac.is_some() { ports } else { Vec::new() },
        },
        routes: routes.collect(),
        neighbors: seen.neighbors.clone(),
        every_node_runs_heddle: false,
    }
}

/// Returns the frontends that clients outside of the node reach: address, protocol and port.
fn frontends(snapshot: &Snapshot) -> BTreeSet<(IpAddr, u8, u16)> {
    let external = snapshot
        .frontends()
        .filter(|frontend| frontend.kind != FrontendKind::ClusterIp);
    let keys = external.map(|frontend| frontend.key);
    keys.map(|key| (key.ip.to_std(), key.proto.0, key.port)).collect()
}

/// Returns the pod ranges of the nodes that are reached without a tunnel.
fn direct_ranges(snapshot: &Snapshot, cluster: &Cluster) -> BTreeSet<IpNet> {
    let is_direct = |id: NodeId| snapshot.node_path(id).is_some_and(|path| path.outer.is_none());
    let direct = snapshot.remote_nodes().filter(|(id, _)| is_direct(*id));
    let nodes = direct.filter_map(|(_, node)| cluster.node(&node.name));
    nodes.flat_map(|node| node.pod_cidrs.iter().copied()).collect()
}

/// Returns the own addresses of the nodes that forward connections to this node without a tunnel, with the MAC of their packets.
fn forwarders(snapshot: &Snapshot, cluster: &Cluster) -> BTreeSet<(IpAddr, MacAddr)> {
    let known = snapshot.remote_nodes().filter_map(|(_, remote)| {
        let mac = remote.forwarder_mac()?;
        Some((mac, cluster.node(&remote.name)?))
    });
    known
        .flat_map(|(mac, node)| {
            let own = node.internal_ips.iter().chain(&node.external_ips);
            own.map(move |ip| (*ip, mac))
        })
        .collect()
}
