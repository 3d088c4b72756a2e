//! Decodes nodes, namespaces and ServiceCIDRs.

use std::net::IpAddr;

use heddle_model::{MacAddress, NAMESPACE_NAME_LABEL, Namespace, Node as ClusterNode, ServiceCidr, VTEP_ANNOTATION};
use ipnet::IpNet;

use super::flannel;
use super::meta::Meta;
use super::net;
use super::node::{Found, Node};

const IS_V4: fn(&IpNet) -> bool = |net| matches!(net, IpNet::V4(_));

pub(super) fn node<'a>(root: Node<'a>, meta: &Meta<'a>) -> Found<'a, ClusterNode> {
    // From the spec: the pod ranges, and the signs that the node is about to be removed.
    let (spec, status) = (root.get("spec")?, root.get("status")?);
    let mut pod_cidrs = Vec::new();
    let mut draining = meta.is_terminating()?;
    if let Some(spec) = spec {
        let read = |node: Node<'a>| node.parse(net::range);
        pod_cidrs = net::one_of_each_family(spec.items("podCIDRs")?, read, IS_V4)?;
        // `podCIDR` counts only without `podCIDRs`. It is empty for a node without a range.
        if let Some(cidr) = spec.get("podCIDR")?.filter(|node| node.0 != "")
            && pod_cidrs.is_empty()
        {
            pod_cidrs.push(cidr.parse(net::range)?);
        }
        for taint in spec.items("taints")? {
            draining |= taint.text_of("key")? == Some("ToBeDeletedByClusterAutoscaler");
        }
    }
    // From the status: the addresses, each once.
    let (mut internal_ips, mut external_ips) = (Vec::new(), Vec::new());
    if let Some(status) = status {
        for address in meta.good(status.items("addresses")).into_iter().flatten() {
            let Some(Some((is_internal, ip))) = meta.good(node_address(address)) else {
                continue;
            };
            let list = if is_internal {
                &mut internal_ips
            } else {
                &mut external_ips
            };
            if !list.contains(&ip) {
                list.push(ip);
            }
        }
    }
    Ok(ClusterNode {
        name: meta.name(),
        labels: meta.labels(),
        internal_ips,
        external_ips,
        vtep: meta.good(vtep(meta)).flatten(),
        flannel: flannel::annotations(meta),
        pod_cidrs,
        ready: meta.good(net::is_ready(status)).unwrap_or_default(),
        draining,
    })
}

/// Reads the annotation by which an agent says that its dataplane is up. Anybody who may write the Node can write it, so a value
/// that cannot be read is ignored with a note.
fn vtep<'a>(meta: &Meta<'a>) -> Found<'a, Option<MacAddress>> {
    let annotation = meta.annotation(VTEP_ANNOTATION)?;
    annotation.map(|node| node.parse(str::parse)).transpose()
}

/// Reads one entry of `status.addresses[]`: `true` and the address for an internal one, `false` for an external one. The API
/// does not check them, and clouds write names and empty texts.
fn node_address(node: Node<'_>) -> Found<'_, Option<(bool, IpAddr)>> {
    let is_internal = match node.need("type")?.text()? {
        "InternalIP" => true,
        "ExternalIP" => false,
        _ => return Ok(None),
    };
    let ip = node.need("address")?.parse(net::address)?;
    Ok(Some((is_internal, ip)))
}

pub(super) fn namespace<'a>(_: Node<'a>, meta: &Meta<'a>) -> Found<'a, Namespace> {
    let name = meta.name();
    let labels = meta.labels_and([(NAMESPACE_NAME_LABEL, &*name)]);
    Ok(Namespace { name, labels })
}

pub(super) fn service_cidr<'a>(root: Node<'a>, meta: &Meta<'a>) -> Found<'a, ServiceCidr> {
    let spec = root.need("spec")?;
    let cidrs = net::one_of_each_family(spec.items("cidrs")?, |node| node.parse(net::range), IS_V4)?;
    if cidrs.is_empty() {
        return Err(spec.missing("cidrs"));
    }
    Ok(ServiceCidr {
        name: meta.name(),
        cidrs,
    })
}
