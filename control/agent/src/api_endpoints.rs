//! The endpoints of the API server, remembered for the next start.
//!
//! A service account knows the API server by the address of Service `default/kubernetes`, and the node reaches no Service while
//! the agent is down. So the endpoints of that Service are kept in the state directory. Losing the file costs nothing but the
//! way back after a restart, so its faults are logged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use heddle_host::state_file;
use heddle_model::{EndpointSlice, Event, Kind, Object, ObjectKey, Protocol};

/// The name of the file in the state directory: one `ADDRESS:PORT` a line.
pub const FILE: &str = "api-server-endpoints";
/// The most endpoints that are kept.
const MOST: usize = 64;

/// The endpoints of Service `default/kubernetes`.
#[derive(Debug)]
pub(crate) struct ApiEndpoints {
    path: PathBuf,
    /// The endpoints of each EndpointSlice.
    slices: BTreeMap<ObjectKey, BTreeSet<SocketAddr>>,
    /// The endpoints in the file.
    kept: BTreeSet<SocketAddr>,
}

impl ApiEndpoints {
    /// Reads the file. A missing or damaged one gives no endpoints.
    pub(crate) fn read(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let kept = match fs::read_to_string(&path) {
            Ok(text) => parse(&text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(e) => {
                tracing::warn!(file = %path.display(), "cannot read the last known endpoints of the API server: {e}");
                BTreeSet::new()
            }
        };
        Self {
            path,
            slices: BTreeMap::new(),
            kept,
        }
    }

    /// Returns the endpoints in the file.
    pub(crate) fn all(&self) -> Vec<SocketAddr> {
        self.kept.iter().copied().collect()
    }

    /// Records the endpoints that a batch of events names. Without any endpoint, the last known ones stay.
    pub(crate) fn remember(&mut self, batch: &[Event]) {
        let mut is_changed = false;
        for event in batch {
            match event {
                Event::Upsert {
                    object: Object::EndpointSlice(slice),
                    ..
                } if is_of_api_server(slice) => {
                    self.slices.insert(slice.key.clone(), endpoints(slice));
                    is_changed = true;
                }
                Event::Delete(object) if object.kind == Kind::EndpointSlice => {
                    is_changed |= self.slices.remove(&object.key).is_some();
                }
                _ => {}
            }
        }
        let all: BTreeSet<SocketAddr> = self.slices.values().flatten().copied().take(MOST).collect();
        if !is_changed || all.is_empty() || all == self.kept {
            return;
        }
        let text: String = all.iter().map(|endpoint| format!("{endpoint}\n")).collect();
        match state_file::replace(&self.path, text.as_bytes()) {
            Ok(()) => self.kept = all,
            Err(e) => tracing::warn!(
                file = %self.path.display(),
                "cannot keep the endpoints of the API server for the next start: {e}"
            ),
        }
    }
}

/// Returns the endpoints of a text, without the lines that are none.
fn parse(text: &str) -> BTreeSet<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().parse().ok())
        .take(MOST)
        .collect()
}

/// Returns each endpoint of a slice at each of its TCP ports.
fn endpoints(slice: &EndpointSlice) -> BTreeSet<SocketAddr> {
    let tcp = slice.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    let ports: Vec<u16> = tcp.filter_map(|port| Some(port.port?.get())).collect();
    let serving = slice.endpoints.iter().filter(|endpoint| endpoint.serving);
    serving
        .flat_map(|endpoint| ports.iter().map(|port| SocketAddr::new(endpoint.address, *port)))
        .collect()
}

fn is_of_api_server(slice: &EndpointSlice) -> bool {
    let service = slice.service.as_ref();
    service.is_some_and(|service| (&*service.namespace, &*service.name) == ("default", "kubernetes"))
}

#[cfg(test)]
mod tests {
    use heddle_model::{AddressType, Endpoint, EndpointPort, ObjectRef, PortNumber};

    use super::*;

    fn slice(name: &str, service: &str, addresses: &[&str]) -> Event {
        let endpoint = |address: &&str| Endpoint {
            address: address.parse().unwrap(),
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            zone: None,
            hint_zones: Vec::new(),
            hint_nodes: Vec::new(),
        };
        let object = EndpointSlice {
            key: ObjectKey::new("default", name),
            service: Some(ObjectKey::new("default", service)),
            proxy_name: None,
            headless: false,
            address_type: AddressType::V4,
            ports: vec![EndpointPort {
                name: "https".into(),
                protocol: Protocol::Tcp,
                port: PortNumber::new(6443),
            }],
            endpoints: addresses.iter().map(endpoint).collect(),
        };
        Event::Upsert {
            origin: "api".into(),
            object: object.into(),
        }
    }

    fn shown(endpoints: &ApiEndpoints) -> Vec<String> {
        endpoints.all().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_endpoints_of_the_api_server_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut endpoints = ApiEndpoints::read(dir.path());
        assert_eq!(shown(&endpoints), [""; 0]);
        endpoints.remember(&[
            slice("kubernetes", "kubernetes", &["10.0.0.2", "10.0.0.1"]),
            slice("other", "other", &["10.0.0.9"]),
        ]);
        let both = ["10.0.0.1:6443", "10.0.0.2:6443"];
        assert_eq!(shown(&endpoints), both);
        assert_eq!(shown(&ApiEndpoints::read(dir.path())), both);
        // Without an endpoint the last known ones stay: they are the way back.
        endpoints.remember(&[Event::Delete(ObjectRef::new(
            Kind::EndpointSlice,
            ObjectKey::new("default", "kubernetes"),
        ))]);
        assert_eq!(shown(&ApiEndpoints::read(dir.path())), both);
        endpoints.remember(&[slice("kubernetes", "kubernetes", &["10.0.0.3"])]);
        assert_eq!(shown(&ApiEndpoints::read(dir.path())), ["10.0.0.3:6443"]);
    }

    #[test]
    fn a_damaged_file_gives_the_endpoints_that_can_be_read() {
        assert_eq!(parse("10.0.0.1:6443\nnonsense\n\n[fd00::1]:6443\n10.0.0.1").len(), 2);
        assert!(parse("\u{0}\u{ff}").is_empty());
    }
}
