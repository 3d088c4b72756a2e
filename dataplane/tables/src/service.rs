//! Services: frontends, their backends, and the choice between them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use heddle_wire::{Ip, Proto};

use crate::Maglev;

/// What a frontend listens on.
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

/// Which of a Service's addresses a frontend is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
}

/// One endpoint of a Service. Where it is, the address table says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Its address, of the frontend's family.
    pub ip: Ip,
    /// Its port.
    pub port: u16,
}

impl Backend {
    /// Address and port.
    #[must_use]
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.ip.to_std(), self.port)
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket().fmt(f)
    }
}

/// The endpoints that may be chosen, and the table that chooses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backends {
    list: Arc<[Backend]>,
    maglev: Arc<Maglev>,
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
        let sockets: Vec<_> = list.iter().map(Backend::socket).collect();
        Self {
            maglev: Arc::new(Maglev::new(&sockets)),
            list: list.into(),
            elsewhere,
        }
    }

    /// The endpoints in canonical order.
    #[must_use]
    pub fn list(&self) -> &[Backend] {
        &self.list
    }

    /// Slots of the Maglev table.
    #[must_use]
    pub fn table_size(&self) -> usize {
        self.maglev.size()
    }

    /// The endpoint for a connection of that hash (64 well-mixed bits, equal on every node).
    #[inline]
    #[must_use]
    pub fn pick(&self, hash: u64) -> Choice<'_> {
        match self.list.get(self.maglev.pick(hash)) {
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

/// One (address, protocol, port) of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frontend {
    /// What it listens on.
    pub key: FrontendKey,
    /// Which kind of address that is.
    pub kind: FrontendKind,
    /// `namespace/name` of the Service, with `:port name` where the port has one.
    pub name: Arc<str>,
    /// Who answers.
    pub backends: Backends,
}

impl Frontend {
    /// [`Backends::pick`].
    #[inline]
    #[must_use]
    pub fn pick(&self, hash: u64) -> Choice<'_> {
        self.backends.pick(hash)
    }
}

/// The answer to "is this a Service?".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServiceLookup<'a> {
    /// The address is no Service's.
    NotAService,
    /// A Service has the address, but not this port and protocol: reject.
    NoSuchPort,
    /// The frontend.
    Frontend(&'a Arc<Frontend>),
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn no_endpoints_rejects_and_none_here_drops() {
        assert_eq!(Backends::new([], false).pick(5), Choice::Reject);
        assert_eq!(Backends::new([], true).pick(5), Choice::Drop);
        let one = Backends::new([b(1, 80)], true);
        assert_eq!(one.pick(u64::MAX), Choice::Backend(&b(1, 80)));
        assert_eq!(one.table_size(), 0);
    }
}
