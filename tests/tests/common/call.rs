//! Calls of the CNI plugin as a container runtime makes them, each with one deliberate fault.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use heddle_lab::shop::Shop;
use heddle_lab::{LabError, Output, run_with_input};
use serde_json::{Value, json};

use super::binaries;

/// The variables and the configuration of a call.
#[derive(Clone)]
pub struct Call {
    variables: Vec<(&'static str, String)>,
    config: String,
    /// The program that runs the plugin, with its arguments; empty for none.
    wrapper: &'static [&'static str],
}

impl Call {
    /// Returns an ADD without a fault.
    pub fn of(shop: &Shop, netns: &Path) -> Self {
        Self {
            variables: vec![
                ("CNI_COMMAND", "ADD".to_owned()),
                ("CNI_CONTAINERID", "container-1".to_owned()),
                ("CNI_NETNS", netns.display().to_string()),
                ("CNI_IFNAME", "eth0".to_owned()),
                ("CNI_ARGS", String::new()),
                ("CNI_PATH", "/".to_owned()),
            ],
            config:
                json!({"cniVersion": "1.1.0", "name": "heddle", "type": "heddle-cni", "runDir": shop.node.run_dir()})
                    .to_string(),
            wrapper: &[],
        }
    }

    /// Sets a variable.
    pub fn with(mut self, variable: &'static str, value: &str) -> Self {
        self = self.without(variable);
        self.variables.push((variable, value.to_owned()));
        self
    }

    /// Removes a variable.
    pub fn without(mut self, variable: &str) -> Self {
        self.variables.retain(|(name, _)| *name != variable);
        self
    }

    /// Sets a key of the configuration.
    pub fn key(mut self, key: &str, value: Value) -> Self {
        let mut config: Value = serde_json::from_str(&self.config).unwrap_or_default();
        config[key] = value;
        self.config = config.to_string();
        self
    }

    /// Replaces standard input.
    pub fn input(mut self, input: &str) -> Self {
        input.clone_into(&mut self.config);
        self
    }

    /// Lets another program run the plugin.
    pub const fn by(mut self, wrapper: &'static [&'static str]) -> Self {
        self.wrapper = wrapper;
        self
    }

    /// Runs the plugin in the node's namespace.
    pub fn run(&self, shop: &Shop) -> Result<Output, LabError> {
        let cni = binaries()?.cni.into_os_string();
        let mut words = self.wrapper.iter().map(OsString::from).chain([cni]);
        let mut plugin = Command::new(words.next().unwrap_or_default());
        plugin
            .args(words)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        shop.node.ns().enter(|| run_with_input(&mut plugin, &self.config))
    }
}

/// Returns the code of the error that the plugin printed.
pub fn code(out: &Output) -> Option<u64> {
    serde_json::from_str::<Value>(&out.stdout).ok()?["code"].as_u64()
}
