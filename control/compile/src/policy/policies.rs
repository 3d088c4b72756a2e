//! Policies: which there are, and the active ones, made into rules with numbers and selectors.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use heddle_model::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, IpBlock, Labels, NetworkPolicy, ObjectKey, Peer as ModelPeer, Pod,
    PolicyPort, PolicyPorts, PolicyRule, RuleAction, Tier as ModelTier,
};
use heddle_tables::{Direction, PolicyKind, PolicyTier, Provenance, RuleId, SnapshotBuilder};

use crate::policy::cidrs::Cidrs;
use crate::policy::identities::Identities;
use crate::policy::pod_classes::{Divided, Kinds};
use crate::policy::references::Relevance;
use crate::policy::rule_ids::Rules;
use crate::policy::selectors::{Peer, Scope, SelectorId, Selectors};

/// A version of a policy. Those of administrators have no namespace.
pub(crate) type PolicyId = (ObjectKey, u64);

/// The policies of a namespace, each with the number of its version.
type ByName = BTreeMap<Arc<str>, (u64, Arc<NetworkPolicy>)>;

/// All policies by namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    stored: HashMap<Arc<str>, ByName>,
    cluster: BTreeMap<Arc<str>, (u64, Arc<ClusterNetworkPolicy>)>,
    versions: u64,
    active: HashMap<PolicyId, (Arc<Active>, u32)>,
}

/// In which order policies are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    /// Those of administrators, before all others.
    Admin,
    /// Network policies.
    Namespaced,
    /// Those of administrators, for what no network policy decides.
    Baseline,
}

impl From<ModelTier> for Tier {
    fn from(tier: ModelTier) -> Self {
        match tier {
            ModelTier::Admin => Self::Admin,
            ModelTier::Baseline => Self::Baseline,
        }
    }
}

/// An active policy.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) tier: Tier,
    /// What it says in each direction.
    pub(crate) sides: [ActiveSide; 2],
    /// The names of ports of which the peer's own count.
    port_names: Vec<Arc<str>>,
}

/// What an active policy says in one direction.
#[derive(Debug, Default)]
pub(crate) struct ActiveSide {
    /// It isolates: this denies what nothing allows.
    pub(crate) default: Option<RuleId>,
    pub(crate) rules: Vec<Rule>,
}

/// What a rule says of what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Allow,
    Deny,
    /// The next tier decides.
    Pass,
}

/// One rule of an active policy.
#[derive(Debug, PartialEq)]
pub(crate) struct Rule {
    pub(crate) number: RuleId,
    pub(crate) effect: Effect,
    /// It speaks of every peer, in the cluster and outside.
    pub(crate) everyone: bool,
    /// Whom it speaks of. With `everyone`: those for whom the answer depends on the peer (named ports).
    pub(crate) peers: Vec<SelectorId>,
    /// The ports; empty: all of every protocol.
    pub(crate) ports: Vec<PolicyPort>,
}

/// What activating a policy needs.
pub(crate) struct Context<'a> {
    pub(crate) selectors: &'a mut Selectors,
    pub(crate) relevance: &'a mut Relevance,
    pub(crate) cidrs: &'a mut Cidrs,
    pub(crate) identities: &'a mut Identities,
    pub(crate) kinds: &'a mut Kinds,
    /// What selectors that go do to parts.
    pub(crate) divided: &'a mut Divided,
    pub(crate) rules: &'a mut Rules,
    pub(crate) tables: &'a mut SnapshotBuilder,
}

fn rules_of(policy: &NetworkPolicy, direction: Direction) -> Option<&Vec<PolicyRule>> {
    match direction {
        Direction::Ingress => policy.ingress.as_ref(),
        Direction::Egress => policy.egress.as_ref(),
    }
}

fn cluster_rules_of(policy: &ClusterNetworkPolicy, direction: Direction) -> &[ClusterRule] {
    match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    }
}

fn port_names(ports: &[PolicyPort]) -> impl Iterator<Item = &Arc<str>> {
    ports.iter().filter_map(|port| match &port.ports {
        PolicyPorts::Name(name) => Some(name),
        PolicyPorts::Any | PolicyPorts::Range(_) => None,
    })
}

impl Policies {
    /// Adds, replaces or removes a policy.
    pub(crate) fn set(&mut self, key: &ObjectKey, policy: Option<Arc<NetworkPolicy>>) {
        self.versions += 1;
        let names = self.stored.entry(Arc::clone(&key.namespace)).or_default();
        match policy {
            Some(policy) => {
                names.insert(Arc::clone(&key.name), (self.versions, policy));
            }
            None => {
                names.remove(&key.name);
                if names.is_empty() {
                    self.stored.remove(&key.namespace);
                }
            }
        }
    }

    /// Adds, replaces or removes a policy of administrators.
    pub(crate) fn set_cluster(&mut self, name: &Arc<str>, policy: Option<Arc<ClusterNetworkPolicy>>) {
        self.versions += 1;
        match policy {
            Some(policy) => {
                self.cluster.insert(Arc::clone(name), (self.versions, policy));
            }
            None => {
                self.cluster.remove(name);
            }
        }
    }

    /// The policies that select a pod, in the order in which they are asked: administrators' by priority, then name;
    /// network policies by name; administrators' of the last tier.
    pub(crate) fn selecting(&self, pod: &Pod, namespace: Option<&Labels>) -> Vec<PolicyId> {
        let names = self.stored.get(&pod.key.namespace).into_iter().flatten();
        let selecting = names.filter(|(_, (_, policy))| policy.selector.matches(&pod.labels));
        let mut all: Vec<(Tier, u16, PolicyId)> = selecting
            .map(|(_, (version, policy))| (Tier::Namespaced, 0, (policy.key.clone(), *version)))
            .collect();
        let none = Labels::default();
        let labels = namespace.unwrap_or(&none);
        let cluster = self.cluster.values();
        let selecting = cluster.filter(|(_, policy)| policy.subject.matches(labels, &pod.labels));
        all.extend(selecting.map(|(version, policy)| {
            let id = (ObjectKey::cluster(Arc::clone(&policy.name)), *version);
            (policy.tier.into(), policy.priority, id)
        }));
        all.sort();
        all.into_iter().map(|(.., id)| id).collect()
    }

    /// The names of ports that these policies' ingress rules speak of: those of the selected pod count.
    pub(crate) fn ingress_port_names(&self, ids: &[PolicyId]) -> BTreeSet<Arc<str>> {
        let namespaced = ids.iter().filter_map(|id| self.get(id));
        let rules = namespaced
            .flat_map(|p| p.ingress.iter().flatten())
            .map(|rule| &rule.ports);
        let cluster = ids.iter().filter_map(|id| self.get_cluster(id));
        let rules = rules.chain(cluster.flat_map(|p| &p.ingress).map(|rule| &rule.ports));
        rules.flat_map(|ports| port_names(ports)).cloned().collect()
    }

    fn get(&self, (key, version): &PolicyId) -> Option<&Arc<NetworkPolicy>> {
        let (stored, policy) = self.stored.get(&key.namespace)?.get(&key.name)?;
        (stored == version).then_some(policy)
    }

    fn get_cluster(&self, (key, version): &PolicyId) -> Option<&Arc<ClusterNetworkPolicy>> {
        let (stored, policy) = self.cluster.get(&key.name)?;
        (key.namespace.is_empty() && stored == version).then_some(policy)
    }

    /// An active policy, used once more.
    pub(crate) fn acquire(&mut self, id: &PolicyId, context: &mut Context<'_>) -> Option<Arc<Active>> {
        if let Some((active, uses)) = self.active.get_mut(id) {
            *uses += 1;
            return Some(Arc::clone(active));
        }
        let active = match self.get(id) {
            Some(policy) => activate(policy, context),
            None => activate_cluster(self.get_cluster(id)?, context),
        };
        let active = Arc::new(active);
        self.active.insert(id.clone(), (Arc::clone(&active), 1));
        Some(active)
    }

    /// An active policy is used once less; the last use gives back all that it uses itself.
    pub(crate) fn release(&mut self, id: &PolicyId, context: &mut Context<'_>) {
        let Some((_, uses)) = self.active.get_mut(id) else {
            return;
        };
        *uses -= 1;
        if *uses > 0 {
            return;
        }
        let Some((active, _)) = self.active.remove(id) else {
            return;
        };
        for name in &active.port_names {
            context.relevance.release_port(name);
        }
        for side in &active.sides {
            if let Some(default) = side.default {
                context.rules.release(default, context.tables);
            }
            for rule in &side.rules {
                context.rules.release(rule.number, context.tables);
                for peer in &rule.peers {
                    let Context {
                        selectors,
                        relevance,
                        cidrs,
                        identities,
                        kinds,
                        ..
                    } = context;
                    let divided = selectors.release(*peer, relevance, cidrs, identities, kinds);
                    context.divided.extend(divided);
                }
            }
        }
    }
}

fn activate(policy: &NetworkPolicy, context: &mut Context<'_>) -> Active {
    let mut names = Vec::new();
    let sides = Direction::BOTH.map(|direction| {
        let Some(rules) = rules_of(policy, direction) else {
            return ActiveSide::default();
        };
        let (namespace, name) = (Arc::clone(&policy.key.namespace), Arc::clone(&policy.key.name));
        let default = if policy.refused {
            Provenance::Refused {
                kind: PolicyKind::NetworkPolicy,
                namespace,
                name,
                direction,
            }
        } else {
            Provenance::DefaultDeny {
                namespace,
                name,
                direction,
            }
        };
        let default = context.rules.acquire(default, context.tables);
        let mut made = Vec::new();
        for (place, rule) in (0u32..).zip(rules) {
            let peer_names = speaks_of_peers_ports(&rule.ports, direction, &mut names);
            made.push(make_rule(policy, direction, place, rule, peer_names, context));
        }
        ActiveSide {
            default: Some(default),
            rules: made,
        }
    });
    finish(Tier::Namespaced, sides, names, context)
}

fn activate_cluster(policy: &ClusterNetworkPolicy, context: &mut Context<'_>) -> Active {
    let mut names = Vec::new();
    let sides = Direction::BOTH.map(|direction| {
        let mut made = Vec::new();
        for (place, rule) in (0u32..).zip(cluster_rules_of(policy, direction)) {
            speaks_of_peers_ports(&rule.ports, direction, &mut names);
            made.push(make_cluster_rule(policy, direction, place, rule, context));
        }
        ActiveSide {
            default: None,
            rules: made,
        }
    });
    finish(policy.tier.into(), sides, names, context)
}

fn finish(tier: Tier, sides: [ActiveSide; 2], port_names: Vec<Arc<str>>, context: &mut Context<'_>) -> Active {
    for name in &port_names {
        context.relevance.acquire_port(name);
    }
    Active {
        tier,
        sides,
        port_names,
    }
}

/// Notes the names of ports for which the peer's own count; whether there are any.
fn speaks_of_peers_ports(ports: &[PolicyPort], direction: Direction, noted: &mut Vec<Arc<str>>) -> bool {
    let names = direction == Direction::Egress && port_names(ports).next().is_some();
    if names {
        noted.extend(port_names(ports).cloned());
    }
    names
}

fn make_rule(
    policy: &NetworkPolicy,
    direction: Direction,
    place: u32,
    rule: &PolicyRule,
    peer_names: bool,
    context: &mut Context<'_>,
) -> Rule {
    let decision = Provenance::Rule {
        kind: PolicyKind::NetworkPolicy,
        namespace: Arc::clone(&policy.key.namespace),
        name: Arc::clone(&policy.key.name),
        direction,
        rule: place,
    };
    let everyone = rule.peers.is_empty();
    let named = rule.peers.iter().map(|peer| match peer {
        ModelPeer::Block(block) => Peer::Block(block.clone()),
        ModelPeer::Pods { namespaces, pods } => Peer::Pods {
            scope: match namespaces {
                Some(selector) => Scope::Labels(selector.clone()),
                None => Scope::Namespace(Arc::clone(&policy.key.namespace)),
            },
            pods: pods.clone(),
        },
    });
    let depends = (everyone && peer_names).then(|| Peer::Named(port_names(&rule.ports).cloned().collect()));
    Rule {
        peers: select(named.chain(depends), context),
        number: context.rules.acquire(decision, context.tables),
        effect: Effect::Allow,
        everyone,
        ports: rule.ports.clone(),
    }
}

fn make_cluster_rule(
    policy: &ClusterNetworkPolicy,
    direction: Direction,
    place: u32,
    rule: &ClusterRule,
    context: &mut Context<'_>,
) -> Rule {
    let name = Arc::clone(&policy.name);
    let decision = if policy.refused {
        Provenance::Refused {
            kind: PolicyKind::ClusterNetworkPolicy,
            namespace: "".into(),
            name,
            direction,
        }
    } else {
        Provenance::ClusterRule {
            tier: match policy.tier {
                ModelTier::Admin => PolicyTier::Admin,
                ModelTier::Baseline => PolicyTier::Baseline,
            },
            name,
            direction,
            rule: place,
            title: Arc::clone(&rule.name),
        }
    };
    let peers = rule.peers.iter().filter_map(|peer| match peer {
        ClusterPeer::Pods(subject) => Some(Peer::Pods {
            scope: Scope::Labels(subject.namespaces.clone()),
            pods: subject.pods.clone(),
        }),
        ClusterPeer::Nodes(selector) => Some(Peer::Nodes(selector.clone())),
        // A block without holes is always one.
        ClusterPeer::Network(net) => IpBlock::new(*net, []).ok().map(Peer::Block),
    });
    Rule {
        peers: select(peers, context),
        number: context.rules.acquire(decision, context.tables),
        effect: match rule.action {
            RuleAction::Accept => Effect::Allow,
            RuleAction::Deny => Effect::Deny,
            RuleAction::Pass => Effect::Pass,
        },
        everyone: false,
        ports: rule.ports.clone(),
    }
}

fn select(peers: impl Iterator<Item = Peer>, context: &mut Context<'_>) -> Vec<SelectorId> {
    let mut selectors: Vec<SelectorId> = peers
        .map(|peer| context.selectors.acquire(peer, context.relevance, context.cidrs))
        .collect();
    selectors.sort_unstable();
    selectors
}
