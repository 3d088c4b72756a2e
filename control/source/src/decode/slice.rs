//! Decodes EndpointSlices.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use heddle_model::{AddressType, Endpoint, EndpointPort, EndpointSlice, ObjectKey};

use super::meta::Meta;
use super::net;
use super::node::{Found, Node};

pub(super) fn slice<'a>(root: Node<'a>, meta: &Meta<'a>) -> Found<'a, EndpointSlice> {
    let address_type = root.need("addressType")?.parse(|text| match text {
        "IPv4" => Ok(AddressType::V4),
        "IPv6" => Ok(AddressType::V6),
        "FQDN" => Ok(AddressType::Fqdn),
        _ => Err("is no address type: use IPv4, IPv6 or FQDN"),
    })?;
    let service = meta
        .label("kubernetes.io/service-name")?
        .filter(|name| !name.is_empty());
    let mut slice = EndpointSlice {
        key: meta.key.clone(),
        service: service.map(|name| ObjectKey::new(Arc::clone(&meta.key.namespace), name)),
        proxy_name: meta.label("service.kubernetes.io/service-proxy-name")?.map(Into::into),
        headless: meta.label("service.kubernetes.io/headless")?.is_some(),
        address_type,
        ports: Vec::new(),
        endpoints: Vec::new(),
    };
    let mut names = BTreeSet::new();
    for node in root.items("ports")? {
        let name = node.text_of("name")?.unwrap_or_default();
        if !names.insert(name) {
            return Err(node.fault("has the name of another port: each needs one of its own"));
        }
        slice.ports.push(EndpointPort {
            name: name.into(),
            protocol: net::protocol(node)?,
            port: node.port_of("port")?,
        });
    }
    for node in root.items("endpoints")? {
        slice
            .endpoints
            .extend(meta.good(endpoint(node, address_type)).flatten());
    }
    Ok(slice)
}

fn endpoint<'a>(node: Node<'a>, address_type: AddressType) -> Found<'a, Option<Endpoint>> {
    // All addresses must be valid, but only the first one counts, as for kube-proxy.
    let mut first = None;
    for place in node.items("addresses")? {
        let ip: IpAddr = match address_type {
            AddressType::Fqdn => continue,
            AddressType::V4 | AddressType::V6 => place.parse(net::network_address)?,
        };
        if ip.is_ipv4() != (address_type == AddressType::V4) {
            let wanted = if ip.is_ipv4() { "IPv6" } else { "IPv4" };
            return Err(place.fault(format!(
                "is not of the slice's addressType {wanted}: make a slice of its own"
            )));
        }
        first.get_or_insert(ip);
    }
    // Names of hosts (addressType FQDN) are no endpoints for a dataplane.
    let Some(address) = first else {
        let empty = address_type != AddressType::Fqdn;
        return if empty {
            Err(node.missing("addresses"))
        } else {
            Ok(None)
        };
    };
    // Absent conditions and hints have the API's defaults.
    let condition = |key, default| match node.get("conditions")? {
        Some(conditions) => conditions.flag_or(key, default),
        None => Ok(default),
    };
    let hints = |key| -> Found<'a, Vec<Arc<str>>> {
        let Some(hints) = node.get("hints")? else {
            return Ok(Vec::new());
        };
        hints
            .items(key)?
            .map(|hint| Ok(hint.need("name")?.text()?.into()))
            .collect()
    };
    Ok(Some(Endpoint {
        address,
        ready: condition("ready", true)?,
        serving: condition("serving", true)?,
        terminating: condition("terminating", false)?,
        node: node.text_of("nodeName")?.map(Into::into),
        zone: node.text_of("zone")?.map(Into::into),
        hint_zones: hints("forZones")?,
        hint_nodes: hints("forNodes")?,
    }))
}
