//! The tunnels of the cluster: their network, and the nodes that are reached by one.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The network of VXLAN tunnels that the node belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// The network identifier, of 24 bits.
    pub vni: u32,
    /// The UDP port at which nodes receive.
    pub port: u16,
}

/// The way of packets to pods of other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TunnelMode {
    /// By VXLAN.
    #[default]
    Vxlan,
    /// Without a tunnel: the network between the nodes routes the pods' addresses.
    None,
    /// Without a tunnel to nodes on the same link, by VXLAN to the others.
    Auto,
}

/// A text that is no [`TunnelMode`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not vxlan, none or auto")]
pub struct UnknownTunnelMode(String);

impl TunnelMode {
    /// Returns the name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::None => "none",
            Self::Auto => "auto",
        }
    }
}

impl FromStr for TunnelMode {
    type Err = UnknownTunnelMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Vxlan, Self::None, Self::Auto];
        let found = all.into_iter().find(|mode| mode.as_str() == text);
        found.ok_or_else(|| UnknownTunnelMode(text.to_owned()))
    }
}

impl fmt::Display for TunnelMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_they_are_written() {
        for mode in [TunnelMode::Vxlan, TunnelMode::None, TunnelMode::Auto] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        let error = "geneve".parse::<TunnelMode>().unwrap_err();
        assert_eq!(error.to_string(), "\"geneve\" is not vxlan, none or auto");
    }
}
