//! The last good versions that serve in place of refused ones, and their return after a restart.
//!
//! [`Cluster::kept`] returns them for the state directory. A new cluster that begins with them ([`Cluster::with_kept`]) puts
//! a version in force when the source refuses its object and no good version is known, as if that version had come before
//! the refusal. A version is forgotten when the source reports its object in any other way, or does not report it before
//! its kind has synced: it never brings back an object that the source does not have.
//!
//! A file that does not parse names no objects. Its source reports their kept versions itself, before the refusal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Cluster;
use crate::changes::Changes;
use crate::event::{Cause, Object, Rejection, Subject};
use crate::kept::{Kept, KeptVersion};
use crate::key::{Kind, ObjectRef};

impl Cluster {
    /// Returns an empty cluster that has not synced, and that knows the last good versions which an earlier process kept.
    #[must_use]
    pub fn with_kept(kept: &Kept) -> Cluster {
        Cluster {
            earlier: kept.versions.clone(),
            ..Cluster::default()
        }
    }

    /// Returns the good versions that serve now although a later version of the object, or its file, is refused. The work
    /// grows with the rejections; while a file does not parse, with the cluster.
    #[must_use]
    pub fn kept(&self) -> Kept {
        // Files that do not parse, and all that is in force of them. Of a file that never parsed, nothing is.
        let refused_files = self
            .rejections()
            .filter(|rejection| rejection.subject == Subject::Source);
        let files: BTreeSet<&Arc<str>> = refused_files.map(|rejection| &rejection.origin).collect();
        let mut versions = BTreeMap::new();
        let mut keep = |object: Object, origin: &Arc<str>| {
            let origin = Arc::clone(origin);
            let subject = object.object_ref();
            versions.entry(subject).or_insert(KeptVersion { origin, object });
        };
        if !files.is_empty() {
            self.each_good_version(|object, origin| {
                if files.contains(origin) {
                    keep(object, origin);
                }
            });
        }
        // Objects that are refused themselves.
        for rejection in self.rejections() {
            if let Subject::Object(object) = &rejection.subject
                && supersedes(rejection)
                && let Some(good) = self.good_version(object)
            {
                keep(good, &rejection.origin);
            }
        }
        // A file with closing policies is not listed: they are not kept, so after a restart it closes everything.
        let mut kept_files: BTreeSet<Arc<str>> = versions.values().map(|version| Arc::clone(&version.origin)).collect();
        kept_files.retain(|file| files.contains(file));
        for rejection in self.rejections() {
            if rejection.closes.as_ref().is_some_and(|closes| self.is_closed(closes)) {
                kept_files.remove(&rejection.origin);
            }
        }
        Kept {
            versions,
            files: kept_files,
        }
    }

    /// Puts the kept version of a refused object in force, if no version is known.
    pub(super) fn return_kept(&mut self, rejection: &Rejection, changes: &mut Changes) {
        let Subject::Object(object) = &rejection.subject else {
            return;
        };
        if supersedes(rejection)
            && let Some(kept) = self.earlier.remove(object)
            && self.good_version(object).is_none()
            && self.claims.are_free_for(&kept.object)
        {
            self.upsert(&kept.origin, kept.object, changes);
        }
    }

    /// Puts the kept version of an object in force, if the version that is offered has to wait for a claim.
    pub(super) fn return_kept_before(&mut self, offered: &Object, changes: &mut Changes) {
        if !self.earlier.is_empty()
            && let Some(kept) = self.earlier.remove(&offered.object_ref())
            && !self.claims.are_free_for(offered)
            && self.claims.are_free_for(&kept.object)
        {
            self.upsert(&kept.origin, kept.object, changes);
        }
    }

    /// Forgets the kept versions of a kind that the source has not refused.
    pub(super) fn forget_kept(&mut self, kind: Kind) {
        self.earlier.retain(|object, _| object.kind != kind);
    }

    /// Returns the good version of an object that is in force.
    fn good_version(&self, object: &ObjectRef) -> Option<Object> {
        let key = &object.key;
        let good = match object.kind {
            Kind::Node => Object::Node(Arc::clone(self.nodes.get(key)?)),
            Kind::ServiceCidr => Object::ServiceCidr(Arc::clone(self.service_cidrs.get(key)?)),
            Kind::Namespace => Object::Namespace(Arc::clone(self.namespaces.get(key)?)),
            Kind::Pod => Object::Pod(Arc::clone(self.pods.get(key)?)),
            Kind::Service => Object::Service(Arc::clone(self.services.get(key)?)),
            Kind::EndpointSlice => Object::EndpointSlice(Arc::clone(self.slices.get(key)?)),
            Kind::NetworkPolicy => Object::NetworkPolicy(Arc::clone(self.policies.get(key)?)),
            Kind::ClusterNetworkPolicy => Object::ClusterNetworkPolicy(Arc::clone(self.cluster_policies.get(key)?)),
        };
        (!is_refused(&good)).then_some(good)
    }

    /// Calls a function with each good version in force and its origin: kind by kind in the order of [`Kind::ALL`].
    pub fn each_good_version(&self, mut call: impl FnMut(Object, &Arc<str>)) {
        macro_rules! each {
            ($($table:ident: $kind:ident),*) => {$(
                for (object, origin) in self.$table.with_origins() {
                    let object = Object::$kind(Arc::clone(object));
                    if !is_refused(&object) {
                        call(object, origin);
                    }
                }
            )*};
        }
        each!(
            nodes: Node,
            service_cidrs: ServiceCidr,
            namespaces: Namespace,
            pods: Pod,
            services: Service,
            slices: EndpointSlice,
            policies: NetworkPolicy,
            cluster_policies: ClusterNetworkPolicy
        );
    }

    /// Returns true if a closing policy is in force.
    fn is_closed(&self, closes: &Object) -> bool {
        match closes {
            Object::NetworkPolicy(policy) => self.policies.get(&policy.key).is_some_and(|policy| policy.refused),
            Object::ClusterNetworkPolicy(policy) => {
                self.cluster_policy(&policy.name).is_some_and(|policy| policy.refused)
            }
            _ => false,
        }
    }
}

/// Returns true if the rejection means that the object's version at this origin is not the one in force.
const fn supersedes(rejection: &Rejection) -> bool {
    matches!(rejection.cause, Cause::Invalid | Cause::Unreadable | Cause::Conflict)
}

/// Returns true for a closing policy.
fn is_refused(object: &Object) -> bool {
    match object {
        Object::NetworkPolicy(policy) => policy.refused,
        Object::ClusterNetworkPolicy(policy) => policy.refused,
        _ => false,
    }
}
