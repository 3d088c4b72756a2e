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
}

/// The client of a Service, as traffic policies distinguish clients.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Client {
    /// A pod of the cluster, on any node.
    Pod,
    /// This node itself, or a pod of its network.
    ThisNode,
    /// Anybody else: other nodes too.
    Outside,
}

impl From<Place> for Client {
    fn from(place: Place) -> Self {
        match place {
            Place::Local(_) | Place::Node(_) | Place::Unreachable => Self::Pod,
            Place::Host => Self::ThisNode,
            Place::RemoteHost(_) | Place::Outside => Self::Outside,
        }
    }
}

/// The endpoints that may be chosen: weighed one by one where there are few ([`rendezvous`]), else by a [`Maglev`] table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backends {
    list: Arc<[Backend]>,
    maglev: Option<Arc<Maglev>>,
    /// The Service has usable endpoints, but its traffic policy leaves none here.
    elsewhere: bool,
}

impl Backends {
    /// From endpoints in any order, with duplicates or without. `elsewhere`: the traffic policy left out others.
    #[must_use]
    pub fn new(backends: impl IntoIterator<Item = Backend>, elsewhere: bool) -> Self {
        let mut list: Vec<Backend> = backends.into_iter().collect();
        list.sort_unstable();
        list.dedup();
        let table = || {
            let sockets: Vec<_> = list.iter().map(Backend::socket).collect();
            Arc::new(Maglev::new(&sockets))
        };
        Self {
            maglev: (list.len() > rendezvous::MOST).then(table),
            list: list.into(),
            elsewhere,
        }
    }

    /// The endpoints in canonical order.
    #[must_use]
    pub fn list(&self) -> &[Backend] {
        &self.list
    }

    /// Slots of the Maglev table; 0 without one.
    #[must_use]
    pub fn table_size(&self) -> usize {
        self.maglev.as_ref().map_or(0, |table| table.size())
    }

    /// The endpoint for a connection of that hash (64 well-mixed bits, equal on every node).
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

/// Where a connection to a frontend goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice<'a> {
    /// To this endpoint.
    Backend(&'a Backend),
    /// The Service has no endpoints: answer with a reset or "port unreachable".
    Reject,
    /// It has, but none that its traffic policy allows from here: drop.
    Drop,
}

/// One (address, protocol, port) of a Service. What a choice reads comes first, in two cache lines.
#[derive(Clone, PartialEq, Eq, Debug)]
#[repr(C, align(64))]
pub struct Frontend {
    /// The backends.
    pub backends: Backends,
    /// With `externalTrafficPolicy: Local`, the backends for pods and for this node itself.
    pub inside: Option<Backends>,
    /// `spec.loadBalancerSourceRanges`; `None`: everybody.
    pub source_ranges: Option<Arc<[Prefix]>>,
    /// `spec.sessionAffinity`
    pub affinity: Option<Affinity>,
    /// How a backend is chosen.
    pub balancing: Balancing,
    /// Which kind of address it listens on.
    pub kind: FrontendKind,
    /// The address, protocol and port that it listens on.
    pub key: FrontendKey,
    /// `namespace/name` of the Service, with `:port name` where the port has one.
    pub name: Arc<str>,
    /// Endpoints that get no new connection but keep the ones that they have.
    pub draining: Box<[Backend]>,
}

const _: () = assert!(std::mem::offset_of!(Frontend, key) <= 128);

/// How a backend is chosen for a new connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Balancing {
    /// By the connection's hash, alike on every node: a backend that comes or goes moves little beside its own share.
    #[default]
    Maglev,
    /// By chance.
    Random,
}

/// New connections of a client go where its last one went.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Affinity {
    /// The port of a Service: the same value for all its frontends.
    pub service: u64,
    /// For how long after the client's last new connection.
    pub seconds: u32,
}

impl Affinity {
    /// Of a port of a Service, by the frontends' name.
    #[must_use]
    pub fn new(name: &str, seconds: u32) -> Self {
        let mut hash = SipHasher24::new_with_keys(3, 0x6166_6669_6e69_7479);
        hash.write(name.as_bytes());
        // Zero marks a free entry of the affinity table.
        let service = hash.finish() | 1;
        Self { service, seconds }
    }
}

impl Frontend {
    /// A frontend for everybody, without affinity.
    #[must_use]
    pub fn new(key: FrontendKey, kind: FrontendKind, name: impl Into<Arc<str>>, backends: Backends) -> Self {
        Self {
            key,
            kind,
            name: name.into(),
            backends,
            inside: None,
            draining: Box::new([]),
            source_ranges: None,
            balancing: Balancing::Maglev,
            affinity: None,
        }
    }

    /// [`Backends::pick`] for a client outside.
    #[inline]
    #[must_use]
    pub fn pick(&self, hash: u64) -> Choice<'_> {
        self.backends.pick(hash)
    }

    /// Who answers this client.
    #[inline]
    #[must_use]
    pub fn backends_for(&self, client: Client) -> &Backends {
        match (&self.inside, client) {
            (Some(inside), Client::Pod | Client::ThisNode) => inside,
            _ => &self.backends,
        }
    }

    /// Returns whether the source ranges admit that address.
    #[must_use]
    pub fn admits(&self, source: Ip) -> bool {
        self.source_ranges
            .as_ref()
            .is_none_or(|ranges| ranges.iter().any(|range| range.contains(source)))
    }

    /// Returns whether the client's address is replaced by the node's (kube-proxy with a cluster CIDR, `writeServiceToEndpointRules`
    /// and the `KUBE-EXT` chains): a cluster address does so for all but pods, an external one for all with the traffic
    /// policy `Cluster`, and for the node itself with `Local`.
    #[must_use]
    pub const fn masquerades(&self, client: Client) -> bool {
        match (self.kind, &self.inside) {
            (FrontendKind::ClusterIp, _) => !matches!(client, Client::Pod),
            (_, None) => true,
            (_, Some(_)) => matches!(client, Client::ThisNode),
        }
    }

    /// Returns whether connections of this backend may go on: it is one of the Service's endpoints, ready or not.
    #[must_use]
    pub fn keeps(&self, backend: &Backend) -> bool {
        let has = |list: &[Backend]| list.binary_search(backend).is_ok();
        has(self.backends.list())
            || has(&self.draining)
            || self.inside.as_ref().is_some_and(|inside| has(inside.list()))
    }

    /// Every endpoint of the Service, ready or not; some twice.
    pub fn endpoints(&self) -> impl Iterator<Item = &Backend> {
        let inside = self.inside.iter().flat_map(|inside| inside.list());
        self.backends.list().iter().chain(inside).chain(&self.draining)
    }
}

/// The result of a Service lookup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServiceLookup<'a> {
    /// The address is no Service's.
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
    fn who_is_masqueraded_depends_on_address_policy_and_client() {
        let clients = [Client::Pod, Client::ThisNode, Client::Outside];
        let asked = |frontend: Frontend| clients.map(|client| frontend.masquerades(client));
        assert_eq!(asked(frontend(FrontendKind::ClusterIp, None)), [false, true, true]);
        for kind in [
            FrontendKind::LoadBalancer,
            FrontendKind::ExternalIp,
            FrontendKind::NodePort,
        ] {
            assert_eq!(asked(frontend(kind, None)), [true, true, true]);
            let local = frontend(kind, Some(Backends::new([b(1, 80), b(2, 80)], false)));
            assert_eq!(local.backends_for(Client::Pod).list().len(), 2);
            assert_eq!(local.backends_for(Client::ThisNode).list().len(), 2);
            assert_eq!(local.backends_for(Client::Outside).list().len(), 1);
            assert_eq!(asked(local), [false, true, false]);
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

    /// A removed backend moves none of the others' new connections among few backends, few among many, and nearly all
    /// where the choice changes from rendezvous hashing to Maglev.
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
    fn no_endpoints_rejects_and_none_here_drops() {
        assert_eq!(Backends::new([], false).pick(5), Choice::Reject);
        assert_eq!(Backends::new([], true).pick(5), Choice::Drop);
        let one = Backends::new([b(1, 80)], true);
        assert_eq!(one.pick(u64::MAX), Choice::Backend(&b(1, 80)));
        assert_eq!(one.table_size(), 0);
    }
}
