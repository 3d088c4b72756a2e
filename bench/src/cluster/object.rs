//! Writes objects as the API server does.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::LazyLock;

use heddle_model::Kind;

use super::plan::{Plan, uid};
use super::state::{Revision, Stage, State};
use super::template::Template;

macro_rules! template {
    ($name:ident, $file:literal) => {
        static $name: LazyLock<Template> =
            LazyLock::new(|| Template::new(include_str!(concat!("templates/", $file, ".json"))));
    };
}

template!(POD, "pod");
template!(NODE, "node");
template!(NAMESPACE, "namespace");
template!(SERVICE, "service");
template!(SLICE, "slice");
template!(POLICY, "policy");
template!(SERVICE_CIDR, "service_cidr");

const TIERS: [&str; 4] = ["web", "db", "batch", "queue"];
/// The ports of every Service, and of the bench's own.
const SERVICE_PORTS: [&str; 2] = [
    r#"[{"name":"http","port":80,"protocol":"TCP","targetPort":"http"},{"name":"metrics","port":9090,"protocol":"TCP","targetPort":"metrics"}]"#,
    r#"[{"name":"probe","port":7777,"protocol":"UDP","targetPort":7777}]"#,
];
const SLICE_PORTS: [&str; 2] = [
    r#"[{"name":"http","port":8080,"protocol":"TCP"},{"name":"metrics","port":9090,"protocol":"TCP"}]"#,
    r#"[{"name":"probe","port":7777,"protocol":"UDP"}]"#,
];
/// Images of a node: with them its object has about 10 kB.
const IMAGES: u32 = 40;

/// Writes an object in its newest version; nothing if it does not exist.
pub fn write(state: &State, kind: Kind, index: u32, out: &mut String) {
    let revision = state.revision(kind, index);
    if revision.stage != Stage::Gone {
        write_revision(state, kind, index, revision, out);
    }
}

/// Writes an object in a version.
pub fn write_revision(state: &State, kind: Kind, index: u32, revision: Revision, out: &mut String) {
    let plan = &*state.plan;
    let common = |name: &str, out: &mut String| match name {
        "version" => put(out, revision.version),
        "uid" => out.push_str(&uid(plan.mix(16 + kind as u64, index))),
        _ => {}
    };
    match kind {
        Kind::Pod => POD.write(out, |name, out| pod(plan, index, revision, name, out)),
        Kind::Node => NODE.write(out, |name, out| match name {
            "name" => out.push_str(&plan.node_name(index)),
            "zone" => put(out, format_args!("eu-1{}", ["a", "b", "c"][index as usize % 3])),
            "heartbeat" => time(out, revision.status),
            "cidr" => out.push_str(&plan.pod_ranges(index)[0]),
            "cidrs" => list(out, plan.pod_ranges(index)),
            "addresses" => addresses(plan, index, out),
            "images" => images(plan, index, out),
            other => common(other, out),
        }),
        Kind::Namespace => NAMESPACE.write(out, |name, out| match name {
            "name" => out.push_str(&plan.namespace_name(index)),
            "env" => out.push_str(["prod", "staging", "dev"][index as usize % 3]),
            "team" => put(out, format_args!("team-{}", (index + revision.content) % 200)),
            other => common(other, out),
        }),
        Kind::Service => {
            let deployment = Plan::deployment_of(plan.first_pod_of(index));
            SERVICE.write(out, |name, out| match name {
                "name" => out.push_str(&service_name(plan, index)),
                "namespace" => out.push_str(&plan.namespace_of(deployment)),
                "app" => out.push_str(&plan.app_of(deployment)),
                "ip" => put(out, plan.service_addresses(index)[0]),
                "ips" => list(out, plan.service_addresses(index)),
                "ports" => out.push_str(ports(plan, index, SERVICE_PORTS)),
                "families" => {
                    let family = |ip: IpAddr| if ip.is_ipv4() { "IPv4" } else { "IPv6" };
                    list(out, plan.service_addresses(index).into_iter().map(family));
                }
                other => common(other, out),
            });
        }
        Kind::EndpointSlice => {
            let (service, part) = state.slices.get(index as usize).copied().unwrap_or_default();
            let deployment = Plan::deployment_of(plan.first_pod_of(service));
            SLICE.write(out, |name, out| match name {
                "name" => put(out, format_args!("{}-{part:05x}", service_name(plan, service))),
                "service" => out.push_str(&service_name(plan, service)),
                "namespace" => out.push_str(&plan.namespace_of(deployment)),
                "app" => out.push_str(&plan.app_of(deployment)),
                "family" => out.push_str("IPv4"),
                "ports" => out.push_str(ports(plan, service, SLICE_PORTS)),
                "endpoints" if service == plan.services => probe_endpoints(state, out),
                "endpoints" => endpoints(plan, service, part, revision, out),
                other => common(other, out),
            });
        }
        Kind::NetworkPolicy => POLICY.write(out, |name, out| match name {
            "name" => put(out, format_args!("policy-{index}")),
            "namespace" => out.push_str(&plan.namespace_of(policy_deployment(plan, index))),
            "tier" => out.push_str(TIERS[tier(plan, policy_deployment(plan, index))]),
            "team" => put(out, format_args!("team-{}", index % 200)),
            "monitoring" => out.push_str(&plan.namespace_name(0)),
            "port" => put(out, 8000 + (index + revision.content) % 1000),
            "block" => put(out, format_args!("10.{}", 128 + index % 100)),
            other => common(other, out),
        }),
        Kind::ServiceCidr => SERVICE_CIDR.write(out, |name, out| match name {
            "cidrs" => list(out, plan.service_ranges()),
            other => common(other, out),
        }),
        Kind::ClusterNetworkPolicy => {}
    }
}

fn pod(plan: &Plan, index: u32, revision: Revision, name: &str, out: &mut String) {
    let deployment = Plan::deployment_of(index);
    let is_running = matches!(revision.stage, Stage::Running | Stage::Terminating);
    // The kubelet of the local node has not started the attached pods.
    let has_address = is_running && !plan.is_attached(index);
    match name {
        "name" => out.push_str(&plan.pod_name(index, revision.life)),
        "namespace" => out.push_str(&plan.namespace_of(deployment)),
        "uid" => out.push_str(&plan.pod_uid(index, revision.life)),
        "version" => put(out, revision.version),
        "app" => out.push_str(&plan.app_of(deployment)),
        "hash" => out.push_str(&plan.hash_of(deployment)),
        "release" => put(
            out,
            format_args!("v1.{}.{}", plan.mix(6, deployment) % 40, revision.content),
        ),
        "tier" => out.push_str(TIERS[tier(plan, deployment)]),
        "created" => time(out, revision.life),
        "deleted" if revision.stage == Stage::Terminating => out.push_str("\"2026-02-12T10:00:00Z\""),
        "node" if revision.stage != Stage::Unscheduled => quoted(out, plan.node_name(plan.node_of(index))),
        "ready" => out.push_str(if has_address && revision.status.is_multiple_of(2) {
            "True"
        } else {
            "False"
        }),
        "restarts" => put(out, revision.status / 2),
        "hostip" => put(out, plan.node_addresses(plan.node_of(index))[0]),
        "phase" => out.push_str(if has_address { "Running" } else { "Pending" }),
        "ip" => put(out, plan.pod_addresses(index, revision.life)[0]),
        "podip" if has_address => quoted(out, plan.pod_addresses(index, revision.life)[0]),
        "podips" if has_address => {
            out.push('[');
            for (n, ip) in plan.pod_addresses(index, revision.life).iter().enumerate() {
                put(
                    out,
                    format_args!("{}{{\"ip\":\"{ip}\"}}", if n == 0 { "" } else { "," }),
                );
            }
            out.push(']');
        }
        _ => out.push_str("null"),
    }
}

/// Writes the endpoints of a slice. Every second change makes one endpoint not ready, and the next one repairs it.
fn endpoints(plan: &Plan, service: u32, part: u32, revision: Revision, out: &mut String) {
    let all = plan.endpoints_in(service, part);
    let unready = revision.content % 2 == 1;
    let which = all.start + (revision.content / 2) % (all.len() as u32).max(1);
    out.push('[');
    for endpoint in all.clone() {
        let pod = plan.endpoint_pod(service, endpoint);
        let ready = !(unready && endpoint == which);
        put(
            out,
            format_args!(
                "{}{{\"addresses\":[\"{}\"],\"conditions\":{{\"ready\":{ready},\"serving\":{ready},\"terminating\":false}},\
                 \"nodeName\":\"{}\",\"targetRef\":{{\"kind\":\"Pod\",\"name\":\"{}\",\"namespace\":\"{}\",\"uid\":\"{}\"}},\
                 \"zone\":\"eu-1{}\"}}",
                if endpoint == all.start { "" } else { "," },
                plan.pod_addresses(pod, 0)[0],
                plan.node_name(plan.node_of(pod)),
                plan.pod_name(pod, 0),
                plan.namespace_of(Plan::deployment_of(pod)),
                plan.pod_uid(pod, 0),
                ["a", "b", "c"][plan.node_of(pod) as usize % 3],
            ),
        );
    }
    out.push(']');
}

fn probe_endpoints(state: &State, out: &mut String) {
    out.push('[');
    for (n, ip) in state.probe.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        let node = &state.plan.node;
        put(
            out,
            format_args!(
                "{comma}{{\"addresses\":[\"{ip}\"],\"conditions\":{{\"ready\":true}},\"nodeName\":\"{node}\"}}"
            ),
        );
    }
    out.push(']');
}

/// Returns the Deployment whose pods a policy selects. A tenth of the policies select local pods.
fn policy_deployment(plan: &Plan, policy: u32) -> u32 {
    let pod = match policy.is_multiple_of(10) {
        true => plan.local_pod(policy / 10 * 5 % plan.local.max(1)),
        false => (plan.mix(7, policy) % u64::from(plan.pods)) as u32,
    };
    Plan::deployment_of(pod)
}

fn tier(plan: &Plan, deployment: u32) -> usize {
    (plan.mix(8, deployment) % 4) as usize
}

fn service_name(plan: &Plan, service: u32) -> String {
    if service == plan.services {
        return "heddle-probe".to_owned();
    }
    let deployment = Plan::deployment_of(plan.first_pod_of(service));
    format!("{}-{}", plan.app_of(deployment), service / (plan.pods / 5).max(1))
}

fn ports(plan: &Plan, service: u32, of: [&'static str; 2]) -> &'static str {
    of[usize::from(service == plan.services)]
}

fn addresses(plan: &Plan, node: u32, out: &mut String) {
    out.push('[');
    for ip in plan.node_addresses(node) {
        put(out, format_args!("{{\"address\":\"{ip}\",\"type\":\"InternalIP\"}},"));
    }
    put(
        out,
        format_args!("{{\"address\":\"{}\",\"type\":\"Hostname\"}}]", plan.node_name(node)),
    );
}

fn images(plan: &Plan, node: u32, out: &mut String) {
    out.push('[');
    for image in 0..IMAGES {
        let digest = plan.mix(9, node * IMAGES + image);
        put(
            out,
            format_args!(
                "{}{{\"names\":[\"registry.example.com/team/app-{image}@sha256:{digest:016x}{digest:016x}{digest:016x}\
                 {digest:016x}\",\"registry.example.com/team/app-{image}:v1.{}.0\"],\"sizeBytes\":{}}}",
                if image == 0 { "" } else { "," },
                digest % 40,
                digest % 1_000_000_000,
            ),
        );
    }
    out.push(']');
}

fn time(out: &mut String, tick: u32) {
    let (minutes, seconds) = (tick / 60 % 60, tick % 60);
    put(
        out,
        format_args!("2026-02-11T{:02}:{minutes:02}:{seconds:02}Z", 9 + tick / 3600 % 14),
    );
}

fn put(out: &mut String, value: impl std::fmt::Display) {
    // Writing into a String does not fail.
    let _ = write!(out, "{value}");
}

fn quoted(out: &mut String, value: impl std::fmt::Display) {
    put(out, format_args!("\"{value}\""));
}

fn list(out: &mut String, values: impl IntoIterator<Item = impl std::fmt::Display>) {
    out.push('[');
    for (n, value) in values.into_iter().enumerate() {
        put(out, format_args!("{}\"{value}\"", if n == 0 { "" } else { "," }));
    }
    out.push(']');
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use heddle_source::decode::{Decoded, decode};

    use super::*;

    fn small(dual_stack: bool) -> State {
        State::new(Plan {
            nodes: 40,
            pods: 1000,
            local: 20,
            attached: 5,
            services: 210,
            endpoints: 3000,
            policies: 50,
            namespaces: 60,
            dual_stack,
            seed: 3,
            node: "here".to_owned(),
        })
    }

    #[test]
    fn every_object_is_accepted_whole_and_no_two_have_one_name() {
        for dual_stack in [false, true] {
            let state = small(dual_stack);
            for kind in Kind::ALL {
                let mut names = BTreeSet::new();
                for index in 0..state.plan.count(kind) {
                    let mut text = String::new();
                    write(&state, kind, index, &mut text);
                    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                    match decode(&value) {
                        Ok(Decoded::Object(object)) => {
                            assert_eq!(object.kind(), kind);
                            assert!(names.insert(object.key()), "{} comes twice", object.key());
                        }
                        other => panic!("{text}: {other:?}"),
                    }
                }
            }
        }
    }

    #[test]
    fn objects_have_the_sizes_of_real_ones() {
        let state = small(false);
        for (kind, sizes) in [(Kind::Pod, 6000..8000), (Kind::Node, 9000..12_000)] {
            let mut text = String::new();
            write(&state, kind, 7, &mut text);
            assert!(sizes.contains(&text.len()), "{kind}: {}", text.len());
        }
    }
}
