//! The Helm chart and the manifests that it renders to have the configuration's keys: each one, with its default and its bounds.

#![allow(clippy::unwrap_used, reason = "tests may panic, in their helpers too")]

use std::collections::BTreeSet;

use heddle_config::Config;
use serde_json::{Map, Value, json};

const DEFAULTS: &str = include_str!("../../../configs/heddle.yaml");
const VALUES: &str = include_str!("../../../configs/helm/heddle/values.yaml");
const SCHEMA: &str = include_str!("../../../configs/helm/heddle/values.schema.json");
const MANIFESTS: &str = include_str!("../../../configs/kubernetes.yaml");
const RBAC: &str = include_str!("../../../configs/rbac.yaml");

fn yaml(text: &str) -> Map<String, Value> {
    serde_saphyr::from_str(text).unwrap()
}

/// Returns the objects of a file, without the labels that the chart gives them.
fn objects(text: &str) -> Vec<Value> {
    text.split("---\n")
        .filter(|document| document.lines().any(|line| line.starts_with("kind:")))
        .map(|document| {
            let mut object = Value::Object(yaml(document));
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove("labels");
            }
            object
        })
        .collect()
}

/// Returns the keys of the chart that differ from the agent's defaults: a pod has probes, and installs the plugin.
fn of_the_chart(mut defaults: Map<String, Value>) -> Map<String, Value> {
    defaults.insert("probePort".to_owned(), json!(9879));
    let cni = json!({"configDir": "/etc/cni/net.d", "binDir": "/opt/cni/bin"});
    defaults.insert("cni".to_owned(), cni);
    defaults
}

#[test]
fn the_values_are_the_keys_of_the_configuration_file() {
    let values = yaml(VALUES);
    let config = values["config"].as_object().unwrap();
    let expected = of_the_chart(yaml(DEFAULTS));
    assert_eq!(
        config.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>(),
        "every key"
    );
    assert_eq!(config, &expected);
}

#[test]
fn the_schema_has_each_value_and_allows_no_other() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    compare(&Value::Object(yaml(VALUES)), &schema, "");
}

/// Compares the keys of a value with the properties in its schema, at every depth.
fn compare(value: &Value, schema: &Value, path: &str) {
    let (Some(value), Some(properties)) = (value.as_object(), schema["properties"].as_object()) else {
        return;
    };
    assert_eq!(schema["additionalProperties"], false, "{path}");
    // Helm adds `global` to the values of every chart.
    let properties_named: BTreeSet<&String> = properties.keys().filter(|key| *key != "global").collect();
    assert_eq!(value.keys().collect::<BTreeSet<_>>(), properties_named, "{path}");
    for (key, value) in value {
        compare(value, &properties[key], &format!("{path}.{key}"));
    }
}

#[test]
fn the_rendered_configuration_is_read_by_the_agent() {
    let objects = objects(MANIFESTS);
    let map = objects.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
    let text = map["data"]["heddle.yaml"].as_str().unwrap();
    assert_eq!(yaml(text), of_the_chart(yaml(DEFAULTS)));
    let config = Config::parse(text).unwrap();
    assert_eq!(config.probe_port, Some(9879));
    let named = Config {
        node: Some("node-1".to_owned()),
        ..config
    };
    assert!(named.check().is_ok());
}

#[test]
fn the_rendered_rights_are_those_of_the_rbac_file() {
    let rendered = objects(MANIFESTS);
    let rights = objects(RBAC);
    assert_eq!(rights.len(), 3);
    for object in rights {
        assert!(rendered.contains(&object), "{object:#}");
    }
}
