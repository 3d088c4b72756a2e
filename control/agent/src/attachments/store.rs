//! The store of the attachments.
//!
//! [`Store`] has the state in memory and changes it at once; [`StateWrite`] writes it to the file. The controller's journal
//! performs the write on a thread of its own, and an answer that reports a change waits for it. If the file cannot be parsed,
//! the agent does not start, and the file stays as it is.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use heddle_model::Node;
use heddle_proto::{ContainerId, IfName, PrepareRequest, ReadyRequest};
use heddle_wire::MacAddr;
use ipnet::IpNet;

use super::alloc;
use super::error::StoreError;
use super::record::{FIRST_ID, LAST_ID, Record};
use super::state_file::{FILE, FileContents, StateWrite, read};

/// The most freed addresses that are recorded.
const MAX_FREED: usize = 4096;

/// The attachments, in memory and in their file.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    state: FileContents,
    /// `true` if the state has changed since the last [`StateWrite`].
    is_unsaved: bool,
    /// The number of changes since the start.
    revision: u64,
}

impl Store {
    /// Reads the file of a state directory. Without a file the store is empty.
    ///
    /// # Errors
    /// The file cannot be read or parsed.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join(FILE);
        let state = match fs::read(&path) {
            Ok(bytes) => read(&bytes).map_err(|problem| StoreError::Damaged {
                path: path.clone(),
                problem,
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => FileContents::default(),
            Err(source) => return Err(StoreError::Io { path, source }),
        };
        Ok(Self {
            path,
            state,
            is_unsaved: false,
            revision: 0,
        })
    }

    /// Returns all attachments in the order of their ids.
    #[must_use]
    pub fn all(&self) -> &[Record] {
        &self.state.attachments
    }

    /// Returns the number of changes since the start: with the same number, the state is the same.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Returns the attachment of an interface of a container.
    #[must_use]
    pub fn get(&self, container: &ContainerId, ifname: &IfName) -> Option<&Record> {
        self.state.attachments.iter().find(|a| a.is_of(container, ifname))
    }

    /// Returns the attachment of an id.
    #[must_use]
    pub fn by_id(&self, id: u16) -> Option<&Record> {
        let at = self.state.attachments.binary_search_by_key(&id, |a| a.id).ok()?;
        self.state.attachments.get(at)
    }

    /// Adds an attachment with the next free id, an address of each range, and an interface name. The caller has removed an
    /// earlier attachment of the same interface.
    ///
    /// # Errors
    /// No id or address is free. Then nothing has changed.
    pub fn add(
        &mut self,
        request: &PrepareRequest,
        ranges: &[IpNet],
        mtu: u32,
        max: u16,
    ) -> Result<Record, StoreError> {
        let who = match &request.pod {
            Some(pod) => pod.to_string(),
            None => format!("container {}", request.container),
        };
        if self.state.attachments.len() >= usize::from(max) {
            return Err(StoreError::TooMany { who, max });
        }
        // A copy is changed, so that an error leaves the state as it was.
        let mut next = self.state.clone();
        let taken: HashSet<IpAddr> = next
            .attachments
            .iter()
            .flat_map(|a| a.addresses.iter().copied())
            .collect();
        // One address of each range.
        let mut addresses = Vec::with_capacity(ranges.len());
        for &range in ranges {
            let last = next.last_addresses.iter().find(|a| range.contains(*a)).copied();
            let address =
                alloc::choose_address(range, last, &taken, &next.freed).ok_or_else(|| StoreError::Exhausted {
                    who: who.clone(),
                    range,
                })?;
            next.last_addresses.retain(|a| !range.contains(a));
            next.last_addresses.push(address);
            next.freed.retain(|a| *a != address);
            addresses.push(address);
        }
        // Addresses of ranges that the node no longer has are removed.
        next.last_addresses
            .retain(|a| ranges.iter().any(|range| range.contains(a)));
        // The id, and the record in the order of the ids.
        let id = next_id(&next).ok_or(StoreError::TooMany { who, max })?;
        next.last_id = id;
        let record = Record {
            id,
            container: request.container.clone(),
            ifname: request.ifname.clone(),
            netns: request.netns.clone(),
            pod: request.pod.clone(),
            host_ifname: host_ifname(id, &request.container),
            host_ifindex: None,
            mac: pod_mac(id, &addresses),
            mtu,
            addresses,
            port_mappings: request.port_mappings.clone(),
            ready: false,
            tcp_segments_only: false,
        };
        let at = next.attachments.partition_point(|a| a.id < id);
        next.attachments.insert(at, record.clone());
        self.replace(next);
        Ok(record)
    }

    /// Records that the interface of an attachment is configured, as the plugin has reported it.
    pub fn set_ready(&mut self, id: u16, reported: &ReadyRequest) {
        let mut next = self.state.clone();
        if let Some(record) = next.attachments.iter_mut().find(|a| a.id == id) {
            (record.ready, record.host_ifindex) = (true, Some(reported.host_ifindex));
            (record.mac, record.tcp_segments_only) = (reported.pod_mac, reported.tcp_segments_only);
        }
        self.replace(next);
    }

    /// Removes an attachment. Its addresses are recorded as freed, so that they are reused late.
    pub fn remove(&mut self, id: u16) {
        let mut next = self.state.clone();
        let Some(at) = next.attachments.iter().position(|a| a.id == id) else {
            return;
        };
        let gone = next.attachments.remove(at);
        next.freed.extend(gone.addresses);
        let excess = next.freed.len().saturating_sub(MAX_FREED);
        next.freed.drain(..excess);
        self.replace(next);
    }

    /// Returns the ids of all other nodes that have ever had one.
    #[must_use]
    pub const fn node_ids(&self) -> &BTreeMap<String, u16> {
        &self.state.nodes
    }

    /// Adds ids that the compiler has allocated to nodes.
    pub fn add_node_ids(&mut self, ids: impl IntoIterator<Item = (String, u16)>) {
        let mut next = self.state.clone();
        next.nodes.extend(ids);
        self.replace(next);
    }

    /// Returns the last version of this node's object that was recorded.
    #[must_use]
    pub const fn own_node(&self) -> Option<&Arc<Node>> {
        self.state.own_node.as_ref()
    }

    /// Records a version of this node's object.
    pub fn set_own_node(&mut self, node: &Arc<Node>) {
        let mut next = self.state.clone();
        next.own_node = Some(Arc::clone(node));
        self.replace(next);
    }

    /// Returns the write that brings the file up to date; `None` if nothing has changed since the last write.
    pub fn unsaved_write(&mut self) -> Option<StateWrite> {
        self.is_unsaved.then(|| self.full_write())
    }

    /// Returns a write of the whole state.
    pub fn full_write(&mut self) -> StateWrite {
        self.is_unsaved = false;
        StateWrite {
            path: self.path.clone(),
            contents: self.state.clone(),
        }
    }

    /// Replaces the state.
    fn replace(&mut self, next: FileContents) {
        if next != self.state {
            self.is_unsaved = true;
            self.revision += 1;
            self.state = next;
        }
    }
}

/// Returns the next free id after the last one; `None` if all are in use.
fn next_id(state: &FileContents) -> Option<u16> {
    let count = LAST_ID - FIRST_ID + 1;
    let last = state.last_id.clamp(FIRST_ID - 1, LAST_ID);
    (0..count)
        .map(|step| FIRST_ID + (last + 1 - FIRST_ID + step) % count)
        .find(|id| state.attachments.binary_search_by_key(id, |a| a.id).is_err())
}

/// Returns the name of the node's end, as `hd7-3f2a91bc`: the id makes it unique, and the container's first letters help
/// people to find it.
fn host_ifname(id: u16, container: &ContainerId) -> IfName {
    let mut name = format!("hd{id}-");
    name.extend(container.as_str().chars().take(15 - name.len()));
    IfName::new(name).unwrap_or_else(|_| fallback_ifname(id))
}

/// Returns a name without the container's letters.
fn fallback_ifname(id: u16) -> IfName {
    // At most six letters and digits are always a legal name.
    match IfName::new(format!("hd{id}")) {
        Ok(name) => name,
        Err(e) => unreachable!("{e}"),
    }
}

/// Returns a locally administered MAC address, unique on the node by the id.
fn pod_mac(id: u16, addresses: &[IpAddr]) -> MacAddr {
    let [high, low] = id.to_be_bytes();
    let (a, b) = match addresses.first() {
        Some(IpAddr::V4(v4)) => (v4.octets()[2], v4.octets()[3]),
        Some(IpAddr::V6(v6)) => (v6.octets()[14], v6.octets()[15]),
        None => (0, 0),
    };
    MacAddr([0x0a, 0x68, high, low, a, b])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(container: &str) -> PrepareRequest {
        serde_json::from_value(serde_json::json!({
            "container": container, "ifname": "eth0", "netns": "/run/netns/x", "pod": {"namespace": "a", "name": container},
        }))
        .unwrap()
    }

    fn save(store: &mut Store) {
        if let Some(write) = store.unsaved_write() {
            write.perform().unwrap();
        }
    }

    fn ranges() -> [IpNet; 2] {
        ["10.0.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()]
    }

    #[test]
    fn survives_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let a = store.add(&request("a"), &ranges(), 1500, 8).unwrap();
        let b = store.add(&request("b"), &ranges(), 1500, 8).unwrap();
        assert_eq!((a.id, b.id), (2, 3));
        assert_eq!(
            a.addresses,
            ["10.0.1.4".parse::<IpAddr>().unwrap(), "fd00:1::4".parse().unwrap()]
        );
        assert_eq!(a.host_ifname.as_str(), "hd2-a");
        let reported = ReadyRequest {
            attachment: 2,
            host_ifindex: 77,
            host_mac: a.mac,
            pod_mac: a.mac,
            tcp_segments_only: true,
        };
        store.set_ready(2, &reported);
        store.remove(3);
        store.add_node_ids([("n2".to_owned(), 1)]);
        save(&mut store);
        let mut again = Store::open(dir.path()).unwrap();
        assert_eq!(again.node_ids()["n2"], 1);
        assert_eq!(again.all().len(), 1);
        let record = again.by_id(2).unwrap();
        assert_eq!((record.host_ifindex, record.tcp_segments_only), (Some(77), true));
        assert!(again.get(&request("a").container, &request("a").ifname).unwrap().ready);
        let c = again.add(&request("c"), &ranges(), 1500, 8).unwrap();
        assert_eq!(c.id, 4, "a freed id is not the next one");
        assert_eq!(
            c.addresses[0],
            "10.0.1.6".parse::<IpAddr>().unwrap(),
            "nor is a freed address"
        );
    }

    #[test]
    fn the_most_pods_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store.add(&request("a"), &ranges(), 1500, 1).unwrap();
        let error = store.add(&request("b"), &ranges(), 1500, 1).unwrap_err().to_string();
        assert!(error.contains("a/b") && error.contains("maxPods"), "{error}");
        let small = ["10.9.0.0/29".parse().unwrap()];
        for name in ["b", "c", "d"] {
            store.add(&request(name), &small, 1500, 9).unwrap();
        }
        let error = store.add(&request("e"), &small, 1500, 9).unwrap_err().to_string();
        assert!(error.contains("a/e") && error.contains("10.9.0.0/29"), "{error}");
        save(&mut store);
        assert_eq!(Store::open(dir.path()).unwrap().all().len(), 4);
    }

    #[test]
    fn a_damaged_file_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let state = |attachments: &str| {
            format!(r#"{{"layout":1,"lastNumber":2,"lastAddresses":[],"freed":[],"attachments":[{attachments}]}}"#)
        };
        let one = |id: u16| {
            format!(
                r#"{{"number":{id},"container":"c","ifname":"eth0","netns":"/n","hostIfname":"h","mac":"02:00:00:00:00:01","mtu":1500,"addresses":["10.0.0.9"],"ready":true}}"#
            )
        };
        fs::write(&path, state(&one(2))).unwrap();
        assert_eq!(Store::open(dir.path()).unwrap().all().len(), 1);
        for text in [
            String::new(),
            "{\"layout\":1".to_owned(),
            "{\"layout\":2}".to_owned(),
            state(&one(1)),
            state(&format!("{},{}", one(2), one(2))),
            state(&format!("{},{}", one(2), one(3))),
        ] {
            fs::write(&path, &text).unwrap();
            let error = Store::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains(FILE) && error.contains("move it away"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn fields_of_a_later_version_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store.add(&request("a"), &ranges(), 1500, 8).unwrap();
        save(&mut store);
        let path = dir.path().join(FILE);
        let mut file: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        file["later"] = "x".into();
        file["attachments"][0]["later"] = serde_json::json!({"x": 1});
        file["attachments"][0]["pod"]["later"] = "x".into();
        fs::write(&path, file.to_string()).unwrap();
        assert_eq!(Store::open(dir.path()).unwrap().state, store.state);
    }

    #[test]
    fn the_own_node_is_found_again_and_one_that_cannot_be_read_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let node = Arc::new(Node {
            name: "n1".into(),
            labels: Default::default(),
            internal_ips: vec!["192.0.2.1".parse().unwrap()],
            external_ips: Vec::new(),
            vtep: None,
            flannel: None,
            pod_cidrs: ranges().to_vec(),
            ready: true,
            draining: false,
        });
        store.add(&request("a"), &ranges(), 1500, 8).unwrap();
        store.set_own_node(&node);
        save(&mut store);
        assert_eq!(Store::open(dir.path()).unwrap().own_node(), Some(&node));
        let path = dir.path().join(FILE);
        let mut file: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for unreadable in [
            serde_json::json!(7),
            serde_json::json!({"name": "n1"}),
            serde_json::Value::Null,
        ] {
            file["ownNode"] = unreadable;
            fs::write(&path, file.to_string()).unwrap();
            let store = Store::open(dir.path()).unwrap();
            assert_eq!((store.own_node(), store.all().len()), (None, 1));
        }
    }

    #[test]
    fn names_fit_an_interface() {
        let long = ContainerId::new("f".repeat(64)).unwrap();
        assert_eq!(host_ifname(8191, &long).as_str(), "hd8191-ffffffff");
    }

    proptest! {
        // Few cases, because each step waits for the disk.
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn numbers_and_addresses_are_never_shared(steps in proptest::collection::vec((any::<bool>(), 0usize..6), 1..40)) {
            let dir = tempfile::tempdir().unwrap();
            let mut store = Store::open(dir.path()).unwrap();
            let range = ["10.0.0.0/29".parse().unwrap()];
            for (n, (add, which)) in steps.into_iter().enumerate() {
                if add {
                    let _ = store.add(&request(&format!("c{n}")), &range, 1500, 3);
                } else if let Some(id) = store.all().get(which).map(|a| a.id) {
                    store.remove(id);
                }
                save(&mut store);
                let reread = Store::open(dir.path()).unwrap();
                prop_assert_eq!(&reread.state, &store.state);
            }
        }
    }
}
