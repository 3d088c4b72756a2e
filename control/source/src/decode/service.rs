//! Decodes Services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use heddle_model::{
    ClusterIps, ExternalForwarding, IngressMode, LoadBalancerIngress, LoadBalancing, Service, ServicePort, ServiceType,
    SessionAffinity, TargetPort, TrafficDistribution, TrafficPolicy,
};
use ipnet::IpNet;
use serde_json::Value;

use super::meta::{Meta, check_port_name, labels};
use super::net;
use super::node::{Found, Node};

const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const LOAD_BALANCING_ANNOTATION: &str = "heddle.io/load-balancing";
const EXTERNAL_FORWARDING_ANNOTATION: &str = "heddle.io/external-forwarding";
/// The label of Services that kube-proxy ignores, whatever addresses they have.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// The default of `sessionAffinityConfig.clientIP.timeoutSeconds`: three hours.
const AFFINITY_TIMEOUT: u32 = 10_800;

pub(super) fn service<'a>(root: Node<'a>, meta: &Meta<'a>) -> Found<'a, Service> {
    let spec = root.need("spec")?;
    // The type decides which of the other fields count.
    let service_type = spec.parse_of("type", service_type)?.unwrap_or_default();
    let external_name = service_type == ServiceType::ExternalName;
    let headless = meta.label(HEADLESS_LABEL)?.is_some();
    let cluster_ips = if external_name {
        ClusterIps::Unassigned
    } else {
        let read = cluster_ips(spec)?;
        if headless { ClusterIps::Headless } else { read }
    };
    let selector = labels(spec, "selector", &[])?;
    let external_policy = traffic_policy(spec, "externalTrafficPolicy")?;
    // Only a Service without cluster addresses may have no ports.
    let node_ports = matches!(service_type, ServiceType::NodePort | ServiceType::LoadBalancer);
    let ports = ports(spec, node_ports)?;
    if ports.is_empty() && !external_name && cluster_ips != ClusterIps::Headless {
        return Err(spec.missing("ports"));
    }
    // Nodes answer health checks of a load balancer only if the endpoints differ from node to node.
    let checked = service_type == ServiceType::LoadBalancer && external_policy == TrafficPolicy::Local;
    let health_check_node_port = spec.port_or_zero_of("healthCheckNodePort")?.filter(|_| checked);
    Ok(Service {
        key: meta.key.clone(),
        service_type,
        cluster_ips,
        ports,
        selector: (!selector.is_empty()).then_some(selector),
        external_ips: external_ips(spec)?,
        load_balancer_ingress: load_balancer_ingress(root, meta, service_type),
        source_ranges: source_ranges(spec, meta)?,
        internal_policy: traffic_policy(spec, "internalTrafficPolicy")?,
        external_policy,
        session_affinity: session_affinity(spec)?,
        publish_not_ready: spec.flag_of("publishNotReadyAddresses")?,
        health_check_node_port,
        traffic_distribution: match spec.text_of("trafficDistribution")? {
            Some("PreferClose" | "PreferSameZone") => Some(TrafficDistribution::PreferSameZone),
            Some("PreferSameNode") => Some(TrafficDistribution::PreferSameNode),
            // An unknown preference counts as none.
            Some(_) | None => None,
        },
        proxy_name: meta.label("service.kubernetes.io/service-proxy-name")?.map(Into::into),
        headless_label: meta.label("service.kubernetes.io/headless")?.is_some(),
        load_balancing: match meta.annotation(LOAD_BALANCING_ANNOTATION)? {
            Some(node) => node.parse(load_balancing)?,
            None => LoadBalancing::default(),
        },
        external_forwarding: match meta.annotation(EXTERNAL_FORWARDING_ANNOTATION)? {
            Some(node) => Some(node.parse(external_forwarding)?),
            None => None,
        },
    })
}

fn service_type(text: &str) -> Result<ServiceType, &'static str> {
    match text {
        // Empty texts have the API's default.
        "ClusterIP" | "" => Ok(ServiceType::ClusterIp),
        "NodePort" => Ok(ServiceType::NodePort),
        "LoadBalancer" => Ok(ServiceType::LoadBalancer),
        "ExternalName" => Ok(ServiceType::ExternalName),
        _ => Err("is no type of Service: use ClusterIP, NodePort, LoadBalancer or ExternalName"),
    }
}

fn load_balancing(text: &str) -> Result<LoadBalancing, &'static str> {
    match text {
        "maglev" => Ok(LoadBalancing::Maglev),
        "random" => Ok(LoadBalancing::Random),
        _ => Err("is no way to choose a backend: use maglev or random"),
    }
}

fn external_forwarding(text: &str) -> Result<ExternalForwarding, &'static str> {
    let unknown = "is no way to forward connections from outside: use masquerade or dsr";
    text.parse().map_err(|_| unknown)
}

fn traffic_policy<'a>(spec: Node<'a>, key: &'static str) -> Found<'a, TrafficPolicy> {
    let read = |text: &str| match text {
        "Cluster" | "" => Ok(TrafficPolicy::Cluster),
        "Local" => Ok(TrafficPolicy::Local),
        _ => Err("is no traffic policy: use Cluster or Local"),
    };
    Ok(spec.parse_of(key, read)?.unwrap_or_default())
}

/// Reads `clusterIPs`, or `clusterIP` if there is no list.
fn cluster_ips(spec: Node<'_>) -> Found<'_, ClusterIps> {
    let mut nodes: Vec<Node<'_>> = spec.items("clusterIPs")?.collect();
    if nodes.is_empty() {
        nodes.extend(spec.get("clusterIP")?);
    }
    match nodes.as_slice() {
        [] => return Ok(ClusterIps::Unassigned),
        [Node(Value::String(text))] if text == "None" => return Ok(ClusterIps::Headless),
        [Node(Value::String(text))] if text.is_empty() => return Ok(ClusterIps::Unassigned),
        _ => {}
    }
    let ips = net::one_of_each_family(
        nodes.into_iter(),
        |node| node.parse(net::network_address),
        IpAddr::is_ipv4,
    )?;
    Ok(ClusterIps::Addresses(ips))
}

fn ports(spec: Node<'_>, node_ports: bool) -> Found<'_, Vec<ServicePort>> {
    let nodes = spec.items("ports")?;
    let several = nodes.len() > 1;
    let (mut names, mut fronts, mut on_nodes) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut out = Vec::new();
    for node in nodes {
        let name = node.text_of("name")?.unwrap_or_default();
        if several && name.is_empty() {
            return Err(node.missing("name"));
        }
        let number = node.need("port")?;
        let (protocol, port) = (net::protocol(node)?, number.port()?);
        if !names.insert(name) {
            return Err(node.fault("has the name of another port: each needs one of its own"));
        }
        if !fronts.insert((protocol, port)) {
            return Err(number.fault("is another port's, with the same protocol"));
        }
        let node_port = node.port_or_zero_of("nodePort")?.filter(|_| node_ports);
        if let Some(node_port) = node_port
            && !on_nodes.insert((protocol, node_port))
        {
            let at = node.get("nodePort")?.unwrap_or(node);
            return Err(at.fault("is another port's nodePort, with the same protocol"));
        }
        let target_port = target_port(node)?.unwrap_or(TargetPort::Number(port));
        out.push(ServicePort {
            name: name.into(),
            protocol,
            port,
            target_port,
            node_port,
        });
    }
    Ok(out)
}

fn target_port(node: Node<'_>) -> Found<'_, Option<TargetPort>> {
    match node.get("targetPort")? {
        Some(Node(Value::String(text))) if text.is_empty() => Ok(None),
        Some(name @ Node(Value::String(_))) => Ok(Some(TargetPort::Name(name.parse(check_port_name)?))),
        _ => Ok(node.port_or_zero_of("targetPort")?.map(TargetPort::Number)),
    }
}

fn external_ips(spec: Node<'_>) -> Found<'_, Vec<IpAddr>> {
    let mut ips = Vec::new();
    for node in spec.items("externalIPs")? {
        let ip = node.parse(net::network_address)?;
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    Ok(ips)
}

/// Reads `status.loadBalancer.ingress`. Not everything there is checked by the API, so a bad entry is ignored.
fn load_balancer_ingress<'a>(root: Node<'a>, meta: &Meta<'a>, service_type: ServiceType) -> Vec<LoadBalancerIngress> {
    // The status of a Service that is no longer a LoadBalancer does not count.
    if service_type != ServiceType::LoadBalancer {
        return Vec::new();
    }
    let part = |node: Option<Node<'a>>, key| node.and_then(|node| meta.good(node.get(key)).flatten());
    let balancer = part(part(Some(root), "status"), "loadBalancer");
    let entries = balancer.and_then(|node| meta.good(node.items("ingress")));
    let entries = entries.into_iter().flatten();
    entries.filter_map(|node| meta.good(ingress(node)).flatten()).collect()
}

fn ingress(node: Node<'_>) -> Found<'_, Option<LoadBalancerIngress>> {
    let Some(place) = node.get("ip")?.filter(|node| node.0 != "") else {
        return Ok(None);
    };
    let mode = node.parse_of("ipMode", |text| match text {
        "VIP" | "" => Ok(IngressMode::Vip),
        "Proxy" => Ok(IngressMode::Proxy),
        _ => Err("is no ipMode: use VIP or Proxy"),
    })?;
    Ok(Some(LoadBalancerIngress {
        ip: place.parse(net::network_address)?,
        mode: mode.unwrap_or_default(),
    }))
}

fn source_ranges<'a>(spec: Node<'a>, meta: &Meta<'a>) -> Found<'a, Vec<IpNet>> {
    let mut ranges = Vec::new();
    for node in spec.items("loadBalancerSourceRanges")? {
        ranges.push(node.parse(|text| net::range(text.trim()))?);
    }
    if ranges.is_empty()
        && let Some(annotation) = meta.annotation(SOURCE_RANGES_ANNOTATION)?
    {
        for text in annotation
            .text()?
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty())
        {
            ranges.push(net::range(text).map_err(|error| annotation.fault(format!("{text} {error}")))?);
        }
    }
    Ok(ranges)
}

fn session_affinity(spec: Node<'_>) -> Found<'_, SessionAffinity> {
    let Some(node) = spec.get("sessionAffinity")? else {
        return Ok(SessionAffinity::None);
    };
    match node.text()? {
        "None" | "" => return Ok(SessionAffinity::None),
        "ClientIP" => {}
        _ => return Err(node.fault("is no session affinity: use None or ClientIP")),
    }
    let mut timeout_seconds = AFFINITY_TIMEOUT;
    if let Some(config) = spec.get("sessionAffinityConfig")?
        && let Some(client) = config.get("clientIP")?
        && let Some(seconds) = client.get("timeoutSeconds")?
    {
        let number = seconds.0.as_u64().and_then(|number| u32::try_from(number).ok());
        let legal = number.filter(|number| (1..=86_400).contains(number));
        timeout_seconds = legal.ok_or_else(|| seconds.fault("must be 1 to 86400 seconds"))?;
    }
    Ok(SessionAffinity::ClientIp { timeout_seconds })
}
