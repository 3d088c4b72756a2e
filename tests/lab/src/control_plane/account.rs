//! The account of an agent: a service account with the rights that the product asks for, its token and its kubeconfig.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::ControlPlane;
use crate::LabError;

/// The product's service account and its rights.
const RIGHTS: &str = include_str!("../../../../configs/rbac.yaml");
/// The namespace of the service account.
const NAMESPACE: &str = "kube-system";

/// A service account with exactly the rights of `configs/rbac.yaml`, which can be taken away.
#[derive(Debug)]
pub struct Account {
    name: String,
    dir: PathBuf,
    /// The service account, its role and the binding.
    objects: Vec<Value>,
}

impl Account {
    /// Makes the account from the objects of `configs/rbac.yaml`, under another name, so that each agent of a laboratory can
    /// have rights of its own.
    ///
    /// # Errors
    /// `configs/rbac.yaml` cannot be read, or the API server refuses.
    pub fn create(plane: &ControlPlane, name: &str) -> Result<Self, LabError> {
        let read = ["create", "--dry-run=client", "--output=json", "-f", "-"];
        let text = plane.kubectl_with(&read, &RIGHTS.replace("name: heddle", &format!("name: {name}")))?;
        let documents = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        let mut objects = Vec::new();
        for document in documents {
            let document = document.map_err(|e| LabError::Reply {
                what: "configs/rbac.yaml".to_owned(),
                detail: e.to_string(),
            })?;
            match document["items"].as_array() {
                Some(items) => objects.extend(items.iter().cloned()),
                None => objects.push(document),
            }
        }
        let account = Self {
            name: name.to_owned(),
            dir: plane.dir().to_owned(),
            objects,
        };
        plane.apply(&account.objects)?;
        account.renew_token(plane)?;
        Ok(account)
    }

    /// Writes a kubeconfig with the account's token for a server at this address, and returns its path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn kubeconfig(&self, plane: &ControlPlane, server: SocketAddr) -> Result<PathBuf, LabError> {
        let user = json!({"tokenFile": self.token_file().display().to_string()});
        let kubeconfig = plane.authority().kubeconfig(&format!("https://{server}"), &user);
        let path = self.dir.join(format!("{}.kubeconfig", self.name));
        fs::write(&path, kubeconfig.to_string()).map_err(LabError::io(format!("writing {}", path.display())))?;
        Ok(path)
    }

    /// Asks for a new token and puts it into the place of the old one. The old one stays valid.
    ///
    /// # Errors
    /// The API server refuses, or the file cannot be written.
    pub fn renew_token(&self, plane: &ControlPlane) -> Result<(), LabError> {
        let token = plane.kubectl(&["create", "token", &self.name, "--namespace", NAMESPACE])?;
        let (path, draft) = (self.token_file(), self.dir.join(format!(".{}.token", self.name)));
        fs::write(&draft, token.trim())
            .and_then(|()| fs::rename(&draft, &path))
            .map_err(LabError::io(format!("writing {}", path.display())))
    }

    /// Deletes the service account and makes it again, so that its earlier tokens are no longer valid.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn revoke_tokens(&self, plane: &ControlPlane) -> Result<(), LabError> {
        plane.kubectl(&["delete", "serviceaccount", &self.name, "--namespace", NAMESPACE])?;
        plane.apply(&self.objects)
    }

    /// Returns every right: a resource with its group, as `pods` or `endpointslices.discovery.k8s.io`, and a verb.
    #[must_use]
    pub fn rights(&self) -> Vec<(String, String)> {
        let mut rights = Vec::new();
        for rule in self.rules() {
            for (group, resource) in pairs(&rule["apiGroups"], &rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    let dot = if group.is_empty() { "" } else { "." };
                    rights.push((format!("{resource}{dot}{group}"), verb.to_owned()));
                }
            }
        }
        rights
    }

    /// Takes one right away, and gives all others.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn take_away(&self, plane: &ControlPlane, resource: &str, verb: &str) -> Result<(), LabError> {
        let mut rules = Vec::new();
        for rule in self.rules() {
            for (group, name) in pairs(&rule["apiGroups"], &rule["resources"]) {
                let dot = if group.is_empty() { "" } else { "." };
                let is_it = format!("{name}{dot}{group}") == resource;
                let verbs: Vec<&str> = texts(&rule["verbs"]).filter(|v| !(is_it && *v == verb)).collect();
                if !verbs.is_empty() {
                    rules.push(json!({"apiGroups": [group], "resources": [name], "verbs": verbs}));
                }
            }
        }
        let mut role = self.role().clone();
        role["rules"] = json!(rules);
        plane.apply(&[role])
    }

    /// Gives all rights back.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn give_back(&self, plane: &ControlPlane) -> Result<(), LabError> {
        plane.apply(&[self.role().clone()])
    }

    fn role(&self) -> &Value {
        let role = self.objects.iter().find(|object| object["kind"] == "ClusterRole");
        role.unwrap_or(&Value::Null)
    }

    fn rules(&self) -> &[Value] {
        self.role()["rules"].as_array().map_or(&[], Vec::as_slice)
    }

    fn token_file(&self) -> PathBuf {
        self.dir.join(format!("{}.token", self.name))
    }
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Returns every pair of a group and a resource.
fn pairs<'a>(groups: &'a Value, resources: &'a Value) -> impl Iterator<Item = (&'a str, &'a str)> {
    texts(groups).flat_map(|group| texts(resources).map(move |resource| (group, resource)))
}
