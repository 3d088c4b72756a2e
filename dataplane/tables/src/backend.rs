//! Backends of Services.

use std::fmt;
use std::net::SocketAddr;

use heddle_wire::Ip;

/// An address and port behind a Service. The address table contains the place of the address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Its address, of the frontend's family.
    pub ip: Ip,
    /// Its port.
    pub port: u16,
}

impl Backend {
    /// Returns the address and port.
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
