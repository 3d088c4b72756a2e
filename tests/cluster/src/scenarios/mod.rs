//! The scenarios: what users do with a cluster, one after the other on one cluster. Each makes and deletes its own namespace.

mod access;
mod api_server_away;
mod basics;
mod churn;
mod connections;
mod crash;
mod drain;
mod faulty_node;
mod host_network;
mod ingress;
mod policy;
mod rolling_update;
mod stateful_set;
mod uninstall;
mod upgrade;

use heddle_lab::LabError;

use crate::cluster::Cluster;

/// A scenario. Its result is a line about what was seen.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// True if it belongs to the quick part.
    pub quick: bool,
    /// Runs it.
    pub run: fn(&mut Cluster) -> Result<String, LabError>,
}

const fn quick(name: &'static str, run: fn(&mut Cluster) -> Result<String, LabError>) -> Scenario {
    Scenario { name, quick: true, run }
}

const fn long(name: &'static str, run: fn(&mut Cluster) -> Result<String, LabError>) -> Scenario {
    Scenario {
        name,
        quick: false,
        run,
    }
}

/// All scenarios, in their order. The last one removes heddle.
pub const ALL: &[Scenario] = &[
    quick("services", basics::services),
    quick("policy", policy::run),
    quick("access", access::run),
    long("host-network", host_network::run),
    long("ingress", ingress::run),
    long("stateful-set", stateful_set::run),
    long("rolling-update", rolling_update::run),
    long("upgrade", upgrade::run),
    long("crash", crash::run),
    long("api-server-away", api_server_away::run),
    long("drain", drain::run),
    long("churn", churn::run),
    long("faulty-node", faulty_node::run),
    long("uninstall", uninstall::run),
];
