//! Services: frontends, their backends, and the choice between them.

use std::fmt;
use std::hash::Hasher;
use std::net::SocketAddr;
use std::sync::Arc;

use heddle_wire::{Ip, Proto};
use siphasher::sip::SipHasher24;

use crate::{Backend, Maglev, Place, Prefix, rendezvous};

/// The address, protocol and port of a frontend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// The address.
    pub ip: Ip,
    /// TCP, UDP or SCTP.
    pub proto: Proto,
    /// The port.
    pub port: u16,
}

impl fmt::Debug for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", SocketAddr::new(self.ip.to_std(), self.port), self.proto)
    }
}

impl FrontendKey {
    /// A port on every address of the node that is of this family.
    #[must_use]
    pub const fn node_port(v4: bool, proto: Proto, port: u16) -> Self {
        let ip = if v4 { Ip::from_v4([0; 4]) } else { Ip::UNSPECIFIED };
        Self { ip, proto, port }
    }
}

/// The kind of a frontend's address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `status.loadBalancer.ingress[]`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `spec.ports[].nodePort`, at [`FrontendKey::node_port`].
    NodePort,
    /// `spec.containers[].ports[].hostPort` of a local pod, which is the only backend; without `hostIP` at
    /// [`FrontendKey::node_port`].
    HostPort,
}

impl FrontendKind {
    /// Returns true for the addresses at which clients outside of the cluster reach a Service.
    #[must_use]
    pub const fn is_external(self) -> bool {
        matches!(self, Self::LoadBalancer | Self::ExternalIp | Self::NodePort)
    }
}

/// The client of a Service, as traffic policies distinguish clients.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Client {
    /// A pod of this node.
    Pod,
    /// A pod of another node.
    ForeignPod,
    /// This node itself, or a pod of its network.
    ThisNode,
    /// Any other client, including other nodes.
    Outside,
}

impl From<Place> for Client {
    fn from(place: Place) -> Self {
        match place {
            Place::Local(_) => Self::Pod,
            Place::Node(_) | Place::Unreachable => Self::ForeignPod,
            Place::Host => Self::ThisNode,
            Place::RemoteHost(_) | Place::Outside => Self::Outside,
        }
    }
}

/// The backends that may be chosen: by [`rendezvous`] hashing if there are few, else by a [`Maglev`] table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backends {
    list: Arc<[Backend]>,
    maglev: Option<Arc<Maglev>>,
    /// True if the Service has other usable endpoints, but its traffic policy excludes them on this node.
    elsewhere: bool,
}

impl Backends {
    /// Makes the list from backends in any order, with or without duplicates. `elsewhere` is true if the traffic policy excludes
    /// others.
    #[must_use]
    pub fn new(backends: impl IntoIterator<Item = Backend>, elsewhere: bool) -> Self {
        Self::sharing(backends, elsewhere, &[])
    }

    /// Does the same as [`Self::new`], and takes the table of one of `others` that has the same addresses, as another port of the
    /// Service has. A table of many backends has up to 2 MiB, and takes milliseconds to fill.
    #[must_use]
    pub fn sharing(backends: impl IntoIterator<Item = Backend>, elsewhere: bool, others: &[Self]) -> Self {
        let mut list: Vec<Backend> = backends.into_iter().collect();
        list.sort_unstable();
        list.dedup();
        let table = || {
            let has_same_addresses = |other: &&Self| other.list.iter().map(|b| b.ip).eq(list.iter().map(|b| b.ip));
            let other = others.iter().find(has_same_addresses);
            let shared = other.and_then(|other| other.maglev.clone());
            // Without regard to ports, if no address has two: then the table is the same for each port of the Service.
            let is_by_address = list.windows(2).all(|pair| matches!(pair, [a, b] if a.ip != b.ip));
            let keys = list.iter().map(|backend| match is_by_address {
                true => Backend { port: 0, ..*backend }.socket(),
                false => backend.socket(),
            });
            shared
                .filter(|_| is_by_address)
                .unwrap_or_else(|| Arc::new(Maglev::new(&keys.collect::<Vec<_>>())))
        };
        Self {
            maglev: (list.len() > rendezvous::MOST).then(table),
            list: list.into(),
            elsewhere,
        }
    }

    /// Returns the backends in canonical order.
    #[must_use]
    pub fn list(&self) -> &[Backend] {
        &self.list
    }

    /// Returns the number of slots of the Maglev table; 0 without one.
    #[must_use]
    pub fn table_size(&self) -> usize {
        self.maglev.as_ref().map_or(0, |table| table.size())
    }

    /// Returns the backend for a connection with this hash (64 well-mixed bits, equal on every node).
    #[inline]
    #[must_use]
    pub fn pick(&self, hash: u64) -> Choice<'_> {
        let chosen = match &self.maglev {
            Some(table) => self.list.get(table.pick(hash)),
            None => rendezvous::pick(hash, &self.list),
        };
        match chosen {
            Some(backend) => Choice::Backend(backend),
            None if self.elsewhere => Choice::Drop,
            None => Choice::Reject,
        }
    }
}

/// The choice for a connection to a frontend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice<'a> {
    /// This backend.
    Backend(&'a Backend),
    /// The Service has no endpoints: the connection gets a reset or "port unreachable".
    Reject,
    /// The Service has endpoints, but its traffic policy excludes them here: the packet is dropped.
    Drop,
}

/// One (address, protocol, port) of a Service. The fields for a choice come first, in two cache lines.
#[derive(Clone, PartialEq, Eq, Debug)]
#[repr(C, align(64))]
pub struct Frontend {
    /// The backends.
    pub backends: Backends,
    /// With `externalTrafficPolicy: Local`, the backends for pods and for this node itself.
    pub inside: Option<Backends>,
    /// `spec.loadBalancerSourceRanges`; `None` admits every client.
    pub source_ranges: Option<Arc<[Prefix]>>,
    /// `spec.sessionAffinity`.
    pub affinity: Option<Affinity>,
    /// The choice among backends.
    pub balancing: Balancing,
    /// True if a backend on another node answers clients outside directly ([`returns_directly`](Self::returns_directly)).
    pub direct_return: bool,
    /// The kind of its address.
    pub kind: FrontendKind,
    /// The address, protocol and port at which the Service is reached.
    pub key: FrontendKey,
    /// `namespace/name` of the Service, with `:port name` if the port has a name. For a host port, `namespace/name` of the pod.
    pub name: Arc<str>,
    /// Backends that get no new connection but keep their existing ones.
    pub draining: Box<[Backend]>,
    /// The backends that are pods of this node, for connections that another node forwards here; `None` if there are none.
    pub here: Option<Arc<Backends>>,
}

const _: () = assert!(std::mem::offset_of!(Frontend, key) <= 128);

/// The choice of a backend for a new connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Balancing {
    /// By the connection's hash, equal on every node: rendezvous hashing for few backends, a [`Maglev`] table for many. When a
    /// backend comes or goes, few connections besides its own share change their backend.
    #[default]
    Maglev,
    /// At random.
    Random,
}

/// Session affinity: a client's new connections go to the backend of its last one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Affinity {
    /// The number of the Service's port, equal for all its frontends.
    pub service: u64,
    /// The time for which a client keeps its backend after its last new connection, in seconds.
    pub seconds: u32,
}

impl Affinity {
    /// Makes the affinity of a Service's port, from the frontends' name.
    #[must_use]
    pub fn new(name: &str, seconds: u32) -> Self {
        let mut hash = SipHasher24::new_with_keys(3, 0x6166_6669_6e69_7479);
        hash.write(name.as_bytes());
        // 0 stands for a free entry of the affinity table.
        let service = hash.finish() | 1;
        Self { service, seconds }
    }
}

impl Frontend {
    /// Makes a frontend for every client, without affinity.
    #[must_use]
    pub fn new(key: FrontendKey, kind: FrontendKind, name: impl Into<Arc<str>>, backends: Backends) -> Self {
        Self {
            key,
            kind,
            name: name.into(),
            backends,
            inside: None,
            direct_return: false,
            here: None,
            draining: Box::new([]),
            source_ranges: None,
            balancing: Balancing::Maglev,
            affinity: None,
        }
    }

    /// Returns the result of [`Backends::pick`] for a client outside of the cluster.
    #[inline]
    #[must_use]
    pub fn pick(&self, hash: u64) -> Choice<'_> {
        self.backends.pick(hash)
    }

    /// Returns the backends for this client. The traffic policy `Local` is for clients that come from another machine: a pod of another
    /// node at a node port of this one, too (Kubernetes' e2e suite, "should fallback to local terminating endpoints").
    #[inline]
    #[must_use]
    pub fn backends_for(&self, client: Client) -> &Backends {
        match (&self.inside, client) {
            (Some(inside), Client::Pod | Client::ThisNode) => inside,
            _ => &self.backends,
        }
    }

    /// Returns true if connections of clients outside keep their source address, and a backend on another node answers them
    /// without this node (direct server return). With the traffic policy `Local` no backend is on another node.
    #[must_use]
    pub const fn returns_directly(&self) -> bool {
        self.direct_return && self.kind.is_external() && self.inside.is_none()
    }

    /// Returns true if the source ranges admit this address.
    #[must_use]
    pub fn admits(&self, source: Ip) -> bool {
        self.source_ranges
            .as_ref()
            .is_none_or(|ranges| ranges.iter().any(|range| range.contains(source)))
    }

    /// Returns true if the client's address is replaced by the node's, as in kube-proxy with a cluster CIDR
    /// (`writeServiceToEndpointRules` and the `KUBE-EXT` chains). At a cluster address this holds for all clients except pods. At an
    /// external one it holds for all clients with the traffic policy `Cluster`, and only for the node itself with `Local`. At a pod's
    /// host port it holds for none.
    #[must_use]
    pub const fn masquerades(&self, client: Client) -> bool {
        match (self.kind, &self.inside) {
            // The pod is local, so its answers come back whatever the client's address is.
            (FrontendKind::HostPort, _) => false,
            (FrontendKind::ClusterIp, _) => !matches!(client, Client::Pod | Client::ForeignPod),
            (_, None) => true,
            (_, Some(_)) => matches!(client, Client::ThisNode),
        }
    }

    /// Returns true if connections to this backend may continue: it is one of the Service's endpoints, ready or not (for
    /// UDP: ready or serving, while any endpoint is).
    #[must_use]
    pub fn keeps(&self, backend: &Backend) -> bool {
        let has = |list: &[Backend]| list.binary_search(backend).is_ok();
        has(self.backends.list())
            || has(&self.draining)
            || self.inside.as_ref().is_some_and(|inside| has(inside.list()))
    }

    /// Returns every backend of the Service, ready or not, some of them twice.
    pub fn endpoints(&self) -> impl Iterator<Item = &Backend> {
        let inside = self.inside.iter().flat_map(|inside| inside.list());
        self.backends.list().iter().chain(inside).chain(&self.draining)
    }
}

/// The result of a Service lookup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServiceLookup<'a> {
    /// The address belongs to no Service.
    NotAService,
    /// A cluster address, but the Service has no such port and protocol: reject.
    NoSuchPort,
    /// The frontend.
    Frontend(&'a Arc<Frontend>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frontend(kind: FrontendKind, inside: Option<Backends>) -> Frontend {
        let key = FrontendKey::node_port(true, Proto::TCP, 30_000);
        let mut frontend = Frontend::new(key, kind, "a/web", Backends::new([b(1, 80)], false));
        frontend.inside = inside;
        frontend
    }

    #[test]
    fn masquerade_depends_on_address_policy_and_client() {
        let clients = [Client::Pod, Client::ForeignPod, Client::ThisNode, Client::Outside];
        let asked = |frontend: Frontend| clients.map(|client| frontend.masquerades(client));
        assert_eq!(
            asked(frontend(FrontendKind::ClusterIp, None)),
            [false, false, true, true]
        );
        assert_eq!(asked(frontend(FrontendKind::HostPort, None)), [false; 4]);
        for kind in [
            FrontendKind::LoadBalancer,
            FrontendKind::ExternalIp,
            FrontendKind::NodePort,
        ] {
            assert_eq!(asked(frontend(kind, None)), [true; 4]);
            let local = frontend(kind, Some(Backends::new([b(1, 80), b(2, 80)], false)));
            assert_eq!(local.backends_for(Client::Pod).list().len(), 2);
            assert_eq!(local.backends_for(Client::ThisNode).list().len(), 2);
            assert_eq!(local.backends_for(Client::ForeignPod).list().len(), 1);
            assert_eq!(local.backends_for(Client::Outside).list().len(), 1);
            assert_eq!(asked(local), [false, false, true, false]);
        }
    }

    #[test]
    fn connections_stay_with_endpoints_that_rest() {
        let mut frontend = frontend(FrontendKind::LoadBalancer, Some(Backends::new([b(2, 80)], false)));
        frontend.draining = Box::new([b(3, 80)]);
        assert_eq!(
            [1, 2, 3, 4].map(|n| frontend.keeps(&b(n, 80))),
            [true, true, true, false]
        );
    }

    #[test]
    fn source_ranges_admit_what_they_cover() {
        let mut frontend = frontend(FrontendKind::LoadBalancer, None);
        assert!(frontend.admits(Ip::from_v4([192, 0, 2, 1])));
        frontend.source_ranges = Some([Prefix::new(Ip::from_v4([10, 0, 0, 0]), 8)].into());
        assert!(frontend.admits(Ip::from_v4([10, 9, 9, 9])));
        assert!(!frontend.admits(Ip::from_v4([192, 0, 2, 1])));
    }

    fn b(last: u8, port: u16) -> Backend {
        Backend {
            ip: Ip::from_v4([10, 0, 0, last]),
            port,
        }
    }

    #[test]
    fn order_and_duplicates_make_no_difference() {
        let one = Backends::new([b(3, 80), b(1, 80), b(2, 80), b(1, 80)], false);
        let two = Backends::new([b(1, 80), b(2, 80), b(3, 80)], false);
        assert_eq!(one, two);
        assert_eq!(one.list(), [b(1, 80), b(2, 80), b(3, 80)]);
    }

    /// The removal of a backend moves no other backend's new connections among few backends, few of them among many, and nearly all
    /// if the choice changes from Maglev to rendezvous hashing.
    #[test]
    fn a_table_is_made_for_many_backends_only() {
        let of = |n: u8| Backends::new((0..n).map(|last| b(last, 80)), false);
        let most = rendezvous::MOST as u8;
        assert_eq!((of(most).table_size(), of(most + 1).table_size()), (0, 16_381));
        let moved = |n: u8| {
            let (before, after) = (of(n), Backends::new((1..n).map(|last| b(last, 80)), false));
            let hashes = (1..=10_000_u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let gone = Choice::Backend(&b(0, 80));
            let others = |h: &u64| before.pick(*h) != gone && before.pick(*h) != after.pick(*h);
            hashes.filter(others).count() * 100 / 10_000
        };
        assert_eq!([4, most].map(moved), [0, 0]);
        assert!(moved(100) <= 5);
        assert!(moved(most + 1) >= 90);
    }

    #[test]
    fn ports_of_the_same_addresses_share_a_table_and_choose_alike() {
        let of = |port: u16| (0..100).map(move |last| b(last, port));
        let (web, metrics) = (Backends::new(of(80), false), Backends::new(of(90), false));
        assert_eq!(web.maglev, metrics.maglev, "a table depends on addresses alone");
        let others = [Backends::new(of(70).take(99), false), web.clone()];
        let shared = Backends::sharing(of(90), true, &others);
        assert!(Arc::ptr_eq(
            shared.maglev.as_ref().unwrap(),
            web.maglev.as_ref().unwrap()
        ));
        assert_eq!(shared.list, metrics.list);
        // An address with two ports is two backends.
        let both = || of(80).chain([b(1, 81)]);
        let two = Backends::sharing(both(), false, &[Backends::new(both(), false)]);
        assert_eq!(two, Backends::new(both(), false));
        let hashes = (1..=100_000_u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let chosen = |wanted: Backend| {
            hashes
                .clone()
                .filter(|h| two.pick(*h) == Choice::Backend(&wanted))
                .count()
        };
        for wanted in [b(1, 80), b(1, 81), b(2, 80)] {
            let count = chosen(wanted);
            assert!((850..1150).contains(&count), "{wanted:?}: {count}");
        }
    }

    #[test]
    fn no_endpoints_rejects_and_none_here_drops() {
        assert_eq!(Backends::new([], false).pick(5), Choice::Reject);
        assert_eq!(Backends::new([], true).pick(5), Choice::Drop);
        let one = Backends::new([b(1, 80)], true);
        assert_eq!(one.pick(u64::MAX), Choice::Backend(&b(1, 80)));
        assert_eq!(one.table_size(), 0);
    }
}
