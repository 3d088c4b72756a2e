//! One shared copy of equal values in many objects: label sets and ports of a Deployment's pods, keys and values of labels, and
//! the names of ports, namespaces and nodes.

use std::collections::HashSet;
use std::sync::Arc;

use crate::event::Object;
use crate::labels::Labels;
use crate::pod::ContainerPort;

/// The shared copies. Unused copies are dropped whenever their number has doubled since the last time.
#[derive(Debug, Default)]
pub struct Interner {
    texts: HashSet<Arc<str>>,
    labels: HashSet<Labels>,
    ports: HashSet<Arc<[ContainerPort]>>,
    swept_at: usize,
}

/// With fewer copies than this, unused ones are not searched for.
const FEW: usize = 1024;

impl Interner {
    /// Replaces an object's values with the shared copies. An object that has another holder already stays as it is.
    pub fn object(&mut self, object: &mut Object) {
        match object {
            Object::Pod(pod) => {
                let Some(pod) = Arc::get_mut(pod) else { return };
                self.text(&mut pod.key.namespace);
                self.labels(&mut pod.labels);
                pod.node.iter_mut().for_each(|node| self.text(node));
                self.ports(&mut pod.ports);
            }
            Object::Namespace(namespace) => {
                let Some(namespace) = Arc::get_mut(namespace) else {
                    return;
                };
                self.text(&mut namespace.name);
                self.labels(&mut namespace.labels);
            }
            Object::NetworkPolicy(policy) => {
                let Some(policy) = Arc::get_mut(policy) else { return };
                self.text(&mut policy.key.namespace);
            }
            Object::Service(service) => {
                let Some(service) = Arc::get_mut(service) else { return };
                self.text(&mut service.key.namespace);
            }
            Object::EndpointSlice(slice) => {
                let Some(slice) = Arc::get_mut(slice) else { return };
                self.text(&mut slice.key.namespace);
                slice.endpoints.shrink_to_fit();
                slice.ports.shrink_to_fit();
                for endpoint in &mut slice.endpoints {
                    let names = endpoint.node.iter_mut().chain(&mut endpoint.zone);
                    let hints = endpoint.hint_zones.iter_mut().chain(&mut endpoint.hint_nodes);
                    names.chain(hints).for_each(|name| self.text(name));
                }
            }
            Object::Node(_) | Object::ServiceCidr(_) | Object::ClusterNetworkPolicy(_) => {}
        }
        if self.len() > 2 * self.swept_at.max(FEW) {
            self.sweep();
        }
    }

    fn len(&self) -> usize {
        self.texts.len() + self.labels.len() + self.ports.len()
    }

    fn text(&mut self, text: &mut Arc<str>) {
        match self.texts.get(text) {
            Some(known) => *text = Arc::clone(known),
            None => {
                self.texts.insert(Arc::clone(text));
            }
        }
    }

    fn labels(&mut self, labels: &mut Labels) {
        if let Some(known) = self.labels.get(labels) {
            *labels = known.clone();
            return;
        }
        labels.each_text(|text| self.text(text));
        self.labels.insert(labels.clone());
    }

    fn ports(&mut self, ports: &mut Arc<[ContainerPort]>) {
        if let Some(known) = self.ports.get(ports) {
            *ports = Arc::clone(known);
            return;
        }
        let names = Arc::get_mut(ports).into_iter().flatten();
        names
            .filter_map(|port| port.name.as_mut())
            .for_each(|name| self.text(name));
        self.ports.insert(Arc::clone(ports));
    }

    fn sweep(&mut self) {
        // Sets first: they hold keys, values and names.
        self.labels.retain(Labels::is_shared);
        self.ports.retain(|ports| Arc::strong_count(ports) > 1);
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.swept_at = self.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Namespace, ObjectKey, Pod, PodPhase, PortNumber, Protocol};

    fn pod(name: &str, app: &str) -> Object {
        Object::from(Pod {
            key: ObjectKey::new("shop", name),
            uid: "".into(),
            static_uid: None,
            labels: Labels::new([("app", app), ("tier", "db")]).unwrap(),
            node: Some("node-1".into()),
            ips: Box::default(),
            host_network: false,
            phase: PodPhase::Running,
            ports: [ContainerPort {
                name: Some("http".into()),
                number: PortNumber::MIN,
                protocol: Protocol::Tcp,
                host: None,
            }]
            .into(),
            ready: true,
            terminating: false,
            created: 0,
        })
    }

    fn labels(object: &Object) -> &Labels {
        match object {
            Object::Pod(pod) => &pod.labels,
            Object::Namespace(namespace) => &namespace.labels,
            _ => panic!("no labels"),
        }
    }

    #[test]
    fn equal_label_sets_and_equal_texts_are_shared() {
        let mut interner = Interner::default();
        let mut pods = [pod("a", "web"), pod("b", "web"), pod("c", "db")];
        pods.iter_mut().for_each(|pod| interner.object(pod));
        assert_eq!(pods, [pod("a", "web"), pod("b", "web"), pod("c", "db")]);
        let [a, b, c] = pods.each_ref().map(labels);
        assert!(a.is_same(b) && !a.is_same(c));
        let keys = [a, c].map(|labels| Arc::as_ptr(labels.iter().next().unwrap().0));
        assert_eq!(keys[0].cast::<u8>(), keys[1].cast::<u8>());
    }

    #[test]
    fn equal_ports_are_shared() {
        let mut interner = Interner::default();
        let mut pods = [pod("a", "web"), pod("b", "db")];
        pods.iter_mut().for_each(|pod| interner.object(pod));
        let ports = pods.each_ref().map(|object| match object {
            Object::Pod(pod) => &pod.ports,
            _ => panic!("no pod"),
        });
        assert!(Arc::ptr_eq(ports[0], ports[1]));
        drop(pods);
        interner.sweep();
        assert_eq!(interner.len(), 0);
    }

    #[test]
    fn unused_values_are_freed() {
        let mut interner = Interner::default();
        for n in 0..20_000 {
            interner.object(&mut pod("a", &format!("app{n}")));
        }
        assert!(interner.len() < 5 * FEW, "{}", interner.len());
        let mut kept = Object::from(Namespace {
            name: "shop".into(),
            labels: Labels::new([("team", "a")]).unwrap(),
        });
        interner.object(&mut kept);
        interner.sweep();
        assert!(interner.labels.contains(labels(&kept)));
        assert_eq!(interner.labels.len(), 1);
    }
}
