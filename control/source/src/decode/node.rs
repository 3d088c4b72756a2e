//! Typed access to a value inside an object, and faults that name the value's path.

use std::fmt::Display;

use heddle_model::PortNumber;
use serde_json::Value;

/// A value inside an object. `null` counts as absent, as in the API.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node<'a>(pub(super) &'a Value);

/// A fault. It holds the value itself, so that the path is computed only if there is a fault.
#[derive(Debug)]
pub(super) struct Fault<'a> {
    at: &'a Value,
    key: Option<&'static str>,
    /// The fault and the remedy.
    pub(super) message: String,
}

pub(super) type Found<'a, T> = Result<T, Fault<'a>>;

impl<'a> Node<'a> {
    /// Returns a field of an object.
    pub(super) fn get(self, key: &'static str) -> Found<'a, Option<Node<'a>>> {
        match self.0 {
            Value::Object(fields) => Ok(fields.get(key).filter(|value| !value.is_null()).map(Node)),
            _ => Err(self.fault("must be an object")),
        }
    }

    /// Returns a required field.
    pub(super) fn need(self, key: &'static str) -> Found<'a, Node<'a>> {
        self.get(key)?.ok_or_else(|| self.missing(key))
    }

    /// Returns the entries of a list; none if it is absent.
    pub(super) fn items(self, key: &'static str) -> Found<'a, impl ExactSizeIterator<Item = Node<'a>> + use<'a>> {
        let items: &'a [Value] = match self.get(key)? {
            None => &[],
            Some(Node(Value::Array(items))) => items,
            Some(other) => return Err(other.fault("must be a list")),
        };
        Ok(items.iter().map(Node))
    }

    /// Returns the fields of an object; none if it is absent.
    pub(super) fn entries(
        self,
        key: &'static str,
    ) -> Found<'a, impl ExactSizeIterator<Item = (&'a str, Node<'a>)> + use<'a>> {
        static EMPTY: std::sync::LazyLock<serde_json::Map<String, Value>> = std::sync::LazyLock::new(Default::default);
        let fields: &'a serde_json::Map<String, Value> = match self.get(key)? {
            None => &EMPTY,
            Some(Node(Value::Object(fields))) => fields,
            Some(other) => return Err(other.fault("must be an object")),
        };
        Ok(fields.iter().map(|(key, value)| (key.as_str(), Node(value))))
    }

    /// Returns the value as a string.
    pub(super) fn text(self) -> Found<'a, &'a str> {
        match self.0 {
            Value::String(text) => Ok(text),
            Value::Number(_) | Value::Bool(_) => Err(self.fault("must be a string: put it in quotes")),
            _ => Err(self.fault("must be a string")),
        }
    }

    /// Returns a field as a string.
    pub(super) fn text_of(self, key: &'static str) -> Found<'a, Option<&'a str>> {
        self.get(key)?.map(Node::text).transpose()
    }

    /// Returns a field as a boolean, false if it is absent.
    pub(super) fn flag_of(self, key: &'static str) -> Found<'a, bool> {
        self.flag_or(key, false)
    }

    /// Returns a field as a boolean.
    pub(super) fn flag_or(self, key: &'static str, default: bool) -> Found<'a, bool> {
        match self.get(key)? {
            None => Ok(default),
            Some(Node(Value::Bool(flag))) => Ok(*flag),
            Some(other) => Err(other.fault("must be true or false")),
        }
    }

    /// Returns the value as a port.
    pub(super) fn port(self) -> Found<'a, PortNumber> {
        let number = self
            .0
            .as_u64()
            .and_then(|number| u16::try_from(number).ok())
            .and_then(PortNumber::new);
        number.ok_or_else(|| self.fault("must be a port number, 1 to 65535"))
    }

    /// Returns a field as a port.
    pub(super) fn port_of(self, key: &'static str) -> Found<'a, Option<PortNumber>> {
        self.get(key)?.map(Node::port).transpose()
    }

    /// Returns a field as a port; 0 counts as absent, as in the API.
    pub(super) fn port_or_zero_of(self, key: &'static str) -> Found<'a, Option<PortNumber>> {
        match self.get(key)? {
            Some(node) if node.0.as_u64() == Some(0) => Ok(None),
            node => node.map(Node::port).transpose(),
        }
    }

    /// Parses the value from its text.
    pub(super) fn parse<T, E: Display>(self, read: impl FnOnce(&'a str) -> Result<T, E>) -> Found<'a, T> {
        read(self.text()?).map_err(|error| self.fault(error))
    }

    /// Parses a field from its text.
    pub(super) fn parse_of<T, E: Display>(
        self,
        key: &'static str,
        read: impl FnOnce(&'a str) -> Result<T, E>,
    ) -> Found<'a, Option<T>> {
        self.get(key)?.map(|node| node.parse(read)).transpose()
    }

    /// Returns a fault of this value.
    pub(super) fn fault(self, message: impl Display) -> Fault<'a> {
        Fault {
            at: self.0,
            key: None,
            message: message.to_string(),
        }
    }

    /// Returns the fault of a missing field.
    pub(super) fn missing(self, key: &'static str) -> Fault<'a> {
        Fault {
            at: self.0,
            key: Some(key),
            message: "is missing".to_owned(),
        }
    }
}

impl Fault<'_> {
    /// Returns the path of the field, as `spec.ports[0].port`.
    pub(super) fn path(&self, root: &Value) -> String {
        let mut path = String::new();
        if !find(root, self.at, &mut path) {
            path.clear();
        }
        if let Some(key) = self.key {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(key);
        }
        path
    }

    /// Returns the field's value, shortened; empty for a missing field.
    pub(super) fn value(&self) -> String {
        if self.key.is_some() {
            String::new()
        } else {
            shortened(self.at)
        }
    }
}

fn find(here: &Value, wanted: &Value, path: &mut String) -> bool {
    use std::fmt::Write as _;

    if std::ptr::eq(here, wanted) {
        return true;
    }
    let length = path.len();
    match here {
        Value::Object(fields) => {
            for (key, value) in fields {
                // Keys with dots are written as kubectl's JSON path does.
                let _ = match (key.contains('.'), path.is_empty()) {
                    (true, _) => write!(path, "[{key:?}]"),
                    (false, true) => write!(path, "{key}"),
                    (false, false) => write!(path, ".{key}"),
                };
                if find(value, wanted, path) {
                    return true;
                }
                path.truncate(length);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                let _ = write!(path, "[{index}]");
                if find(value, wanted, path) {
                    return true;
                }
                path.truncate(length);
            }
        }
        _ => {}
    }
    false
}

/// Returns a value as text, cut after 80 characters.
fn shortened(value: &Value) -> String {
    const MAX_CHARACTERS: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
