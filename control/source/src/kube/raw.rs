//! Objects as the API server sends them, before they are decoded.

use std::borrow::Cow;
use std::marker::PhantomData;

use kube::api::ObjectMeta;
use kube::core::DynamicResourceScope;
use serde::de::DeserializeSeed;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::resource::Resource;
use crate::decode::parts::KindParts;

/// The parts of an object that its decoder reads, as JSON, with the parts of its metadata that the watch needs.
#[derive(Clone, Debug)]
pub(super) struct Raw<P> {
    pub(super) meta: ObjectMeta,
    pub(super) value: Value,
    parts: PhantomData<P>,
}

impl<P> Raw<P> {
    /// Adds the kind, which items of lists lack.
    pub(super) fn prepare(&mut self, resource: &Resource) {
        let Some(object) = self.value.as_object_mut() else {
            return;
        };
        object
            .entry("apiVersion")
            .or_insert_with(|| resource.api_version().into());
        object.entry("kind").or_insert_with(|| resource.kind.as_str().into());
    }
}

impl<'de, P: KindParts> Deserialize<'de> for Raw<P> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = P::PARTS.deserialize(deserializer)?;
        let text = |field: &str| value["metadata"][field].as_str().map(str::to_owned);
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            uid: text("uid"),
            ..ObjectMeta::default()
        };
        Ok(Self {
            meta,
            value,
            parts: PhantomData,
        })
    }
}

impl<P> kube::Resource for Raw<P> {
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
