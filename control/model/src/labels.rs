//! Labels of pods, namespaces and nodes.

use std::fmt;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `metadata.labels`: sorted, each key once, keys and values of legal syntax. Cheap to clone.
///
/// Labels that [cannot be read](Labels::unreadable) are kept as one label without a key, which no object can have.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// Makes labels from pairs. If a key comes twice, the later value counts, as in a JSON object.
    ///
    /// # Errors
    /// Refuses the first key or value that breaks the
    /// [syntax](https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set).
    pub fn new<K, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Labels, LabelError>
    where
        K: Into<Arc<str>>,
        V: Into<Arc<str>>,
    {
        let mut sorted = std::collections::BTreeMap::new();
        for (key, value) in pairs {
            let (key, value) = (key.into(), value.into());
            check_label_key(&key)?;
            check_label_value(&value)?;
            sorted.insert(key, value);
        }
        Ok(Labels(sorted.into_iter().collect()))
    }

    /// Returns the labels of an object whose labels cannot be read. What they are is not known: see
    /// [`LabelSelector::may_match`](crate::LabelSelector::may_match).
    #[must_use]
    pub fn unreadable() -> Labels {
        let empty = || Arc::<str>::from("");
        Labels(Arc::new([(empty(), empty())]))
    }

    /// Returns true if the labels cannot be read.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        self.0.first().is_some_and(|(key, _)| key.is_empty())
    }

    /// Returns the value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| k.as_ref().cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| value.as_ref())
    }

    /// Returns the pairs of key and value, by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// Returns the number of labels.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Calls a function that may replace each key and value by an equal copy. Does nothing if the set has other holders.
    pub(crate) fn each_text(&mut self, mut exchange: impl FnMut(&mut Arc<str>)) {
        for (key, value) in Arc::get_mut(&mut self.0).into_iter().flatten() {
            exchange(key);
            exchange(value);
        }
    }

    /// Returns true if the set has other holders.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Returns true if both share one copy.
    #[cfg(test)]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns true if there is no label.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_unreadable() {
            return f.write_str("(unreadable)");
        }
        for (n, (key, value)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|(key, value)| (key, value)))
            .finish()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
        let pairs = std::collections::BTreeMap::<Arc<str>, Arc<str>>::deserialize(deserializer)?;
        let unreadable = Labels::unreadable();
        if pairs.iter().eq(unreadable.iter()) {
            return Ok(unreadable);
        }
        Labels::new(pairs).map_err(D::Error::custom)
    }
}

/// A label key or value that Kubernetes would not accept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// The part of a key before the slash is no DNS subdomain.
    #[error("label key {0:?}: the prefix before the slash must be a DNS subdomain of at most 253 characters")]
    Prefix(String),
    /// The name of a key has a character or a length that is not allowed.
    #[error(
        "label key {0:?}: the name must be 1 to 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends"
    )]
    Key(String),
    /// A value has a character or a length that is not allowed.
    #[error(
        "label value {0:?} must be empty or up to 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends"
    )]
    Value(String),
}

/// Checks a label key: an optional DNS subdomain and a slash, then a name.
///
/// # Errors
/// Names the part that is wrong.
pub fn check_label_key(key: &str) -> Result<(), LabelError> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if prefix.is_some_and(|prefix| !is_dns_subdomain(prefix)) {
        return Err(LabelError::Prefix(key.to_owned()));
    }
    if name.is_empty() || !is_qualified(name) {
        return Err(LabelError::Key(key.to_owned()));
    }
    Ok(())
}

/// Checks a label value.
///
/// # Errors
/// Refuses a value that no label can have.
pub fn check_label_value(value: &str) -> Result<(), LabelError> {
    if value.is_empty() || is_qualified(value) {
        Ok(())
    } else {
        Err(LabelError::Value(value.to_owned()))
    }
}

fn is_qualified(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    bytes.len() <= 63
        && ends.iter().all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// RFC 1123 subdomain, as the API validates names.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label_of_any_length)
}

fn is_dns_label_of_any_length(label: &str) -> bool {
    let bytes = label.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    [bytes.first(), bytes.last()]
        .iter()
        .all(|end| end.is_some_and(alphanumeric))
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_follow_the_syntax_of_the_api() {
        let long = "a".repeat(63);
        for key in ["a", "app.kubernetes.io/name", "A_b.c-9", "x/y", long.as_str()] {
            assert_eq!(check_label_key(key), Ok(()), "{key}");
        }
        let too_long = "a".repeat(64);
        for key in [
            "",
            "/",
            "a/",
            "/a",
            "a b",
            "-a",
            "a-",
            "Upper.Case/a",
            "a/b/c",
            "a..b/c",
            too_long.as_str(),
        ] {
            assert!(check_label_key(key).is_err(), "{key}");
        }
        for value in ["", "v", "1.2_3-x", long.as_str()] {
            assert_eq!(check_label_value(value), Ok(()), "{value}");
        }
        for value in ["a b", "-", "x/", "é", too_long.as_str()] {
            assert!(check_label_value(value).is_err(), "{value}");
        }
    }

    #[test]
    fn a_key_is_found_for_any_order_of_the_pairs() {
        let labels = Labels::new([("tier", "web"), ("app", "shop"), ("app", "store")]).unwrap();
        assert_eq!(
            (labels.get("app"), labels.get("tier"), labels.get("ap")),
            (Some("store"), Some("web"), None)
        );
        assert_eq!((labels.len(), labels.to_string().as_str()), (2, "app=store,tier=web"));
        assert_eq!(labels, Labels::new([("app", "store"), ("tier", "web")]).unwrap());
    }
}
