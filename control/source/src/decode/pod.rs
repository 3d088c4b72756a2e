//! Decodes pods.

use std::net::IpAddr;

use heddle_model::{ContainerPort, Pod, PodPhase};

use super::meta::{Meta, check_port_name};
use super::net;
use super::node::{Found, Node};

pub(super) fn pod<'a>(root: Node<'a>, meta: &Meta<'a>) -> Found<'a, Pod> {
    let (spec, status) = (root.get("spec")?, root.get("status")?);
    let mut pod = Pod {
        key: meta.key.clone(),
        uid: meta.uid()?,
        labels: meta.labels()?,
        node: None,
        ips: Vec::new(),
        host_network: false,
        phase: PodPhase::Pending,
        ports: Vec::new(),
        ready: net::is_ready(status)?,
        terminating: meta.is_terminating()?,
    };
    if let Some(spec) = spec {
        pod.node = spec
            .text_of("nodeName")?
            .filter(|name| !name.is_empty())
            .map(Into::into);
        pod.host_network = spec.flag_of("hostNetwork")?;
        for container in spec.items("containers")? {
            ports(container, &mut pod.ports)?;
        }
        for container in spec.items("initContainers")? {
            if container.text_of("restartPolicy")? == Some("Always") {
                ports(container, &mut pod.ports)?;
            }
        }
    }
    if let Some(status) = status {
        pod.phase = status.parse_of("phase", phase)?.unwrap_or_default();
        pod.ips = ips(status, pod.host_network)?;
    }
    Ok(pod)
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

fn ips(status: Node<'_>, host_network: bool) -> Found<'_, Vec<IpAddr>> {
    // A pod in the host's network has the addresses of its node.
    let read = if host_network {
        net::address
    } else {
        net::network_address
    };
    let mut places = Vec::new();
    for entry in status.items("podIPs")? {
        places.extend(entry.get("ip")?.filter(|node| node.0 != ""));
    }
    if places.is_empty() {
        places.extend(status.get("podIP")?.filter(|node| node.0 != ""));
    }
    net::one_of_each_family(places.into_iter(), |node| node.parse(read), IpAddr::is_ipv4)
}

fn ports<'a>(container: Node<'a>, out: &mut Vec<ContainerPort>) -> Found<'a, ()> {
    for port in container.items("ports")? {
        out.push(ContainerPort {
            name: port
                .get("name")?
                .filter(|node| node.0 != "")
                .map(|node| node.parse(check_port_name))
                .transpose()?,
            number: port.need("containerPort")?.port()?,
            protocol: net::protocol(port)?,
        });
    }
    Ok(())
}
