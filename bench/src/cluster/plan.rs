//! The sizes of a cluster, and everything that follows from them and the seed: names, addresses, placement.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::Args;
use heddle_model::Kind;

/// Pods of one Deployment.
const REPLICAS: u32 = 5;
/// The most endpoints of a slice, as the EndpointSlice controller has it.
const PER_SLICE: u32 = 100;
/// The port at which the bench's pods listen.
pub const PROBE_PORT: u16 = 7777;

/// The size of a cluster.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Nodes
    #[arg(long, default_value_t = 5000)]
    pub nodes: u32,
    /// Pods
    #[arg(long, default_value_t = 150_000)]
    pub pods: u32,
    /// Pods of the node whose agent is measured; a multiple of 5
    #[arg(long, default_value_t = 110)]
    pub local: u32,
    /// Pods of the node that the bench attaches; at least 5, at most all of the node's
    #[arg(long, default_value_t = 110, value_parser = clap::value_parser!(u32).range(5..))]
    pub attached: u32,
    /// Services
    #[arg(long, default_value_t = 10_000)]
    pub services: u32,
    /// Endpoints of all Services
    #[arg(long, default_value_t = 100_000)]
    pub endpoints: u32,
    /// NetworkPolicies
    #[arg(long, default_value_t = 2000)]
    pub policies: u32,
    /// Namespaces
    #[arg(long, default_value_t = 10_000)]
    pub namespaces: u32,
    /// Two addresses for each pod, node and Service
    #[arg(long)]
    pub dual_stack: bool,
    /// Seed of the objects and of the changes
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Name of the node whose agent is measured
    #[arg(long, default_value = "local-1")]
    pub node: String,
}

impl Plan {
    /// Returns the arguments that make this plan, for another process.
    #[must_use]
    pub fn to_arguments(&self) -> Vec<String> {
        let numbers = [
            ("nodes", self.nodes),
            ("pods", self.pods),
            ("local", self.local),
            ("attached", self.attached),
            ("services", self.services),
            ("endpoints", self.endpoints),
            ("policies", self.policies),
            ("namespaces", self.namespaces),
        ];
        let mut arguments: Vec<String> = numbers.iter().map(|(name, n)| format!("--{name}={n}")).collect();
        arguments.extend([format!("--seed={}", self.seed), format!("--node={}", self.node)]);
        arguments.extend(self.dual_stack.then(|| "--dual-stack".to_owned()));
        arguments
    }

    /// Returns the number of objects of a kind, before any change.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u32 {
        match kind {
            Kind::Node => self.nodes,
            Kind::ServiceCidr => 1,
            Kind::Namespace => self.namespaces,
            Kind::Pod => self.pods,
            // The last one is the bench's own.
            Kind::Service => self.services + 1,
            Kind::EndpointSlice => (0..self.services).map(|service| self.slices_of(service)).sum::<u32>() + 1,
            Kind::NetworkPolicy => self.policies,
            Kind::ClusterNetworkPolicy => 0,
        }
    }

    /// Returns a number that follows from the seed and the words.
    #[must_use]
    pub fn mix(&self, what: u64, index: u32) -> u64 {
        mix(self.seed ^ (what << 48) ^ u64::from(index))
    }

    /// Returns the index of the `n`th local pod. Local pods come in whole Deployments, spread over the cluster.
    #[must_use]
    pub const fn local_pod(&self, n: u32) -> u32 {
        n / REPLICAS * self.stride() + n % REPLICAS
    }

    const fn stride(&self) -> u32 {
        let deployments = if self.local < REPLICAS {
            1
        } else {
            self.local / REPLICAS
        };
        self.pods / REPLICAS / deployments * REPLICAS
    }

    /// Returns the number of a local pod among the local ones; `None` for a pod of another node.
    #[must_use]
    pub const fn local_number(&self, pod: u32) -> Option<u32> {
        let (deployment, at) = (pod / self.stride(), pod % self.stride());
        let number = deployment * REPLICAS + at;
        if at < REPLICAS && number < self.local {
            Some(number)
        } else {
            None
        }
    }

    /// Returns the node of a pod, by its index; 0 is the local one.
    #[must_use]
    pub const fn node_of(&self, pod: u32) -> u32 {
        match self.local_number(pod) {
            Some(_) => 0,
            None => 1 + pod % (self.nodes - 1),
        }
    }

    /// Returns a node's name.
    #[must_use]
    pub fn node_name(&self, node: u32) -> String {
        match node {
            0 => self.node.clone(),
            _ => format!(
                "ip-172-{}-{}-{}.eu-1.compute.example",
                16 + (node >> 16),
                node >> 8 & 255,
                node & 255
            ),
        }
    }

    /// Returns a node's addresses. The local node has the laboratory's.
    #[must_use]
    pub fn node_addresses(&self, node: u32) -> Vec<IpAddr> {
        let v4 = match node {
            0 => Ipv4Addr::new(192, 0, 2, 1),
            _ => Ipv4Addr::from(0xac10_0000 + node),
        };
        let v6 = Ipv6Addr::from((0x2001_0db8_u128 << 96) | u128::from(node + 1));
        self.families(v4, v6)
    }

    /// Returns a node's pod ranges.
    #[must_use]
    pub fn pod_ranges(&self, node: u32) -> Vec<String> {
        let v4 = format!("{}/24", Ipv4Addr::from(0x0a40_0000 + (node << 8)));
        let v6 = format!("fd00:64:0:{node:x}::/64");
        if self.dual_stack { vec![v4, v6] } else { vec![v4] }
    }

    /// Returns a pod's addresses in its `life`th life. The pods of a node never share one.
    #[must_use]
    pub fn pod_addresses(&self, pod: u32, life: u32) -> Vec<IpAddr> {
        let node = self.node_of(pod);
        let (slot, each) = match self.local_number(pod) {
            Some(number) => (number, self.local),
            None => (pod / (self.nodes - 1), self.pods / (self.nodes - 1) + 1),
        };
        let lives = (250 / each).max(1);
        let offset = 4 + slot + each * (life % lives);
        let v6 = (0xfd00_0064_u128 << 96) | (u128::from(node) << 64) | u128::from(offset);
        self.families(Ipv4Addr::from(0x0a40_0000 + (node << 8) + offset), Ipv6Addr::from(v6))
    }

    /// Returns a Service's cluster addresses.
    #[must_use]
    pub fn service_addresses(&self, service: u32) -> Vec<IpAddr> {
        let v6 = (0xfd00_0096_u128 << 96) | u128::from(service + 16);
        self.families(Ipv4Addr::from(0x0a60_0010 + service), Ipv6Addr::from(v6))
    }

    /// Returns the ranges of cluster addresses.
    #[must_use]
    pub fn service_ranges(&self) -> Vec<String> {
        let mut ranges = vec!["10.96.0.0/12".to_owned()];
        ranges.extend(self.dual_stack.then(|| "fd00:96::/108".to_owned()));
        ranges
    }

    fn families(&self, v4: Ipv4Addr, v6: Ipv6Addr) -> Vec<IpAddr> {
        if self.dual_stack {
            vec![v4.into(), v6.into()]
        } else {
            vec![v4.into()]
        }
    }

    /// Returns the Deployment of a pod.
    #[must_use]
    pub const fn deployment_of(pod: u32) -> u32 {
        pod / REPLICAS
    }

    /// Returns the first pod of a Service's Deployment.
    #[must_use]
    pub const fn first_pod_of(&self, service: u32) -> u32 {
        if service == self.services {
            0
        } else {
            service * REPLICAS % self.pods
        }
    }

    /// Returns the namespace of a Deployment.
    #[must_use]
    pub fn namespace_of(&self, deployment: u32) -> String {
        self.namespace_name(deployment % self.namespaces)
    }

    /// Returns a namespace's name.
    #[must_use]
    pub fn namespace_name(&self, namespace: u32) -> String {
        const TEAMS: [&str; 8] = [
            "payments",
            "search",
            "catalog",
            "logistics",
            "identity",
            "media",
            "risk",
            "growth",
        ];
        let team = TEAMS[(self.mix(1, namespace) % 8) as usize];
        format!("{team}-{namespace:05}")
    }

    /// Returns the application's name of a Deployment.
    #[must_use]
    pub fn app_of(&self, deployment: u32) -> String {
        const PARTS: [&str; 8] = [
            "api",
            "worker",
            "frontend",
            "cache",
            "consumer",
            "gateway",
            "indexer",
            "scheduler",
        ];
        let part = PARTS[(self.mix(2, deployment) % 8) as usize];
        format!("{part}-{}", deployment / self.namespaces)
    }

    /// Returns a Deployment's template hash.
    #[must_use]
    pub fn hash_of(&self, deployment: u32) -> String {
        format!("{:010x}", self.mix(3, deployment) & 0xff_ffff_ffff)
    }

    /// Returns a pod's name in its `life`th life.
    #[must_use]
    pub fn pod_name(&self, pod: u32, life: u32) -> String {
        let deployment = Self::deployment_of(pod);
        let suffix = self.mix(4, pod).wrapping_add(u64::from(life)) & 0xf_ffff;
        format!("{}-{}-{suffix:05x}", self.app_of(deployment), self.hash_of(deployment))
    }

    /// Returns true for the first `attached` pods of the node whose agent is measured.
    #[must_use]
    pub fn is_attached(&self, pod: u32) -> bool {
        self.local_number(pod).is_some_and(|number| number < self.attached)
    }

    /// Returns a pod's uid. Attached pods have the uids of the laboratory.
    #[must_use]
    pub fn pod_uid(&self, pod: u32, life: u32) -> String {
        if self.is_attached(pod) {
            let namespace = self.namespace_of(Self::deployment_of(pod));
            return format!("uid-{namespace}-{}", self.pod_name(pod, life));
        }
        uid(self.mix(5, pod).wrapping_add(u64::from(life)))
    }

    /// Returns the number of endpoints of a Service: a few have hundreds, most have a few.
    #[must_use]
    pub const fn endpoints_of(&self, service: u32) -> u32 {
        match (service % 1000, service % 100) {
            (0, _) => 1000,
            (_, 1) => 200,
            _ => {
                let (large, middle) = (self.services.div_ceil(1000), self.services.div_ceil(100));
                let (fixed, others) = (
                    large * 1000 + middle * 200,
                    self.services.saturating_sub(large + middle),
                );
                let left = self.endpoints.saturating_sub(fixed);
                // The rest is spread evenly.
                let Some(each) = left.checked_div(others) else {
                    return 1;
                };
                each + (service % others < left % others) as u32
            }
        }
    }

    /// Returns the number of slices of a Service.
    #[must_use]
    pub const fn slices_of(&self, service: u32) -> u32 {
        let count = self.endpoints_of(service);
        if count == 0 { 1 } else { count.div_ceil(PER_SLICE) }
    }

    /// Returns the numbers of the endpoints in one slice of a Service.
    #[must_use]
    pub fn endpoints_in(&self, service: u32, part: u32) -> std::ops::Range<u32> {
        let end = self.endpoints_of(service);
        (part * PER_SLICE).min(end)..((part + 1) * PER_SLICE).min(end)
    }

    /// Returns the pod behind an endpoint of a Service: no pod comes twice.
    #[must_use]
    pub fn endpoint_pod(&self, service: u32, endpoint: u32) -> u32 {
        self.first_pod_of(service).wrapping_add(endpoint) % self.pods
    }
}

/// Returns a mixed number (SplitMix64).
#[must_use]
pub const fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Returns a number as a uid.
#[must_use]
pub fn uid(number: u64) -> String {
    let other = mix(number);
    format!(
        "{:08x}-{:04x}-4{:03x}-9{:03x}-{:012x}",
        number >> 32,
        number >> 16 & 0xffff,
        number >> 4 & 0xfff,
        other >> 52,
        other & 0xffff_ffff_ffff
    )
}
