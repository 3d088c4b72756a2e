//! Decodes `metadata`: names and labels.

use std::cell::RefCell;
use std::sync::Arc;

use heddle_model::{Kind, LabelError, Labels, ObjectKey, check_label_key, check_label_value};

use serde_json::Value;

use super::node::{Fault, Found, Node};

/// The `metadata` of an object, with legal names.
pub(super) struct Meta<'a> {
    pub(super) key: ObjectKey,
    node: Node<'a>,
    /// The faults of parts that were ignored.
    ignored: RefCell<Vec<Fault<'a>>>,
}

impl<'a> Meta<'a> {
    /// Reads the names. An object without a namespace is in `default`, as for `kubectl apply`.
    pub(super) fn read(root: Node<'a>, kind: Kind) -> Found<'a, Meta<'a>> {
        let node = root.need("metadata")?;
        let name = node.need("name")?;
        let max = if kind == Kind::Namespace { 63 } else { 253 };
        let name = name.parse(|text| check_name(text, max))?;
        let namespace = if kind.is_namespaced() {
            node.parse_of("namespace", |text| check_name(text, 63))?
                .unwrap_or("default")
        } else {
            ""
        };
        Ok(Meta {
            key: ObjectKey::new(namespace, name),
            node,
            ignored: RefCell::default(),
        })
    }

    /// Returns a part of the object, or `None` and records its fault: the part is ignored, and the rest of the object is used.
    pub(super) fn good<T>(&self, part: Found<'a, T>) -> Option<T> {
        part.map_err(|fault| self.ignored.borrow_mut().push(fault)).ok()
    }

    /// Returns the first fault of an ignored part, and the number of others.
    pub(super) fn take_ignored(&self) -> Option<(Fault<'a>, usize)> {
        let mut all = std::mem::take(&mut *self.ignored.borrow_mut()).into_iter();
        Some((all.next()?, all.len()))
    }

    pub(super) fn name(&self) -> Arc<str> {
        Arc::clone(&self.key.name)
    }

    /// Returns `labels`, or unreadable ones.
    pub(super) fn labels(&self) -> Labels {
        self.labels_and([])
    }

    /// Returns `labels`, or unreadable ones, with more that the API server sets.
    pub(super) fn labels_and<const N: usize>(&self, more: [(&str, &str); N]) -> Labels {
        self.good(labels(self.node, "labels", &more))
            .unwrap_or_else(Labels::unreadable)
    }

    /// Returns the value of a label.
    pub(super) fn label(&self, key: &str) -> Found<'a, Option<&'a str>> {
        entry(self.node, "labels", key)
    }

    /// Returns an annotation, with its path.
    pub(super) fn annotation(&self, key: &str) -> Found<'a, Option<Node<'a>>> {
        Ok(self
            .node
            .entries("annotations")?
            .find(|(name, _)| *name == key)
            .map(|(_, node)| node))
    }

    /// Returns `uid`.
    pub(super) fn uid(&self) -> Found<'a, Arc<str>> {
        Ok(self.node.text_of("uid")?.unwrap_or_default().into())
    }

    /// Returns `creationTimestamp` (RFC 3339 in UTC, as the API server writes it) as a number that grows with time; 0 if there
    /// is none or it cannot be read.
    pub(super) fn created(&self) -> Found<'a, u64> {
        let Some(Node(Value::String(text))) = self.node.get("creationTimestamp")? else {
            return Ok(0);
        };
        let digits: String = text.chars().take(19).filter(char::is_ascii_digit).collect();
        Ok(digits.parse().ok().filter(|_| digits.len() == 14).unwrap_or(0))
    }

    /// Returns `true` if `deletionTimestamp` is set.
    pub(super) fn is_terminating(&self) -> Found<'a, bool> {
        Ok(self.node.get("deletionTimestamp")?.is_some())
    }
}

fn entry<'a>(node: Node<'a>, field: &'static str, key: &str) -> Found<'a, Option<&'a str>> {
    let found = node.entries(field)?.find(|(name, _)| *name == key);
    found.map(|(_, node)| node.text()).transpose()
}

/// Reads a map of labels and checks each one.
pub(super) fn labels<'a>(node: Node<'a>, field: &'static str, more: &[(&str, &str)]) -> Found<'a, Labels> {
    let mut pairs = Vec::new();
    for (key, value) in node.entries(field)? {
        check_label_key(key).map_err(|error| value.fault(error))?;
        pairs.push((key, value.parse(|text| check_label_value(text).map(|()| text))?));
    }
    pairs.extend(more.iter().copied());
    Labels::new(pairs).map_err(|error: LabelError| node.fault(error))
}

/// Returns `true` if the API server accepts the name of an object (RFC 1123). A label of a name may be as long as the name.
pub(super) fn check_name(text: &str, max: usize) -> Result<&str, String> {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        [bytes.first(), bytes.last()]
            .iter()
            .all(|end| end.is_some_and(alphanumeric))
            && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
    };
    // Namespaces are DNS labels; other names may have dots.
    let dotted = max > 63;
    if text.len() <= max && (dotted || !text.contains('.')) && text.split('.').all(label) {
        return Ok(text);
    }
    let dots = if dotted { ", '-' and '.'" } else { " and '-'" };
    Err(format!(
        "must be 1 to {max} lower case letters, digits{dots}, with a letter or digit at both ends"
    ))
}

/// Returns `true` for an IANA service name, as container ports and policies have them (RFC 6335 section 5.1).
pub(super) fn check_port_name(text: &str) -> Result<Arc<str>, &'static str> {
    let bytes = text.as_bytes();
    let good = bytes.len() <= 15
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes.iter().any(u8::is_ascii_lowercase)
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--");
    if good {
        return Ok(text.into());
    }
    Err("must be a port name: up to 15 lower case letters, digits and single '-' inside, with at least one letter")
}
