//! Decodes Flannel's annotations of a Node.
//!
//! Anybody who may write the Node can write them, so an annotation that cannot be read is ignored with a note. The tunnel's end that
//! it describes is then unknown.

use std::net::IpAddr;

use heddle_model::flannel::{self, FlannelNode, FlannelVtep};
use serde_json::Value;

use super::meta::Meta;
use super::net;
use super::node::{Found, Node};

/// Reads the annotations of a Node that flanneld manages.
pub(super) fn annotations(meta: &Meta<'_>) -> Option<FlannelNode> {
    let is_managed = text(meta, flannel::SUBNET_MANAGER_ANNOTATION)? == "true";
    let backend = text(meta, flannel::BACKEND_TYPE_ANNOTATION).filter(|_| is_managed)?;
    let end = |data, address, is_right: fn(&IpAddr) -> bool| {
        // The data of other backends have other forms.
        (backend == flannel::VXLAN_BACKEND)
            .then(|| meta.good(vtep(meta, data, address, is_right)).flatten())
            .flatten()
    };
    Some(FlannelNode {
        v4: end(
            flannel::BACKEND_DATA_ANNOTATION,
            flannel::PUBLIC_IP_ANNOTATION,
            IpAddr::is_ipv4,
        ),
        v6: end(
            flannel::BACKEND_V6_DATA_ANNOTATION,
            flannel::PUBLIC_IPV6_ANNOTATION,
            IpAddr::is_ipv6,
        ),
        backend: backend.into(),
    })
}

/// Returns the value of an annotation.
fn text<'a>(meta: &Meta<'a>, name: &str) -> Option<&'a str> {
    meta.good(annotation(meta, name)).flatten()?.0.as_str()
}

/// Returns an annotation whose value is a string.
fn annotation<'a>(meta: &Meta<'a>, name: &str) -> Found<'a, Option<Node<'a>>> {
    let found = meta.annotation(name)?;
    if let Some(node) = found {
        node.text()?;
    }
    Ok(found)
}

/// Reads one end of the tunnels. flanneld writes `null` for a family that it does not serve.
fn vtep<'a>(
    meta: &Meta<'a>,
    data: &str,
    address: &str,
    is_right: fn(&IpAddr) -> bool,
) -> Found<'a, Option<FlannelVtep>> {
    let Some(node) = annotation(meta, data)? else {
        return Ok(None);
    };
    let Some((vni, mac)) = node.parse(backend_data)? else {
        return Ok(None);
    };
    let read = |text| match net::network_address(text) {
        Ok(ip) if !is_right(&ip) => Err("is an address of the other family"),
        read => read,
    };
    let address = annotation(meta, address)?.map(|node| node.parse(read)).transpose()?;
    Ok(Some(FlannelVtep { vni, mac, address }))
}

/// Reads `{"VNI":1,"VtepMAC":"12:34:56:78:9a:bc"}`.
fn backend_data(text: &str) -> Result<Option<(u32, heddle_model::MacAddress)>, String> {
    let data: Value = serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
    if data.is_null() {
        return Ok(None);
    }
    let vni = data["VNI"].as_u64().and_then(|vni| u32::try_from(vni).ok());
    let vni = vni.ok_or("has no number VNI")?;
    let mac = data["VtepMAC"].as_str().ok_or("has no text VtepMAC")?;
    let mac = mac.parse().map_err(|error| format!("has a VtepMAC that {error}"))?;
    Ok(Some((vni, mac)))
}
