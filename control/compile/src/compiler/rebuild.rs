//! The rebuild: from recorded changes to new tables.
//!
//! Active policies determine the selectors, selectors determine which pods are equal for policy, and this determines
//! the identities of addresses. So the steps have this order. Each handles only what changed since the previous
//! rebuild:
//!
//! 1. **Groups**: endpoints that are now selected by other policies than before move to other groups. Policies are
//!    activated and deactivated; selectors, policy CIDRs and referenced port names are added and removed.
//! 2. **Pod classes** are divided or merged by the added and removed selectors.
//! 3. **Identities**: policy CIDRs and addresses get their identities.
//! 4. **Selectors** find the identities that they match. Existing groups recompile the cells of identities that other
//!    selectors match now.
//! 5. **New groups** compile their cells, now that selectors have their members.
//! 6. **Moves** of addresses between identities are recorded, for step 9. A move needs the selectors of both
//!    identities, so this comes after 4, and the old identity, so it comes before 7.
//! 7. **Unused identities** leave selectors and cells.
//! 8. **Policies** are made from the cells.
//! 9. **Endpoints** are written. Those whose policy refuses more than before get a higher generation.
//! 10. **The snapshot** is built.

use std::collections::BTreeSet;
use std::sync::Arc;

use heddle_tables::EndpointId;
use heddle_wire::Ip;

use super::{BuildResult, Compiler};
use crate::node::endpoints::write_endpoints;
use crate::policy::ids::EquivalenceClassId;
use crate::policy::state::RangeMoves;

impl Compiler {
    /// Makes the tables that follow from all recorded changes.
    pub fn rebuild(&mut self) -> BuildResult {
        let regrouped = self.assign_policy_groups();
        let new_signature = self.refine_pod_classes();
        let (addresses, ranges) = self.assign_identities();
        self.policy.match_selectors(&new_signature);
        self.policy.fill_groups();
        self.record_moves(&addresses, ranges);
        self.policy.remove_unused_identities();
        let policy_pages = self.policy.groups.publish_policies();
        write_endpoints(
            &self.node.attachments,
            &regrouped,
            &self.policy,
            &self.config,
            &mut self.output,
        );
        self.build_snapshot(policy_pages)
    }

    /// Moves endpoints to the groups of the policies that select them. Returns the moved endpoints.
    fn assign_policy_groups(&mut self) -> BTreeSet<EndpointId> {
        let moves = self.node.group_moves(&self.policy);
        let moved = self.policy.move_to_groups(&moves, &mut self.output.tables);
        self.node.set_groups(moved);
        moves.iter().map(|change| change.endpoint).collect()
    }

    /// Divides and merges pod classes, and marks the addresses that need another identity. Returns the equivalence
    /// classes that have a new signature and the same addresses.
    fn refine_pod_classes(&mut self) -> BTreeSet<EquivalenceClassId> {
        let (moved, new_signature) = self.policy.refine_pod_classes();
        self.node.mark_addresses(moved);
        new_signature
    }

    /// Gives policy CIDRs and marked addresses their identities. Returns the addresses that were looked at, and the
    /// identities that outside addresses of policy CIDRs had and have.
    fn assign_identities(&mut self) -> (BTreeSet<Ip>, RangeMoves) {
        if self.policy.references.take_nodes_changed() {
            self.node.mark_nodes();
        }
        let ranges = self
            .policy
            .update_cidrs(&mut self.output.tables, |prefix| self.node.mark_range(prefix));
        let addresses = self.node.assign_identities(&mut self.policy, &mut self.output);
        (addresses, ranges)
    }

    /// Records the addresses whose identity or place differs from the last tables.
    fn record_moves(&mut self, addresses: &BTreeSet<Ip>, ranges: RangeMoves) {
        for (before, after) in ranges {
            self.policy.record_move(before, after);
        }
        for addr in addresses {
            let last = &self.output.last;
            let (before, after) = (last.address(*addr), self.output.tables.current().address(*addr));
            if before.identity != after.identity {
                self.policy.record_move(before.identity, after.identity);
            }
            // An address that the last tables do not know had no live connection that must be judged again.
            if before.place != after.place && last.knows(*addr) {
                self.output.generations.raise_for_place(before.place);
            }
        }
    }

    /// Builds the snapshot if a table changed, and ends the rebuild. The first snapshot is built in any case.
    fn build_snapshot(&mut self, policy_pages: u64) -> BuildResult {
        let mut pages_copied = policy_pages;
        let changed = self.output.tables.is_changed();
        if changed || self.output.last.version() == 0 {
            let (snapshot, pages) = self.output.tables.build();
            pages_copied += pages;
            self.output.last = snapshot;
        }
        self.policy.finish();
        let attachments = self.node.attachments.iter();
        BuildResult {
            snapshot: Arc::clone(&self.output.last),
            changed,
            pages_copied,
            ready: attachments
                .filter(|(_, attached)| attached.group.is_some())
                .map(|(id, _)| id)
                .collect(),
            raised: self.output.generations.take_raised().into_iter().collect(),
            removed_backends: self.services.take_removed_backends(),
            new_frontends: self.services.take_new_frontends(),
            node_ids: self.node.take_assigned_ids(),
        }
    }
}
