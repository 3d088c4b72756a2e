//! The result of ADD as the specification defines it (CNI 1.1, section 5, "Success"), and its decoded form for CHECK.

use std::net::IpAddr;

use heddle_proto::{CniError, ErrorCode, Prepared};
use heddle_wire::MacAddr;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::env::Target;
use crate::version::CniVersion;

/// Returns the result of ADD as JSON: the node's end is interface 0, the pod's end is interface 1.
///
/// Interfaces and routes have an MTU from version 1.1.0 on; addresses have the number of their family before 1.0.0.
#[must_use]
pub fn added(version: CniVersion, prepared: &Prepared, host_mac: MacAddr, target: &Target, netns: &str) -> String {
    let mut host = json!({"name": prepared.host_ifname, "mac": host_mac.to_string()});
    let mut pod = json!({"name": target.ifname, "mac": prepared.mac.to_string(), "sandbox": netns});
    let with_mtu = version >= CniVersion::V1_1_0;
    if with_mtu {
        host["mtu"] = json!(prepared.mtu);
        pod["mtu"] = json!(prepared.mtu);
    }
    let ips = prepared.addresses.iter().map(|a| {
        let mut ip = json!({"address": IpNet::from(a.address).to_string(), "gateway": a.gateway, "interface": 1});
        if version < CniVersion::V1_0_0 {
            ip["version"] = json!(if a.address.is_ipv4() { "4" } else { "6" });
        }
        ip
    });
    let routes = prepared.routes.iter().map(|r| {
        let mut route = json!({"dst": r.dst.to_string(), "gw": r.via});
        if let (Some(mtu), true) = (r.mtu, with_mtu) {
            route["mtu"] = json!(mtu);
        }
        route
    });
    json!({
        "cniVersion": version.as_str(),
        "interfaces": [host, pod],
        "ips": ips.collect::<Vec<_>>(),
        "routes": routes.collect::<Vec<_>>(),
    })
    .to_string()
}

/// `prevResult`, with which CHECK compares: the result of ADD, perhaps with additions of plugins that ran after this
/// one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct PrevResult {
    /// The interfaces.
    #[serde(default)]
    pub interfaces: Vec<PrevInterface>,
    /// The addresses.
    #[serde(default)]
    pub ips: Vec<PrevIp>,
    /// The routes.
    #[serde(default)]
    pub routes: Vec<PrevRoute>,
}

/// An interface of [`PrevResult`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PrevInterface {
    /// The name.
    pub name: String,
    /// The MAC address; empty if it is missing.
    #[serde(default)]
    pub mac: String,
    /// The MTU, from version 1.1.0 on.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// The path of the network namespace; empty for the node's.
    #[serde(default)]
    pub sandbox: String,
}

/// An address of [`PrevResult`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PrevIp {
    /// The address with its prefix length.
    pub address: IpNet,
    /// The gateway.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// The index of the interface in [`PrevResult::interfaces`].
    #[serde(default)]
    pub interface: Option<usize>,
}

/// A route of [`PrevResult`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PrevRoute {
    /// The destination.
    pub dst: IpNet,
    /// The gateway.
    #[serde(default)]
    pub gw: Option<IpAddr>,
    /// The MTU, from version 1.1.0 on.
    #[serde(default)]
    pub mtu: Option<u32>,
}

impl PrevResult {
    /// Decodes `prevResult`.
    ///
    /// # Errors
    /// Code 6 if it has another form.
    pub fn decode(value: &Value) -> Result<Self, CniError> {
        Self::deserialize(value)
            .map_err(|e| CniError::new(ErrorCode::DECODE, "prevResult cannot be decoded").with_details(e.to_string()))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use heddle_proto::{ContainerId, IfName, PreparedAddress, PreparedRoute};

    use super::*;

    /// A dual-stack attachment.
    pub(crate) fn prepared() -> Prepared {
        let (gw4, gw6): (IpAddr, IpAddr) = ("169.254.1.1".parse().unwrap(), "fe80::1".parse().unwrap());
        let route = |dst: &str, via, mtu| PreparedRoute {
            dst: dst.parse().unwrap(),
            via,
            mtu,
            src: None,
        };
        Prepared {
            attachment: 7,
            host_ifname: IfName::new("hdl7").unwrap(),
            mac: MacAddr([2, 0, 0, 0, 0, 7]),
            mtu: 61_000,
            addresses: vec![
                PreparedAddress {
                    address: "10.1.0.7".parse().unwrap(),
                    gateway: gw4,
                },
                PreparedAddress {
                    address: "fd00:1::7".parse().unwrap(),
                    gateway: gw6,
                },
            ],
            gateway_mac: MacAddr::GATEWAY,
            max_segment: Some(65_536),
            routes: vec![
                route("10.1.0.0/16", gw4, None),
                PreparedRoute {
                    src: Some("10.1.0.7".parse().unwrap()),
                    ..route("0.0.0.0/0", gw4, Some(1500))
                },
                route("fd00:1::/64", gw6, None),
                route("::/0", gw6, Some(1500)),
            ],
        }
    }

    fn shown(version: CniVersion) -> Value {
        let target = Target {
            container: ContainerId::new("c1").unwrap(),
            ifname: IfName::new("eth0").unwrap(),
            pod: None,
        };
        let result: Value = serde_json::from_str(&added(
            version,
            &prepared(),
            MacAddr([2, 0, 0, 0, 0, 8]),
            &target,
            "/run/netns/a",
        ))
        .unwrap();
        PrevResult::decode(&result).unwrap();
        result
    }

    #[test]
    fn the_newest_result_carries_mtus() {
        let expected = json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": "hdl7", "mac": "02:00:00:00:00:08", "mtu": 61000},
                {"name": "eth0", "mac": "02:00:00:00:00:07", "mtu": 61000, "sandbox": "/run/netns/a"}
            ],
            "ips": [
                {"address": "10.1.0.7/32", "gateway": "169.254.1.1", "interface": 1},
                {"address": "fd00:1::7/128", "gateway": "fe80::1", "interface": 1}
            ],
            "routes": [
                {"dst": "10.1.0.0/16", "gw": "169.254.1.1"},
                {"dst": "0.0.0.0/0", "gw": "169.254.1.1", "mtu": 1500},
                {"dst": "fd00:1::/64", "gw": "fe80::1"},
                {"dst": "::/0", "gw": "fe80::1", "mtu": 1500}
            ]
        });
        assert_eq!(shown(CniVersion::V1_1_0), expected);
    }

    #[test]
    fn older_results_carry_no_mtus_and_before_1_0_families() {
        let one = shown(CniVersion::V1_0_0);
        assert_eq!(
            one["interfaces"][0],
            json!({"name": "hdl7", "mac": "02:00:00:00:00:08"})
        );
        assert_eq!(one["routes"][1], json!({"dst": "0.0.0.0/0", "gw": "169.254.1.1"}));
        assert_eq!(one["ips"][0]["version"], Value::Null);
        let old = shown(CniVersion::V0_3_1);
        assert_eq!(
            old["ips"][1],
            json!({"version": "6", "address": "fd00:1::7/128", "gateway": "fe80::1", "interface": 1})
        );
        assert_eq!(old["ips"][0]["version"], "4");
    }
}
