//! Activates policies: compiles a policy object into rules with selectors and rule ids. Deactivation releases these.

use std::sync::Arc;

use heddle_model::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, IpBlock, NetworkPolicy, Peer, PolicyPort, PolicyPorts, PolicyRule,
    RuleAction, Tier,
};
use heddle_tables::{Direction, PolicyKind, PolicyTier, Provenance, SnapshotBuilder};

use crate::policy::cidrs::Cidrs;
use crate::policy::equivalence::Refinement;
use crate::policy::identities::Identities;
use crate::policy::ids::SelectorId;
use crate::policy::peer::{PeerSelector, Scope};
use crate::policy::pod_classes::PodClasses;
use crate::policy::references::References;
use crate::policy::rule::{ActivePolicy, ActiveSide, Effect, EvaluationTier, Rule};
use crate::policy::rule_ids::RuleIds;
use crate::policy::selectors::Selectors;

/// The parts of the policy state that activation changes.
pub(crate) struct Context<'a> {
    pub(crate) selectors: &'a mut Selectors,
    pub(crate) references: &'a mut References,
    pub(crate) cidrs: &'a mut Cidrs,
    pub(crate) identities: &'a mut Identities,
    pub(crate) pod_classes: &'a mut PodClasses,
    /// The changes of equivalence classes that removed selectors cause.
    pub(crate) refinement: &'a mut Refinement,
    pub(crate) rule_ids: &'a mut RuleIds,
    pub(crate) tables: &'a mut SnapshotBuilder,
}

/// Compiles a NetworkPolicy.
pub(crate) fn activate(policy: &NetworkPolicy, context: &mut Context<'_>) -> ActivePolicy {
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
        let default = context.rule_ids.acquire(default, context.tables);
        let mut compiled = Vec::new();
        for (index, rule) in (0u32..).zip(rules) {
            let peer_names = collect_peer_port_names(&rule.ports, direction, &mut names);
            compiled.push(compile_rule(policy, direction, index, rule, peer_names, context));
        }
        ActiveSide {
            default: Some(default),
            rules: compiled,
        }
    });
    finish(EvaluationTier::Namespaced, sides, names, context)
}

/// Compiles a ClusterNetworkPolicy, or its Deny rules alone.
pub(crate) fn activate_cluster(
    policy: &ClusterNetworkPolicy,
    denials_only: bool,
    context: &mut Context<'_>,
) -> ActivePolicy {
    let mut names = Vec::new();
    let sides = Direction::BOTH.map(|direction| {
        let mut compiled = Vec::new();
        let numbered = (0u32..).zip(cluster_rules_of(policy, direction));
        for (index, rule) in numbered.filter(|(_, rule)| !denials_only || rule.action == RuleAction::Deny) {
            collect_peer_port_names(&rule.ports, direction, &mut names);
            compiled.push(compile_cluster_rule(policy, direction, index, rule, context));
        }
        ActiveSide {
            default: None,
            rules: compiled,
        }
    });
    finish(policy.tier.into(), sides, names, context)
}

/// Releases everything that the activation of a policy acquired.
pub(crate) fn deactivate(active: &ActivePolicy, context: &mut Context<'_>) {
    for name in &active.port_names {
        context.references.release_port(name);
    }
    for side in &active.sides {
        if let Some(default) = side.default {
            context.rule_ids.release(default, context.tables);
        }
        for rule in &side.rules {
            context.rule_ids.release(rule.id, context.tables);
            for peer in &rule.peers {
                let Context {
                    selectors,
                    references,
                    cidrs,
                    identities,
                    pod_classes,
                    ..
                } = context;
                let refinement = selectors.release(*peer, references, cidrs, identities, pod_classes);
                context.refinement.extend(refinement);
            }
        }
    }
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

/// Returns the names in a rule's ports.
pub(crate) fn port_names(ports: &[PolicyPort]) -> impl Iterator<Item = &Arc<str>> {
    ports.iter().filter_map(|port| match &port.ports {
        PolicyPorts::Name(name) => Some(name),
        PolicyPorts::Any | PolicyPorts::Range(_) => None,
    })
}

/// Makes the active policy, and counts its references to port names: compiling the sides does not count them.
fn finish(
    tier: EvaluationTier,
    sides: [ActiveSide; 2],
    port_names: Vec<Arc<str>>,
    context: &mut Context<'_>,
) -> ActivePolicy {
    for name in &port_names {
        context.references.acquire_port(name);
    }
    ActivePolicy {
        tier,
        sides,
        port_names,
    }
}

/// Adds the port names of an egress rule to `collected`: their numbers depend on the peer's named ports. Returns true
/// if there are any.
fn collect_peer_port_names(ports: &[PolicyPort], direction: Direction, collected: &mut Vec<Arc<str>>) -> bool {
    let names = direction == Direction::Egress && port_names(ports).next().is_some();
    if names {
        collected.extend(port_names(ports).cloned());
    }
    names
}

fn compile_rule(
    policy: &NetworkPolicy,
    direction: Direction,
    index: u32,
    rule: &PolicyRule,
    peer_names: bool,
    context: &mut Context<'_>,
) -> Rule {
    let decision = Provenance::Rule {
        kind: PolicyKind::NetworkPolicy,
        namespace: Arc::clone(&policy.key.namespace),
        name: Arc::clone(&policy.key.name),
        direction,
        rule: index,
    };
    let everyone = rule.peers.is_empty();
    let named = rule.peers.iter().map(|peer| match peer {
        Peer::Block(block) => PeerSelector::Block(block.clone()),
        Peer::Pods { namespaces, pods } => PeerSelector::Pods {
            scope: match namespaces {
                Some(selector) => Scope::Labels(selector.clone()),
                None => Scope::Namespace(Arc::clone(&policy.key.namespace)),
            },
            pods: pods.clone(),
            denies: false,
        },
    });
    let depends =
        (everyone && peer_names).then(|| PeerSelector::HavingPort(port_names(&rule.ports).cloned().collect()));
    Rule {
        peers: select(named.chain(depends), context),
        id: context.rule_ids.acquire(decision, context.tables),
        effect: Effect::Allow,
        everyone,
        ports: rule.ports.clone(),
    }
}

fn compile_cluster_rule(
    policy: &ClusterNetworkPolicy,
    direction: Direction,
    index: u32,
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
                Tier::Admin => PolicyTier::Admin,
                Tier::Baseline => PolicyTier::Baseline,
            },
            name,
            direction,
            rule: index,
            title: Arc::clone(&rule.name),
        }
    };
    let denies = rule.action == RuleAction::Deny;
    let peers = rule.peers.iter().filter_map(|peer| match peer {
        ClusterPeer::Pods(subject) => Some(PeerSelector::Pods {
            scope: Scope::Labels(subject.namespaces.clone()),
            pods: subject.pods.clone(),
            denies,
        }),
        ClusterPeer::Nodes(selector) => Some(PeerSelector::Nodes {
            nodes: selector.clone(),
            denies,
        }),
        // A block without exceptions is always valid.
        ClusterPeer::Network(net) => IpBlock::new(*net, []).ok().map(PeerSelector::Block),
    });
    Rule {
        peers: select(peers, context),
        id: context.rule_ids.acquire(decision, context.tables),
        effect: match rule.action {
            RuleAction::Accept => Effect::Allow,
            RuleAction::Deny => Effect::Deny,
            RuleAction::Pass => Effect::Pass,
        },
        everyone: false,
        ports: rule.ports.clone(),
    }
}

/// Returns the selectors of some peers, sorted.
fn select(peers: impl Iterator<Item = PeerSelector>, context: &mut Context<'_>) -> Vec<SelectorId> {
    let mut selectors: Vec<SelectorId> = peers
        .map(|peer| context.selectors.acquire(peer, context.references, context.cidrs))
        .collect();
    selectors.sort_unstable();
    selectors
}
