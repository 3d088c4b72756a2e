//! Decodes pods.

use std::net::IpAddr;
use std::sync::Arc;

use heddle_model::{ContainerPort, Pod, PodPhase, PortOfHost};

use super::meta::{Meta, check_port_name};
use super::net;
use super::node::{Found, Node};

pub(super) fn pod<'a>(root: Node<'a>, meta: &Meta<'a>) -> Found<'a, Pod> {
    // No fault refuses a pod: without it, its addresses would be nobody's, and rules that deny its traffic would not match.
    let part = |key| meta.good(root.get(key)).flatten();
    let (spec, status) = (part("spec"), part("status"));
    let mut pod = Pod {
        key: meta.key.clone(),
        uid: meta.good(meta.uid()).unwrap_or_default(),
        static_uid: meta.good(static_uid(meta)).flatten(),
        labels: meta.labels(),
        node: None,
        ips: Box::default(),
        host_network: false,
        phase: PodPhase::Pending,
        ports: Arc::default(),
        ready: meta.good(net::is_ready(status)).unwrap_or_default(),
        terminating: meta.good(meta.is_terminating()).unwrap_or_default(),
        created: meta.good(meta.created()).unwrap_or_default(),
    };
    if let Some(spec) = spec {
        let node = meta.good(spec.text_of("nodeName")).flatten();
        pod.node = node.filter(|name| !name.is_empty()).map(Into::into);
        pod.host_network = meta.good(spec.flag_of("hostNetwork")).unwrap_or_default();
        let list = |key| meta.good(spec.items(key)).into_iter().flatten();
        let mut all = Vec::new();
        for container in list("containers") {
            ports(container, pod.host_network, meta, &mut all);
        }
        for container in list("initContainers") {
            if meta.good(container.text_of("restartPolicy")).flatten() == Some("Always") {
                ports(container, pod.host_network, meta, &mut all);
            }
        }
        pod.ports = all.into();
    }
    if let Some(status) = status {
        // A phase that is not known is none in which addresses are free.
        let read = meta.good(status.parse_of("phase", phase));
        pod.phase = read.map_or(PodPhase::Unknown, Option::unwrap_or_default);
        pod.ips = ips(status, pod.host_network, meta);
    }
    Ok(pod)
}

fn static_uid<'a>(meta: &Meta<'a>) -> Found<'a, Option<Arc<str>>> {
    if meta.annotation("kubernetes.io/config.mirror")?.is_none() {
        return Ok(None);
    }
    let hash = meta.annotation("kubernetes.io/config.hash")?;
    Ok(hash.map(Node::text).transpose()?.map(Into::into))
}

fn phase(text: &str) -> Result<PodPhase, &'static str> {
    match text {
        "Pending" | "" => Ok(PodPhase::Pending),
        "Running" => Ok(PodPhase::Running),
        "Succeeded" => Ok(PodPhase::Succeeded),
        "Failed" => Ok(PodPhase::Failed),
        "Unknown" => Ok(PodPhase::Unknown),
        _ => Err("is no phase: use Pending, Running, Succeeded, Failed or Unknown"),
    }
}

fn ips<'a>(status: Node<'a>, host_network: bool, meta: &Meta<'a>) -> Box<[IpAddr]> {
    // A pod in the host's network has the addresses of its node.
    let read = if host_network {
        net::address
    } else {
        net::network_address
    };
    let text = |node: Node<'a>, key| meta.good(node.get(key)).flatten().filter(|node| node.0 != "");
    let entries = meta.good(status.items("podIPs")).into_iter().flatten();
    let mut places: Vec<Node<'a>> = entries.filter_map(|entry| text(entry, "ip")).collect();
    if places.is_empty() {
        places.extend(text(status, "podIP"));
    }
    let mut ips: Vec<IpAddr> = Vec::new();
    for place in places {
        let Some(ip) = meta.good(place.parse(read)) else {
            continue;
        };
        if ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) {
            meta.good::<()>(Err(net::second_of_family(place)));
        } else {
            ips.push(ip);
        }
    }
    ips.into()
}

fn ports<'a>(container: Node<'a>, host_network: bool, meta: &Meta<'a>, out: &mut Vec<ContainerPort>) {
    let entries = meta.good(container.items("ports")).into_iter().flatten();
    out.extend(entries.filter_map(|entry| {
        let mut port = meta.good(port(entry))?;
        if !host_network {
            port.host = meta.good(port_of_host(entry)).flatten();
        }
        Some(port)
    }));
}

fn port_of_host(node: Node<'_>) -> Found<'_, Option<PortOfHost>> {
    let Some(number) = node.get("hostPort")?.filter(|number| *number.0 != 0) else {
        return Ok(None);
    };
    let ip = node.get("hostIP")?.filter(|ip| ip.0 != "");
    Ok(Some(PortOfHost {
        number: number.port()?,
        ip: ip.map(|ip| ip.parse(host_ip)).transpose()?,
    }))
}

/// Reads `hostIP`, which may be unspecified: the port is then open at every address of the family.
fn host_ip(text: &str) -> Result<IpAddr, &'static str> {
    let unspecified = text.parse().ok().filter(IpAddr::is_unspecified);
    unspecified.map_or_else(|| net::address(text), Ok)
}

fn port(node: Node<'_>) -> Found<'_, ContainerPort> {
    let name = node.get("name")?.filter(|name| name.0 != "");
    Ok(ContainerPort {
        name: name.map(|name| name.parse(check_port_name)).transpose()?,
        number: node.need("containerPort")?.port()?,
        protocol: net::protocol(node)?,
        host: None,
    })
}
