//! Policies: which there are, and the active ones, made into rules with numbers and selectors.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use heddle_model::{NetworkPolicy, ObjectKey, Peer as ModelPeer, Pod, PolicyPort, PolicyPorts, PolicyRule};
use heddle_tables::{Decision, Direction, PolicyKind, RuleNo, SnapshotBuilder};

use crate::cidrs::Cidrs;
use crate::identities::Identities;
use crate::relevance::{Feature, Relevance};
use crate::rules::Rules;
use crate::selectors::{Peer, Scope, SelectorNo, Selectors};

/// A version of a policy.
pub(crate) type PolicyId = (ObjectKey, u64);

/// The policies of a namespace, each with the number of its version.
type ByName = BTreeMap<Arc<str>, (u64, Arc<NetworkPolicy>)>;

/// All policies by namespace and name.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    stored: HashMap<Arc<str>, ByName>,
    versions: u64,
    active: HashMap<PolicyId, (Arc<Active>, u32)>,
}

/// An active policy.
#[derive(Debug)]
pub(crate) struct Active {
    /// For each direction that it isolates: what names the default denial, and its rules.
    pub(crate) sides: [Option<(RuleNo, Vec<Rule>)>; 2],
    features: Vec<Feature>,
}

/// One rule of an active policy.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) number: RuleNo,
    /// It speaks of every peer, in the cluster and outside.
    pub(crate) everyone: bool,
    /// Whom it speaks of. With `everyone`: those for whom the answer depends on the peer (named ports).
    pub(crate) peers: Vec<SelectorNo>,
    /// The ports; empty: all of every protocol.
    pub(crate) ports: Vec<PolicyPort>,
}

/// What activating a policy needs.
pub(crate) struct Context<'a> {
    pub(crate) selectors: &'a mut Selectors,
    pub(crate) relevance: &'a mut Relevance,
    pub(crate) cidrs: &'a mut Cidrs,
    pub(crate) identities: &'a mut Identities,
    pub(crate) rules: &'a mut Rules,
    pub(crate) tables: &'a mut SnapshotBuilder,
}

fn rules_of(policy: &NetworkPolicy, direction: Direction) -> Option<&Vec<PolicyRule>> {
    match direction {
        Direction::Ingress => policy.ingress.as_ref(),
        Direction::Egress => policy.egress.as_ref(),
    }
}

fn port_names(rule: &PolicyRule) -> impl Iterator<Item = &Arc<str>> {
    rule.ports.iter().filter_map(|port| match &port.ports {
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

    /// The policies that select a pod, by name.
    pub(crate) fn selecting(&self, pod: &Pod) -> Vec<PolicyId> {
        let names = self.stored.get(&pod.key.namespace).into_iter().flatten();
        let selecting = names.filter(|(_, (_, policy))| policy.selector.matches(&pod.labels));
        selecting
            .map(|(_, (version, policy))| (policy.key.clone(), *version))
            .collect()
    }

    /// The names of ports that these policies' ingress rules speak of: those of the selected pod count.
    pub(crate) fn ingress_port_names(&self, ids: &[PolicyId]) -> BTreeSet<Arc<str>> {
        let policies = ids.iter().filter_map(|id| self.get(id));
        policies
            .flat_map(|p| p.ingress.iter().flatten())
            .flat_map(port_names)
            .cloned()
            .collect()
    }

    fn get(&self, (key, version): &PolicyId) -> Option<&Arc<NetworkPolicy>> {
        let (stored, policy) = self.stored.get(&key.namespace)?.get(&key.name)?;
        (stored == version).then_some(policy)
    }

    /// An active policy, used once more.
    pub(crate) fn acquire(&mut self, id: &PolicyId, context: &mut Context<'_>) -> Option<Arc<Active>> {
        if let Some((active, uses)) = self.active.get_mut(id) {
            *uses += 1;
            return Some(Arc::clone(active));
        }
        let active = Arc::new(activate(self.get(id)?, context));
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
        for feature in &active.features {
            context.relevance.release(feature.clone());
        }
        for (default, rules) in active.sides.iter().flatten() {
            context.rules.release(*default);
            for rule in rules {
                context.rules.release(rule.number);
                for peer in &rule.peers {
                    context
                        .selectors
                        .release(*peer, context.relevance, context.cidrs, context.identities);
                }
            }
        }
    }
}

fn activate(policy: &NetworkPolicy, context: &mut Context<'_>) -> Active {
    let mut features = Vec::new();
    let sides = Direction::BOTH.map(|direction| {
        let rules = rules_of(policy, direction)?;
        let (namespace, name) = (Arc::clone(&policy.key.namespace), Arc::clone(&policy.key.name));
        let default = if policy.refused {
            Decision::Refused {
                namespace,
                name,
                direction,
            }
        } else {
            Decision::DefaultDeny {
                namespace,
                name,
                direction,
            }
        };
        let default = context.rules.acquire(default, context.tables);
        let mut made = Vec::new();
        for (place, rule) in (0u32..).zip(rules) {
            let names = port_names(rule).next().is_some() && direction == Direction::Egress;
            if names {
                features.extend(port_names(rule).cloned().map(Feature::Port));
            }
            made.push(make_rule(policy, direction, place, rule, names, context));
        }
        Some((default, made))
    });
    for feature in &features {
        context.relevance.acquire(feature.clone());
    }
    Active { sides, features }
}

fn make_rule(
    policy: &NetworkPolicy,
    direction: Direction,
    place: u32,
    rule: &PolicyRule,
    peer_names: bool,
    context: &mut Context<'_>,
) -> Rule {
    let decision = Decision::Rule {
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
    let depends = (everyone && peer_names).then(|| Peer::Named(port_names(rule).cloned().collect()));
    let mut peers: Vec<SelectorNo> = named
        .chain(depends)
        .map(|peer| context.selectors.acquire(peer, context.relevance, context.cidrs))
        .collect();
    peers.sort_unstable();
    Rule {
        number: context.rules.acquire(decision, context.tables),
        everyone,
        peers,
        ports: rule.ports.clone(),
    }
}
