//! NetworkPolicies.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::key::ObjectKey;
use crate::port::{PortRange, Protocol};
use crate::selector::LabelSelector;

/// `networking.k8s.io/v1` `NetworkPolicy`
///
/// `spec.policyTypes` with its defaults is in [`ingress`](NetworkPolicy::ingress) and
/// [`egress`](NetworkPolicy::egress): a direction without policy is `None`. An absent rule list and an empty one mean
/// the same: `Some` empty list, which allows nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// `metadata.namespace` and `metadata.name`
    pub key: ObjectKey,
    /// `spec.podSelector`: the pods of the policy's namespace that it isolates.
    pub selector: LabelSelector,
    /// `spec.ingress`; `None`: `spec.policyTypes` is without `Ingress`.
    pub ingress: Option<Vec<PolicyRule>>,
    /// `spec.egress`; `None`: `spec.policyTypes` is without `Egress`.
    pub egress: Option<Vec<PolicyRule>>,
    /// True if the policy was refused and never was good. It then has no rules and denies all traffic of the pods that it
    /// selects.
    pub refused: bool,
}

/// One entry of `spec.ingress[]` or `spec.egress[]`: it matches traffic with one of the peers and one of the ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyRule {
    /// `from` or `to`; empty (or absent): everyone, inside the cluster and outside.
    pub peers: Vec<Peer>,
    /// `ports`, at the destination; empty (or absent): all ports and protocols.
    pub ports: Vec<PolicyPort>,
}

/// One entry of `from[]` or `to[]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Peer {
    /// Pods by labels.
    Pods {
        /// `namespaceSelector`; `None`: the policy's own namespace.
        namespaces: Option<LabelSelector>,
        /// `podSelector`; absent selects all pods of those namespaces.
        pods: LabelSelector,
    },
    /// `ipBlock`
    Block(IpBlock),
}

/// `ipBlock`: a range of addresses with exceptions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "IpBlockFields")]
pub struct IpBlock {
    cidr: IpNet,
    except: Arc<[IpNet]>,
}

/// The fields of an [`IpBlock`] as they were written, not yet checked.
#[derive(Deserialize)]
struct IpBlockFields {
    cidr: IpNet,
    except: Vec<IpNet>,
}

impl TryFrom<IpBlockFields> for IpBlock {
    type Error = IpBlockError;

    fn try_from(fields: IpBlockFields) -> Result<IpBlock, IpBlockError> {
        IpBlock::new(fields.cidr, fields.except)
    }
}

/// An `except` that is not inside its `cidr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("except {except} is not strictly inside the block's cidr {cidr}")]
pub struct IpBlockError {
    cidr: IpNet,
    except: IpNet,
}

impl IpBlock {
    /// Makes a block. Host bits of the ranges are cut off.
    ///
    /// # Errors
    /// Refuses an `except` that does not lie inside `cidr` and is smaller than it, as the API does.
    pub fn new(cidr: IpNet, except: impl IntoIterator<Item = IpNet>) -> Result<IpBlock, IpBlockError> {
        let cidr = cidr.trunc();
        let mut holes = std::collections::BTreeSet::new();
        for except in except {
            let except = except.trunc();
            if !cidr.contains(&except) || cidr == except {
                return Err(IpBlockError { cidr, except });
            }
            holes.insert(except);
        }
        Ok(IpBlock {
            cidr,
            except: holes.into_iter().collect(),
        })
    }

    /// Returns `cidr`, without host bits.
    #[must_use]
    pub const fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// Returns `except`, without host bits.
    #[must_use]
    pub fn except(&self) -> &[IpNet] {
        &self.except
    }

    /// Returns true if an address is in the block and in none of its exceptions.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.cidr.contains(&ip) && !self.except.iter().any(|except| except.contains(&ip))
    }
}

/// One entry of `ports[]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyPort {
    /// `protocol`
    pub protocol: Protocol,
    /// `port` and `endPort`
    pub ports: PolicyPorts,
}

/// `ports[].port` with `ports[].endPort`
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyPorts {
    /// Absent: every port of the protocol.
    Any,
    /// A number, or the range up to `endPort`.
    Range(PortRange),
    /// The name of a container port, resolved for each destination pod by itself.
    Name(Arc<str>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_block_contains_its_addresses_without_the_exceptions() {
        let block = IpBlock::new(net("10.0.0.7/8"), [net("10.1.0.0/16")]).unwrap();
        assert_eq!(block.cidr(), net("10.0.0.0/8"));
        for (ip, inside) in [
            ("10.0.0.1", true),
            ("10.1.2.3", false),
            ("10.2.0.0", true),
            ("11.0.0.0", false),
        ] {
            assert_eq!(block.contains(ip.parse().unwrap()), inside, "{ip}");
        }
        assert!(!block.contains("::ffff:10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn an_exception_outside_of_its_block_or_as_large_is_refused() {
        for (cidr, except) in [
            ("10.0.0.0/8", "11.0.0.0/16"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.0/8", "::/0"),
        ] {
            let error = IpBlock::new(net(cidr), [net(except)]).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("except {except} is not strictly inside the block's cidr {cidr}")
            );
        }
    }
}
