//! The objects of one kind that were reported, and the events that follow from what the API server sends.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use heddle_model::{Event, Kind, ObjectKey, ObjectRef, RejectionKey, Subject};
use serde_json::Value;

use super::saved::SavedPart;
use crate::decode::{Decoded, decode};

/// The number of no list.
const NO_LIST: u64 = 0;

/// The reported objects of a kind.
///
/// Lists and watches may show an object several times and in any version. The last one counts, so the state after a complete
/// list is the list's, whatever came before.
#[derive(Debug)]
pub(super) struct Mirror {
    kind: Kind,
    origin: Arc<str>,
    /// Each object, with the number of the list that had it last; 0 for an object that only an earlier agent has seen. Keys
    /// share their names with the model's objects.
    known: HashMap<ObjectKey, u64>,
    /// One copy of each namespace's name for the keys above.
    namespaces: HashSet<Arc<str>>,
    /// The objects that were refused, or have a part that is ignored.
    noted: HashSet<ObjectKey>,
    /// The number of the list that is being read, or was read last.
    list: u64,
}

impl Mirror {
    pub(super) fn new(kind: Kind, origin: Arc<str>) -> Self {
        Self {
            kind,
            origin,
            known: HashMap::new(),
            namespaces: HashSet::new(),
            noted: HashSet::new(),
            list: NO_LIST,
        }
    }

    /// Returns the number of objects.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Reports the objects that an earlier agent saved and the server has not sent yet. The next complete list ends what it does
    /// not have.
    pub(super) fn put_saved(&mut self, part: SavedPart, events: &mut Vec<Event>) {
        for object in part.objects {
            let key = object.key();
            if !self.is_sent(&key) {
                self.record(key, NO_LIST);
                events.push(self.upsert(object));
            }
        }
        for rejection in part.rejections {
            let Subject::Object(subject) = &rejection.subject else {
                continue;
            };
            if !self.is_sent(&subject.key) {
                let key = self.record(subject.key.clone(), NO_LIST);
                self.noted.insert(key);
                events.push(Event::Rejected(rejection));
            }
        }
    }

    /// Returns true if a list of the server had the object.
    fn is_sent(&self, key: &ObjectKey) -> bool {
        self.known.get(key).is_some_and(|list| *list != NO_LIST)
    }

    /// Begins a complete list.
    pub(super) fn begin_list(&mut self) {
        self.list += 1;
    }

    /// Ends a complete list: what it did not have is gone.
    pub(super) fn end_list(&mut self, events: &mut Vec<Event>) {
        let gone: Vec<ObjectKey> = self
            .known
            .iter()
            .filter(|(_, list)| **list != self.list)
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.remove(key, events);
        }
        // Namespaces without an object; a list is rare enough to look at all.
        self.namespaces.retain(|namespace| Arc::strong_count(namespace) > 1);
        events.push(Event::Synced(self.kind));
    }

    /// Reports an object in the version that was sent.
    pub(super) fn put(&mut self, value: &Value, events: &mut Vec<Event>) {
        match decode(value) {
            Ok(Decoded::Object(object)) => {
                let key = self.see(object.key());
                self.restore(&key, events);
                events.push(self.upsert(object));
            }
            Ok(Decoded::Partial(object, ignored)) => {
                let key = self.see(object.key());
                self.restore(&key, events);
                events.push(self.upsert(object));
                self.noted.insert(key);
                events.push(Event::Rejected(ignored.into_note(&self.origin, None)));
            }
            // The server was asked for this kind alone.
            Ok(Decoded::Other(what)) => tracing::warn!(kind = %self.kind, "the API server sent {what}: ignored"),
            Err(refusal) => {
                match &refusal.object {
                    Some(object) => {
                        let key = self.see(object.key.clone());
                        self.noted.insert(key);
                    }
                    None => {
                        tracing::warn!(kind = %self.kind, "the API server sent an object without a name: {refusal}");
                    }
                }
                events.push(Event::Rejected(refusal.into_rejection(&self.origin, 0, None)));
            }
        }
    }

    /// Reports that an object is gone.
    pub(super) fn remove(&mut self, key: ObjectKey, events: &mut Vec<Event>) {
        if self.known.remove(&key).is_some() {
            self.restore(&key, events);
            events.push(Event::Delete(ObjectRef::new(self.kind, key)));
        }
    }

    fn upsert(&self, object: heddle_model::Object) -> Event {
        Event::Upsert {
            origin: Arc::clone(&self.origin),
            object,
        }
    }

    /// Records that the server sent an object.
    fn see(&mut self, key: ObjectKey) -> ObjectKey {
        self.record(key, self.list)
    }

    /// Records the list that had an object.
    fn record(&mut self, mut key: ObjectKey, list: u64) -> ObjectKey {
        if let Some(last) = self.known.get_mut(&key) {
            *last = list;
            return key;
        }
        match self.namespaces.get(&key.namespace) {
            Some(shared) => key.namespace = Arc::clone(shared),
            None => drop(self.namespaces.insert(Arc::clone(&key.namespace))),
        }
        self.known.insert(key.clone(), list);
        key
    }

    /// Ends the rejection or the note about an earlier version.
    fn restore(&mut self, key: &ObjectKey, events: &mut Vec<Event>) {
        if self.noted.remove(key) {
            events.push(Event::Restored(RejectionKey {
                subject: Subject::Object(ObjectRef::new(self.kind, key.clone())),
                origin: Arc::clone(&self.origin),
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use heddle_model::Cluster;
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::saved::Saved;
    use super::*;
    use crate::saved::SavedCluster;

    /// A step of what a server sends about one kind: versions may come twice, and lists at any time.
    #[derive(Clone, Debug)]
    enum Sent {
        Put(u8, u8),
        Gone(u8),
        /// A complete list of what the server has.
        List,
        /// A list that breaks off after so many objects.
        PartOfList(usize),
        /// The last object that was sent comes once more.
        Again,
    }

    fn sent() -> impl Strategy<Value = Sent> {
        prop_oneof![
            6 => (0u8..5, 0u8..4).prop_map(|(name, version)| Sent::Put(name, version)),
            2 => (0u8..5).prop_map(Sent::Gone),
            1 => Just(Sent::List),
            1 => (0usize..5).prop_map(Sent::PartOfList),
            2 => Just(Sent::Again),
        ]
    }

    /// Returns a Service. Version 3 is refused, version 2 has a part that is ignored.
    fn object(name: u8, version: u8) -> Value {
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "a", "name": format!("s{name}"), "labels": {"v": version.to_string()}},
            "spec": {"clusterIP": format!("10.96.0.{}", name + 1), "clusterIPs": [format!("10.96.0.{}", name + 1)],
                "type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP"}]},
        });
        match version {
            1 => service["spec"]["ports"][0]["port"] = json!(81),
            2 => {
                service["spec"]["type"] = json!("LoadBalancer");
                service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "nowhere"}]}});
            }
            3 => service["spec"]["ports"][0]["port"] = json!(70_000),
            _ => {}
        }
        service
    }

    fn key(name: u8) -> ObjectKey {
        ObjectKey::new("a", format!("s{name}"))
    }

    /// Returns what a cluster shows of itself.
    fn shown(cluster: &Cluster) -> (Vec<String>, Vec<String>) {
        let services = cluster.services().map(|service| format!("{service:?}")).collect();
        let mut rejections: Vec<String> = cluster.rejections().map(ToString::to_string).collect();
        rejections.sort();
        (services, rejections)
    }

    proptest! {
        #[test]
        fn the_end_is_the_servers_state_whatever_came_before(steps in prop::collection::vec(sent(), 1..40)) {
            let (mut mirror, mut cluster) = (Mirror::new(Kind::Service, "api".into()), Cluster::new());
            let mut server = std::collections::BTreeMap::new();
            // The last good version of each object serves while a bad one is there.
            let mut last_good = std::collections::BTreeMap::new();
            let mut last = None;
            let mut events = Vec::new();
            for step in steps {
                match step {
                    Sent::Put(name, version) => {
                        server.insert(name, version);
                        last = Some(name);
                        mirror.put(&object(name, version), &mut events);
                    }
                    Sent::Gone(name) => {
                        server.remove(&name);
                        mirror.remove(key(name), &mut events);
                    }
                    Sent::List | Sent::PartOfList(_) => {
                        mirror.begin_list();
                        let some = if let Sent::PartOfList(some) = step { some } else { usize::MAX };
                        for (name, version) in server.iter().take(some) {
                            mirror.put(&object(*name, *version), &mut events);
                        }
                        if matches!(step, Sent::List) {
                            mirror.end_list(&mut events);
                        }
                    }
                    Sent::Again => {
                        if let Some((name, version)) = last.and_then(|name| server.get_key_value(&name)) {
                            mirror.put(&object(*name, *version), &mut events);
                        }
                    }
                }
                last_good.retain(|name, _| server.contains_key(name));
                last_good.extend(server.iter().filter(|(_, version)| **version != 3).map(|(name, version)| (*name, *version)));
                for event in events.drain(..) {
                    cluster.apply(event);
                }
                prop_assert_eq!(mirror.len(), server.len());
            }
            // A fresh start, with the good versions before the bad ones.
            let (mut fresh_mirror, mut fresh) = (Mirror::new(Kind::Service, "api".into()), Cluster::new());
            fresh_mirror.begin_list();
            for (name, version) in last_good.iter().chain(&server) {
                fresh_mirror.put(&object(*name, *version), &mut events);
            }
            fresh_mirror.end_list(&mut events);
            for event in events.drain(..) {
                fresh.apply(event);
            }
            prop_assert_eq!(shown(&cluster), shown(&fresh));
        }
    }

    #[test]
    fn saved_objects_serve_until_a_list_is_complete() {
        let mut mirror = Mirror::new(Kind::Service, "api".into());
        let mut events = Vec::new();
        // The earlier agent knew 1 and 2, and had refused 3.
        mirror.put(&object(1, 0), &mut events);
        mirror.put(&object(2, 0), &mut events);
        mirror.put(&object(3, 3), &mut events);
        let mut cluster = Cluster::new();
        for event in events.drain(..) {
            cluster.apply(event);
        }
        let saved = SavedCluster::of(&cluster, std::time::SystemTime::now());
        assert_eq!((saved.objects.len(), saved.rejections.len()), (2, 1));

        // The new agent has begun to list: 2 has changed.
        let (mut mirror, mut cluster) = (Mirror::new(Kind::Service, "api".into()), Cluster::new());
        mirror.begin_list();
        mirror.put(&object(2, 1), &mut events);
        mirror.put_saved(Saved::new(saved, &"api".into()).take(Kind::Service), &mut events);
        for event in events.drain(..) {
            cluster.apply(event);
        }
        let port = |cluster: &Cluster, name| cluster.service(&key(name)).map(|service| service.ports[0].port.get());
        assert_eq!((port(&cluster, 1), port(&cluster, 2)), (Some(80), Some(81)));
        assert_eq!(cluster.rejections().count(), 1);
        // 1 is gone, and 3 has become good.
        mirror.put(&object(3, 0), &mut events);
        mirror.end_list(&mut events);
        for event in events.drain(..) {
            cluster.apply(event);
        }
        assert_eq!([1, 2, 3].map(|name| port(&cluster, name)), [None, Some(81), Some(80)]);
        assert_eq!(cluster.rejections().count(), 0);
    }

    #[test]
    fn a_list_ends_what_it_does_not_have_and_nothing_else() {
        let mut mirror = Mirror::new(Kind::Service, "api".into());
        let mut events = Vec::new();
        mirror.begin_list();
        mirror.put(&object(1, 0), &mut events);
        mirror.put(&object(2, 3), &mut events);
        mirror.end_list(&mut events);
        assert!(matches!(
            &events[..],
            [Event::Upsert { .. }, Event::Rejected(_), Event::Synced(Kind::Service)]
        ));
        events.clear();
        // A watch may name objects that nobody knows.
        mirror.remove(key(4), &mut events);
        assert_eq!(events, []);
        mirror.begin_list();
        mirror.put(&object(1, 0), &mut events);
        mirror.end_list(&mut events);
        let deleted = |event: &Event| matches!(event, Event::Delete(object) if object.key == key(2));
        assert!(
            events.iter().any(deleted),
            "a refused object is deleted too: {events:?}"
        );
        assert_eq!(mirror.len(), 1);
    }
}
