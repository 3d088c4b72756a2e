//! Objects by `kubectl`, with the rights of an administrator.

use serde_json::Value;

use super::ControlPlane;
use crate::{LabError, Output, run_with_input};

impl ControlPlane {
    /// Runs `kubectl`; its exit status is part of the result.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn kubectl_output(&self, args: &[&str], input: &str) -> Result<Output, LabError> {
        self.ns()
            .enter(|| run_with_input(self.kubectl_command().args(args), input))
    }

    /// Runs `kubectl` and returns what it prints.
    ///
    /// # Errors
    /// It fails.
    pub fn kubectl(&self, args: &[&str]) -> Result<String, LabError> {
        self.kubectl_with(args, "")
    }

    /// Runs `kubectl` with `input` on its standard input and returns what it prints.
    ///
    /// # Errors
    /// It fails.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String, LabError> {
        let out = self.kubectl_output(args, input)?;
        if out.ok {
            return Ok(out.stdout);
        }
        Err(LabError::Command {
            command: format!("kubectl {}", args.join(" ")),
            status: out.status,
            stderr: out.stderr.trim().to_owned(),
        })
    }

    /// Applies objects: creates what is not there, and changes what is.
    ///
    /// # Errors
    /// The API server refuses one.
    pub fn apply(&self, objects: &[Value]) -> Result<(), LabError> {
        let documents: Vec<String> = objects.iter().map(ToString::to_string).collect();
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.kubectl_with(&apply, &documents.join("\n---\n")).map(drop)
    }

    /// Applies one object and returns its resource version.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn apply_one(&self, object: &Value) -> Result<u64, LabError> {
        let version = "--output=jsonpath={.metadata.resourceVersion}";
        let apply = ["apply", "--server-side", "--force-conflicts", version, "-f", "-"];
        let text = self.kubectl_with(&apply, &object.to_string())?;
        text.trim().parse().map_err(|e| LabError::Reply {
            what: "the resource version of an object".to_owned(),
            detail: format!("{e}: {text:?}"),
        })
    }

    /// Deletes objects at once, without grace and without waiting for the end.
    ///
    /// # Errors
    /// One does not exist.
    pub fn remove(&self, objects: &[Value]) -> Result<(), LabError> {
        let documents: Vec<String> = objects.iter().map(ToString::to_string).collect();
        let delete = ["delete", "--wait=false", "--force", "--grace-period=0", "-f", "-"];
        self.kubectl_with(&delete, &documents.join("\n---\n")).map(drop)
    }

    /// Returns an object; `what` is the kind, the name and, if it has one, `--namespace=NAME`.
    ///
    /// # Errors
    /// It does not exist.
    pub fn get(&self, what: &[&str]) -> Result<Value, LabError> {
        let text = self.kubectl(&[&["get", "--output=json"], what].concat())?;
        serde_json::from_str(&text).map_err(|e| LabError::Reply {
            what: format!("kubectl get {}", what.join(" ")),
            detail: format!("{e}: {text}"),
        })
    }
}
