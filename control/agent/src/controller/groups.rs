//! The groups of the flow table's quota: one for each namespace that has or had an attachment on this node.

use std::collections::BTreeMap;

use heddle_flow::GroupId;

/// The group of each namespace.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeMap<Box<str>, GroupId>);

impl Groups {
    /// Returns the group of a namespace. Attachments without a pod are in group 0, and so are the pods of further namespaces
    /// once 65,535 of them have had a pod here.
    pub(super) fn of(&mut self, namespace: Option<&str>) -> GroupId {
        let Some(namespace) = namespace else {
            return GroupId::default();
        };
        if let Some(group) = self.0.get(namespace) {
            return *group;
        }
        match u16::try_from(self.0.len() + 1) {
            Ok(id) => *self.0.entry(namespace.into()).or_insert(GroupId(id)),
            Err(_) => GroupId::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_namespace_has_a_group_of_its_own_and_keeps_it() {
        let mut groups = Groups::default();
        assert_eq!(groups.of(None), GroupId(0));
        let shop = groups.of(Some("shop"));
        let web = groups.of(Some("web"));
        assert!(shop != web && shop != GroupId(0) && web != GroupId(0));
        assert_eq!(groups.of(Some("shop")), shop);
        for n in 0..70_000 {
            groups.of(Some(&format!("n{n}")));
        }
        assert_eq!(groups.of(Some("one-too-many")), GroupId(0));
        assert_eq!(groups.of(Some("web")), web);
    }
}
