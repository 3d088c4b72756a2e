//! The network that all nodes of a laboratory share: a bridge in the outside world, and an uplink to it in each namespace.

use std::net::IpAddr;

use crate::{LabError, NetNs, run};

/// Returns the addresses of the member with this number, 192.0.2.NUMBER and 2001:db8::NUMBER.
pub(crate) fn addresses(number: u8) -> [IpAddr; 2] {
    [
        IpAddr::from([192, 0, 2, number]),
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number)]),
    ]
}

/// Connects `eth0` of a namespace, with the addresses of `number`, to the bridge of `outside`. `name` must be short: the
/// bridge's end is called `to-NAME`, and the kernel takes 15 characters.
pub(crate) fn join(ns: &NetNs, outside: &NetNs, name: &str, number: u8) -> Result<(), LabError> {
    let outside_path = outside.path().display().to_string();
    let port = format!("to-{name}");
    let [v4, v6] = addresses(number);
    ns.enter(|| {
        let veth = ["link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns"];
        run("ip", &[&veth[..], &[&outside_path]].concat())?;
        run("ip", &["address", "add", &format!("{v4}/24"), "dev", "eth0"])?;
        run("ip", &["address", "add", &format!("{v6}/64"), "dev", "eth0", "nodad"])?;
        run("ip", &["link", "set", "eth0", "up"])?;
        run("ip", &["route", "add", "default", "via", "192.0.2.254"])?;
        run("ip", &["-6", "route", "add", "default", "via", "2001:db8::fe"]).map(drop)
    })?;
    outside
        .run("ip", &["link", "set", &port, "master", "br0", "up"])
        .map(drop)
}
