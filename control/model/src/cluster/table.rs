//! The objects of one kind in force, with the place where each version was read.
//!
//! An object is found by the key inside it. A map with keys of its own would need half as much memory again for each pod.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use crate::changes::Delta;
use crate::cluster_policy::ClusterNetworkPolicy;
use crate::key::ObjectKey;
use crate::node::{Namespace, Node, ServiceCidr};
use crate::pod::Pod;
use crate::policy::NetworkPolicy;
use crate::service::Service;
use crate::slice::EndpointSlice;

/// The objects of one kind, by namespace and name.
#[derive(Debug)]
pub(super) struct Table<T: Keyed>(BTreeSet<Version<T>>);

/// A version in force.
#[derive(Debug)]
struct Version<T> {
    object: Arc<T>,
    /// Where it was read: a file's name, or the API server.
    origin: Arc<str>,
}

/// An object with a key, or a key.
pub(super) trait Keyed {
    /// Returns namespace and name; the namespace of a cluster's object is empty.
    fn parts(&self) -> (&str, &str);
}

impl Keyed for ObjectKey {
    fn parts(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }
}

macro_rules! keyed {
    (namespaced: $($namespaced:ty),*; of_the_cluster: $($global:ty),*) => {
        $(impl Keyed for $namespaced {
            fn parts(&self) -> (&str, &str) {
                self.key.parts()
            }
        })*
        $(impl Keyed for $global {
            fn parts(&self) -> (&str, &str) {
                ("", &self.name)
            }
        })*
    };
}

keyed!(
    namespaced: Pod, Service, EndpointSlice, NetworkPolicy;
    of_the_cluster: Node, ServiceCidr, Namespace, ClusterNetworkPolicy
);

impl<T: Keyed> Keyed for Version<T> {
    fn parts(&self) -> (&str, &str) {
        self.object.parts()
    }
}

// Versions and keys have the same order: the one of `ObjectKey`.
impl Ord for dyn Keyed + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl PartialOrd for dyn Keyed + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Keyed + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn Keyed + '_ {}

impl<T: Keyed> Ord for Version<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl<T: Keyed> PartialOrd for Version<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Keyed> PartialEq for Version<T> {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl<T: Keyed> Eq for Version<T> {}

impl<'a, T: Keyed + 'a> Borrow<dyn Keyed + 'a> for Version<T> {
    fn borrow(&self) -> &(dyn Keyed + 'a) {
        self
    }
}

impl<T: Keyed> Default for Table<T> {
    fn default() -> Self {
        Table(BTreeSet::new())
    }
}

impl<T: Keyed + PartialEq> Table<T> {
    /// Returns the number of objects.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns an object.
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Arc<T>> {
        self.0.get(key as &dyn Keyed).map(|version| &version.object)
    }

    /// Returns the objects, by key.
    pub(super) fn values(&self) -> impl ExactSizeIterator<Item = &Arc<T>> {
        self.0.iter().map(|version| &version.object)
    }

    /// Returns the objects of a namespace, by name.
    pub(super) fn in_namespace<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a Arc<T>> + use<'a, T> {
        let first = ObjectKey::new(namespace, "");
        let namespace = Arc::clone(&first.namespace);
        let from: Bound<&dyn Keyed> = Bound::Included(&first);
        let all = self.0.range::<dyn Keyed, _>((from, Bound::Unbounded));
        let of_namespace = move |version: &&Version<T>| version.parts().0 == &*namespace;
        all.take_while(of_namespace).map(|version| &version.object)
    }

    /// Returns the objects with their origins, by key.
    pub(super) fn with_origins(&self) -> impl Iterator<Item = (&Arc<T>, &Arc<str>)> {
        self.0.iter().map(|version| (&version.object, &version.origin))
    }

    /// Sets an object to the version that was read at an origin. Returns `None` if the version is the same as before.
    pub(super) fn set(&mut self, key: &ObjectKey, object: Arc<T>, origin: &Arc<str>) -> Option<Delta<T>> {
        let before = self.0.get(key as &dyn Keyed);
        let same = before.filter(|version| version.object == object);
        if same.is_some_and(|version| version.origin == *origin) {
            return None;
        }
        let is_same = same.is_some();
        // The version that was first stays in force, if the other one is the same.
        let in_force = same.map_or_else(|| Arc::clone(&object), |version| Arc::clone(&version.object));
        let before = self.0.replace(Version {
            object: in_force,
            origin: Arc::clone(origin),
        });
        (!is_same).then(|| Delta {
            key: key.clone(),
            before: before.map(|before| before.object),
            after: Some(object),
        })
    }

    /// Removes an object. Returns `None` if there is none.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> Option<Delta<T>> {
        Some(Delta {
            key: key.clone(),
            before: Some(self.0.take(key as &dyn Keyed)?.object),
            after: None,
        })
    }
}
