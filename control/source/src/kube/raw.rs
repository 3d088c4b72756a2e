//! Objects as the API server sends them, before they are decoded.

use std::borrow::Cow;

use kube::api::ObjectMeta;
use kube::core::DynamicResourceScope;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::resource::Resource;

/// An object as JSON, with the parts of its metadata that the watch needs.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    pub(super) meta: ObjectMeta,
    pub(super) value: Value,
}

impl Raw {
    /// Removes what no decoder reads and what makes up most of an object, and adds the kind, which items of lists lack.
    pub(super) fn prepare(&mut self, resource: &Resource) {
        let Some(object) = self.value.as_object_mut() else {
            return;
        };
        if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("managedFields");
        }
        object
            .entry("apiVersion")
            .or_insert_with(|| resource.api_version().into());
        object.entry("kind").or_insert_with(|| resource.kind.as_str().into());
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let text = |field: &str| value["metadata"][field].as_str().map(str::to_owned);
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            uid: text("uid"),
            ..ObjectMeta::default()
        };
        Ok(Self { meta, value })
    }
}

impl kube::Resource for Raw {
    type DynamicType = Resource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &Resource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &Resource) -> Cow<'_, str> {
        resource.group.into()
    }

    fn version(resource: &Resource) -> Cow<'_, str> {
        resource.version.into()
    }

    fn plural(resource: &Resource) -> Cow<'_, str> {
        resource.plural.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}
