//! The scenario of the demo and of most suites: namespace `shop` on one node, with the backends of a dual-stack Service, a
//! client, and a database that a NetworkPolicy opens to the backends alone.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::{AddResult, Binaries, Lab, LabError, Node, NodePlan, Pod, manifests, wait_until};

/// The port at which the Service's backends listen.
pub const WEB_TARGET: u16 = 8080;
/// The Service's port.
pub const WEB_PORT: u16 = 80;
/// The database's port.
pub const DB_PORT: u16 = 5432;

/// A pod and the addresses that CNI ADD gave it.
#[derive(Debug)]
pub struct Member {
    /// The pod.
    pub pod: Pod,
    /// The result of ADD.
    pub attached: AddResult,
    web: bool,
}

impl Member {
    /// Returns its address of a family, with a port.
    ///
    /// # Errors
    /// The pod has no address of the family.
    pub fn at(&self, v6: bool, port: u16) -> Result<SocketAddr, LabError> {
        Ok(SocketAddr::new(self.attached.ip(v6)?, port))
    }
}

/// The scenario. Its fields are dropped in their order: pods and node before the laboratory, which holds their folders.
#[derive(Debug)]
pub struct Shop {
    members: Vec<Member>,
    /// The node.
    pub node: Node,
    /// The laboratory.
    pub lab: Lab,
}

impl Shop {
    /// The addresses of Service shop/web.
    pub const SERVICE_IPS: [IpAddr; 2] = [
        IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 80)),
        IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x80)),
    ];

    /// Makes a node and writes the namespace, the Service (without endpoints) and the policy. No agent runs yet.
    ///
    /// # Errors
    /// A step of the laboratory failed.
    pub fn new(binaries: Binaries, plan: NodePlan) -> Result<Self, LabError> {
        Self::new_in(Lab::new(binaries)?, plan)
    }

    fn new_in(lab: Lab, plan: NodePlan) -> Result<Self, LabError> {
        let node = lab.node(plan)?;
        node.apply(&manifests::service_cidr(&["10.96.0.0/16", "fd00:10:96::/112"]))?;
        node.apply(&manifests::namespace("shop"))?;
        node.apply(&manifests::service(
            "shop",
            "web",
            &Self::SERVICE_IPS,
            WEB_PORT,
            WEB_TARGET,
        ))?;
        node.apply(&manifests::allow_only(
            "shop",
            "db-from-web",
            ("app", "db"),
            ("app", "web"),
            DB_PORT,
        ))?;
        Ok(Self {
            members: Vec::new(),
            node,
            lab,
        })
    }

    /// Makes the whole scenario and starts it: agent, pods web-1, web-2, client and db, endpoints.
    ///
    /// # Errors
    /// A step failed.
    pub fn start(binaries: Binaries, plan: NodePlan) -> Result<Self, LabError> {
        Self::start_in(Lab::new(binaries)?, plan)
    }

    /// Makes and starts the scenario in a laboratory whose folder already has files, such as a configuration file.
    ///
    /// # Errors
    /// A step failed.
    pub fn start_in(lab: Lab, plan: NodePlan) -> Result<Self, LabError> {
        let mut shop = Self::new_in(lab, plan)?;
        shop.node.start_agent()?;
        for (name, app) in [("web-1", "web"), ("web-2", "web"), ("client", "client"), ("db", "db")] {
            shop.add_pod(name, app)?;
        }
        shop.publish_endpoints()?;
        Ok(shop)
    }

    /// Makes a pod with this value of the label `app`, and attaches it.
    ///
    /// # Errors
    /// ADD failed.
    pub fn add_pod(&mut self, name: &str, app: &str) -> Result<&Member, LabError> {
        let pod = self.lab.pod("shop", name, &[("app", app)])?;
        let attached = self.node.start_pod(&pod)?;
        self.members.push(Member {
            pod,
            attached,
            web: app == "web",
        });
        self.member(name)
    }

    /// Writes the Service's EndpointSlices, with all pods of label app=web, and waits until the agent's tables contain them.
    ///
    /// # Errors
    /// A file cannot be written, or the tables do not contain the backends within 5 s.
    pub fn publish_endpoints(&self) -> Result<(), LabError> {
        let wanted = 2 * self.members.iter().filter(|member| member.web).count() as u64;
        for v6 in [false, true] {
            let backends = self.members.iter().filter(|member| member.web);
            let endpoints = backends
                .map(|member| Ok((member.attached.ip(v6)?, member.pod.name.as_str())))
                .collect::<Result<Vec<_>, LabError>>()?;
            self.node
                .apply(&manifests::endpoint_slice("shop", "web", v6, WEB_TARGET, &endpoints))?;
        }
        let what = format!("{wanted} backends in the agent's tables");
        wait_until(&what, Duration::from_secs(5), || {
            Ok(self.node.status()?["tables"]["backends"].as_u64() == Some(wanted))
        })
    }

    /// Returns a pod by its name.
    ///
    /// # Errors
    /// The scenario has no such pod.
    pub fn member(&self, name: &str) -> Result<&Member, LabError> {
        self.members
            .iter()
            .find(|member| member.pod.name == name)
            .ok_or_else(|| LabError::Reply {
                what: "the shop".to_owned(),
                detail: format!("it has no pod {name}"),
            })
    }

    /// Changes a pod's label `app` and writes its object.
    ///
    /// # Errors
    /// The scenario has no such pod, or its object cannot be written.
    pub fn relabel(&mut self, name: &str, app: &str) -> Result<(), LabError> {
        if let Some(member) = self.members.iter_mut().find(|member| member.pod.name == name) {
            member.pod.relabel(&[("app", app)]);
        }
        let member = self.member(name)?;
        self.node
            .apply(&member.pod.object(self.node.name(), &member.attached.ips))
    }

    /// Returns all pods.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns the Service's frontend of a family.
    #[must_use]
    pub const fn service(v6: bool) -> SocketAddr {
        SocketAddr::new(Self::SERVICE_IPS[v6 as usize], WEB_PORT)
    }
}
