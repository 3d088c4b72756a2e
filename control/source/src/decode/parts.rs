//! Reads JSON without the fields that no decoder reads.
//!
//! Of a pod of 8 kB the decoders read 1 kB. The rest is skipped in the text and never allocated. A value of another type
//! than expected is kept whole, so that the decoder refuses it with its contents.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The parts of a value that are kept.
#[derive(Debug)]
pub(crate) enum Parts {
    /// All of it.
    Whole,
    /// These fields of an object, each with its parts, and no others.
    Only(&'static [(&'static str, Parts)]),
    /// All fields of an object, of these only parts.
    AllBut(&'static [(&'static str, Parts)]),
    /// All entries of a list, of each the same parts.
    Each(&'static Parts),
    /// Nothing.
    Nothing,
}

use Parts::{AllBut, Each, Nothing, Only, Whole};

const CONDITIONS: Parts = Each(&Only(&[("type", Whole), ("status", Whole)]));

/// `metadata` without the fields that nobody reads; `managedFields` is often the largest part of an object.
const fn metadata(annotations: Parts) -> [(&'static str, Parts); 8] {
    [
        ("name", Whole),
        ("namespace", Whole),
        ("uid", Whole),
        ("resourceVersion", Whole),
        ("labels", Whole),
        ("annotations", annotations),
        ("creationTimestamp", Whole),
        ("deletionTimestamp", Whole),
    ]
}

const ANY_METADATA: Parts = Only(&const { metadata(Whole) });

/// A kind's parts. The type names them, because the watcher makes objects by their type alone.
pub(crate) trait KindParts: Clone + fmt::Debug + Send + 'static {
    /// The parts that the kind's decoder reads.
    const PARTS: &'static Parts;
}

/// The parts of a Pod.
#[derive(Clone, Debug)]
pub(crate) struct PodParts;

impl KindParts for PodParts {
    const PARTS: &'static Parts = &AllBut(&[
        (
            "metadata",
            Only(
                &const {
                    metadata(Only(&[
                        ("kubernetes.io/config.mirror", Whole),
                        ("kubernetes.io/config.hash", Whole),
                    ]))
                },
            ),
        ),
        (
            "spec",
            Only(&[
                ("nodeName", Whole),
                ("hostNetwork", Whole),
                ("containers", Each(&Only(&[("ports", Whole)]))),
                (
                    "initContainers",
                    Each(&Only(&[("ports", Whole), ("restartPolicy", Whole)])),
                ),
            ]),
        ),
        (
            "status",
            Only(&[
                ("phase", Whole),
                ("podIP", Whole),
                ("podIPs", Whole),
                ("conditions", CONDITIONS),
            ]),
        ),
    ]);
}

/// The parts of a Node.
#[derive(Clone, Debug)]
pub(crate) struct NodeParts;

impl KindParts for NodeParts {
    const PARTS: &'static Parts = &AllBut(&[
        ("metadata", ANY_METADATA),
        (
            "spec",
            Only(&[("podCIDR", Whole), ("podCIDRs", Whole), ("taints", Whole)]),
        ),
        // The agent writes conditions of its own Node, with a reason.
        (
            "status",
            Only(&[
                ("addresses", Whole),
                (
                    "conditions",
                    Each(&Only(&[("type", Whole), ("status", Whole), ("reason", Whole)])),
                ),
            ]),
        ),
    ]);
}

/// The parts of an EndpointSlice.
#[derive(Clone, Debug)]
pub(crate) struct SliceParts;

impl KindParts for SliceParts {
    const PARTS: &'static Parts = &AllBut(&[
        ("metadata", Only(&const { metadata(Nothing) })),
        (
            "endpoints",
            Each(&Only(&[
                ("addresses", Whole),
                ("conditions", Whole),
                ("hints", Whole),
                ("nodeName", Whole),
                ("zone", Whole),
            ])),
        ),
    ]);
}

/// The parts of every other kind: all but some metadata. Policies must keep their unknown fields, because they are refused
/// for them.
#[derive(Clone, Debug)]
pub(crate) struct OtherParts;

impl KindParts for OtherParts {
    const PARTS: &'static Parts = &AllBut(&[("metadata", ANY_METADATA)]);
}

impl Parts {
    /// Returns the parts of a field.
    fn of(&self, key: &str) -> &'static Parts {
        let (fields, other) = match self {
            Only(fields) => (*fields, &Nothing),
            AllBut(fields) => (*fields, &Whole),
            Whole | Each(_) => return &Whole,
            Nothing => return &Nothing,
        };
        let found = fields.iter().find(|(name, _)| *name == key);
        found.map_or(other, |(_, parts)| parts)
    }
}

impl<'de> DeserializeSeed<'de> for &'static Parts {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(Reader(self))
    }
}

struct Reader(&'static Parts);

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let parts = if let Each(parts) = self.0 { parts } else { &Whole };
        let mut out = Vec::new();
        while let Some(value) = list.next_element_seed(parts)? {
            out.push(value);
        }
        Ok(out.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(field) = object.next_key_seed(Field(self.0))? {
            match field {
                Some((key, parts)) => drop(out.insert(key, object.next_value_seed(parts)?)),
                None => drop(object.next_value::<IgnoredAny>()?),
            }
        }
        Ok(out.into())
    }
}

/// Reads a field's name. The name of a field that is skipped is not allocated.
struct Field(&'static Parts);

impl<'de> DeserializeSeed<'de> for Field {
    type Value = Option<(String, &'static Parts)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Field {
    type Value = Option<(String, &'static Parts)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(match self.0.of(key) {
            Nothing => None,
            parts => Some((key.to_owned(), parts)),
        })
    }
}
