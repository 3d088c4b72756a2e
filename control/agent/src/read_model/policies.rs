//! Converts decisions of the tables to the policies that `heddle drops` and `heddle status` print.

use heddle_proto::Policy;
use heddle_tables::{Direction, PolicyKind, Provenance};

/// Returns `true` if a policy decided.
pub(super) const fn is_policy(decision: &Provenance) -> bool {
    !matches!(
        decision,
        Provenance::NoPolicy | Provenance::OwnNode | Provenance::Itself | Provenance::NotReady
    )
}

/// Returns the policy behind a decision for the messages of the operator's socket; `None` if no policy decided.
pub(super) fn describe(decision: &Provenance) -> Option<Policy> {
    // The fields that all decisions have.
    let named = |kind: PolicyKind, namespace: &str, name: &str, direction: Direction| Policy {
        kind: kind.as_str().to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        tier: String::new(),
        direction: direction.as_str().to_owned(),
        rule: None,
        rule_name: String::new(),
        says: decision.to_string(),
    };
    match decision {
        Provenance::NoPolicy | Provenance::OwnNode | Provenance::Itself | Provenance::NotReady => None,
        Provenance::Rule {
            kind,
            namespace,
            name,
            direction,
            rule,
        } => Some(Policy {
            rule: Some(*rule),
            ..named(*kind, namespace, name, *direction)
        }),
        Provenance::ClusterRule {
            tier,
            name,
            direction,
            rule,
            title,
        } => Some(Policy {
            tier: tier.as_str().to_owned(),
            rule: Some(*rule),
            rule_name: title.to_string(),
            ..named(PolicyKind::ClusterNetworkPolicy, "", name, *direction)
        }),
        Provenance::DefaultDeny {
            namespace,
            name,
            direction,
        } => Some(named(PolicyKind::NetworkPolicy, namespace, name, *direction)),
        Provenance::Refused {
            kind,
            namespace,
            name,
            direction,
        } => Some(named(*kind, namespace, name, *direction)),
    }
}

#[cfg(test)]
mod tests {
    use heddle_tables::PolicyTier;

    use super::*;

    #[test]
    fn a_policy_is_described_by_kind_namespace_name_and_rule() {
        let policy = describe(&Provenance::DefaultDeny {
            namespace: "shop".into(),
            name: "db".into(),
            direction: Direction::Ingress,
        })
        .unwrap();
        assert_eq!(
            (
                policy.kind.as_str(),
                policy.namespace.as_str(),
                policy.name.as_str(),
                policy.rule
            ),
            ("NetworkPolicy", "shop", "db", None)
        );
        assert_eq!(policy.says, "default deny because shop/db selects this pod for ingress");
        let policy = describe(&Provenance::ClusterRule {
            tier: PolicyTier::Admin,
            name: "no-web".into(),
            direction: Direction::Egress,
            rule: 3,
            title: "x".into(),
        })
        .unwrap();
        assert_eq!(
            (
                policy.kind.as_str(),
                policy.tier.as_str(),
                policy.rule,
                policy.rule_name.as_str()
            ),
            ("ClusterNetworkPolicy", "Admin", Some(3), "x")
        );
        assert_eq!((policy.direction.as_str(), policy.namespace.as_str()), ("egress", ""));
        assert_eq!(describe(&Provenance::OwnNode), None);
    }
}
