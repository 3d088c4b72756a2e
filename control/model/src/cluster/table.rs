//! The objects of one kind in force, with the place where each version was read.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::changes::Delta;
use crate::key::ObjectKey;

/// The objects of one kind, by namespace and name.
#[derive(Debug)]
pub(super) struct Table<T>(BTreeMap<ObjectKey, Version<T>>);

/// A version in force.
#[derive(Debug)]
struct Version<T> {
    object: Arc<T>,
    /// Where it was read: a file's name, or the API server.
    origin: Arc<str>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table(BTreeMap::new())
    }
}

impl<T: PartialEq> Table<T> {
    /// Returns the number of objects.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns an object.
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Arc<T>> {
        self.0.get(key).map(|version| &version.object)
    }

    /// Returns the objects, by key.
    pub(super) fn values(&self) -> impl ExactSizeIterator<Item = &Arc<T>> {
        self.0.values().map(|version| &version.object)
    }

    /// Returns the keys from `first` on, with their objects.
    pub(super) fn from(&self, first: ObjectKey) -> impl Iterator<Item = (&ObjectKey, &Arc<T>)> {
        self.0.range(first..).map(|(key, version)| (key, &version.object))
    }

    /// Returns the objects with their origins, by key.
    pub(super) fn with_origins(&self) -> impl Iterator<Item = (&Arc<T>, &Arc<str>)> {
        self.0.values().map(|version| (&version.object, &version.origin))
    }

    /// Sets an object to the version that was read at an origin. Returns `None` if the version is the same as before.
    pub(super) fn set(&mut self, key: &ObjectKey, object: Arc<T>, origin: &Arc<str>) -> Option<Delta<T>> {
        if let Some(version) = self.0.get_mut(key)
            && version.object == object
        {
            version.origin = Arc::clone(origin);
            return None;
        }
        let version = Version {
            object: Arc::clone(&object),
            origin: Arc::clone(origin),
        };
        Some(Delta {
            key: key.clone(),
            before: self.0.insert(key.clone(), version).map(|before| before.object),
            after: Some(object),
        })
    }

    /// Removes an object. Returns `None` if there is none.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> Option<Delta<T>> {
        Some(Delta {
            key: key.clone(),
            before: Some(self.0.remove(key)?.object),
            after: None,
        })
    }
}
