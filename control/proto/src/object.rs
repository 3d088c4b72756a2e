//! Names of the cluster's objects in requests and answers, and the ends of packets and connections.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ObjectName, TextError};

/// A pod or a Service by namespace and name. As text: `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// The namespace.
    pub namespace: ObjectName,
    /// The name.
    pub name: ObjectName,
}

impl Named {
    /// Makes a name from texts of the API. Returns `None` if the API would not accept them.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Option<Self> {
        Some(Self {
            namespace: ObjectName::new(namespace).ok()?,
            name: ObjectName::new(name).ok()?,
        })
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for Named {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let Some((namespace, name)) = text.split_once('/') else {
            return Err(TextError::Form {
                what: "object",
                shown: text.chars().take(64).collect(),
                rule: "write NAMESPACE/NAME",
            });
        };
        Ok(Self {
            namespace: namespace.parse()?,
            name: name.parse()?,
        })
    }
}

/// A policy's name. As text: `NAMESPACE/NAME`, or `NAME` for a cluster-wide policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyName {
    /// The namespace; `None` for cluster-wide policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<ObjectName>,
    /// The name.
    pub name: ObjectName,
}

impl FromStr for PolicyName {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace.parse()?), name),
            None => (None, text),
        };
        Ok(Self {
            namespace,
            name: name.parse()?,
        })
    }
}

/// One end of a packet or of a connection, and the object that has the address now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The address.
    pub address: IpAddr,
    /// The port, if the protocol has ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The pod that has the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Named>,
    /// The Service that has address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Named>,
    /// The node that has the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

impl fmt::Display for End {
    /// `shop/db 10.0.0.5:5432`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.pod, &self.service, &self.node) {
            (Some(pod), ..) => write!(f, "{pod} ")?,
            (None, Some(service), _) => write!(f, "service {service} ")?,
            (None, None, Some(node)) => write!(f, "node {node} ")?,
            (None, None, None) => {}
        }
        match (self.port, self.address) {
            (Some(port), address) => write!(f, "{}", std::net::SocketAddr::new(address, port)),
            (None, address) => write!(f, "{address}"),
        }
    }
}

/// The policy and rule that decided about a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Policy {
    /// `NetworkPolicy` or `ClusterNetworkPolicy`.
    pub kind: String,
    /// The policy's namespace; empty for cluster-wide kinds.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The policy's name.
    pub name: String,
    /// `Admin` or `Baseline`, for ClusterNetworkPolicy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tier: String,
    /// The list that contains the rule: `ingress` or `egress`.
    pub direction: String,
    /// The position of the rule in that list, from 0. `None`: no rule allowed the packet, and this policy selects the pod for
    /// that direction (or the policy was refused, and closes the pods that it selects).
    pub rule: Option<u32>,
    /// The rule's own name, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule_name: String,
    /// Policy and rule in a sentence.
    pub says: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_and_policies_are_parsed_from_names() {
        let named: Named = "shop/db-0".parse().unwrap();
        assert_eq!(named.to_string(), "shop/db-0");
        for (bad, part) in [("db", "NAMESPACE/NAME"), ("shop/", "empty"), ("a/b/c", "not allowed")] {
            let said = bad.parse::<Named>().unwrap_err().to_string();
            assert!(said.contains(part), "{bad}: {said}");
        }
        let policy: PolicyName = "shop/p".parse().unwrap();
        assert_eq!(policy.namespace.as_ref().map(ObjectName::as_str), Some("shop"));
        assert_eq!("admins".parse::<PolicyName>().unwrap().namespace, None);
        assert!("a b".parse::<PolicyName>().is_err());
    }

    #[test]
    fn ends_are_shown_with_object_and_address() {
        let end = |address: &str, port, named: usize| {
            let who = Named::new("shop", "db");
            End {
                address: address.parse().unwrap(),
                port,
                pod: who.clone().filter(|_| named == 1),
                service: who.filter(|_| named == 2),
                node: (named == 3).then(|| "n1".to_owned()),
            }
            .to_string()
        };
        assert_eq!(end("10.0.0.5", Some(80), 1), "shop/db 10.0.0.5:80");
        assert_eq!(end("fd00::5", Some(80), 2), "service shop/db [fd00::5]:80");
        assert_eq!(end("10.0.0.5", None, 3), "node n1 10.0.0.5");
        assert_eq!(end("fd00::5", None, 0), "fd00::5");
    }
}
