//! Strings from outside as validated types: container identifiers, interface names, object names, namespace paths.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A string that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The string is empty.
    #[error("{what} is empty")]
    Empty {
        /// The kind of string, for the message.
        what: &'static str,
    },
    /// The string is too long.
    #[error("{what} {shown:?} has {len} bytes: at most {max} are allowed")]
    TooLong {
        /// The kind of string, for the message.
        what: &'static str,
        /// The beginning of the string.
        shown: String,
        /// Its length in bytes.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// The string contains a character that is not allowed, or has the wrong form.
    #[error("{what} {shown:?} is not allowed: {rule}")]
    Form {
        /// The kind of string, for the message.
        what: &'static str,
        /// The beginning of the string.
        shown: String,
        /// The allowed form.
        rule: &'static str,
    },
}

/// Returns the beginning of a text, for an error message.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Refuses an empty text and one of more than `max` bytes.
fn bounded(what: &'static str, text: &str, max: usize) -> Result<(), TextError> {
    if text.is_empty() {
        return Err(TextError::Empty { what });
    }
    if text.len() > max {
        return Err(TextError::TooLong {
            what,
            shown: shown(text),
            len: text.len(),
            max,
        });
    }
    Ok(())
}

/// Refuses a text whose form is not `ok`.
fn formed(ok: bool, what: &'static str, text: &str, rule: &'static str) -> Result<(), TextError> {
    if ok {
        Ok(())
    } else {
        Err(TextError::Form {
            what,
            shown: shown(text),
            rule,
        })
    }
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Validates the text.
            ///
            /// # Errors
            /// The text is empty, too long or contains a character that is not allowed.
            pub fn new(text: impl Into<String>) -> Result<Self, TextError> {
                let text = text.into();
                $check(&text)?;
                Ok(Self(text))
            }

            /// Returns the text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = TextError;
            fn try_from(text: String) -> Result<Self, TextError> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = TextError;
            fn from_str(text: &str) -> Result<Self, TextError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

text_type! {
    /// `CNI_CONTAINERID`: a letter or a digit, then letters, digits, `_`, `.`, `-` (CNI 1.1, section 2, "Parameters"); at
    /// most 255 bytes, so that it can be a file's name.
    ContainerId, check_container
}
text_type! {
    /// The name of a network interface: 1 to 15 bytes, not `.` or `..`, without `/`, `:` and white space
    /// (CNI 1.1, section 2; `dev_valid_name` and `IFNAMSIZ` of the kernel).
    IfName, check_ifname
}
text_type! {
    /// The name, namespace or uid of a Kubernetes object: 1 to 253 bytes of letters, digits, `-`, `.` (RFC 1123 subdomain;
    /// capitals are allowed, because a uid may have them).
    ObjectName, check_object
}
text_type! {
    /// `CNI_NETNS`: an absolute path of less than 4096 bytes.
    NetnsPath, check_netns
}

fn check_container(text: &str) -> Result<(), TextError> {
    const WHAT: &str = "container id";
    bounded(WHAT, text, 255)?;
    let ok = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    formed(
        ok,
        WHAT,
        text,
        "it must begin with a letter or digit, followed by letters, digits, '_', '.' or '-'",
    )
}

fn check_ifname(text: &str) -> Result<(), TextError> {
    const WHAT: &str = "interface name";
    bounded(WHAT, text, 15)?;
    formed(text != "." && text != "..", WHAT, text, "it must not be '.' or '..'")?;
    let ok = !text
        .chars()
        .any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    formed(
        ok,
        WHAT,
        text,
        "it must not contain '/', ':', white space or control characters",
    )
}

fn check_object(text: &str) -> Result<(), TextError> {
    const WHAT: &str = "object name";
    bounded(WHAT, text, 253)?;
    let ok = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
    formed(ok, WHAT, text, "it may contain only letters, digits, '-' and '.'")
}

fn check_netns(text: &str) -> Result<(), TextError> {
    const WHAT: &str = "network namespace";
    bounded(WHAT, text, 4095)?;
    formed(
        text.starts_with('/') && !text.contains('\0'),
        WHAT,
        text,
        "it must be an absolute path, such as /run/netns/NAME",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids_follow_the_specification() {
        for good in ["a", "0", "3f2a_b.c-d", &"f".repeat(255)] {
            assert!(ContainerId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "_a", "a/b", "a b", "a:b", "ä", "..", &"f".repeat(256)] {
            assert!(ContainerId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn interface_names_follow_the_kernels_rules() {
        for good in ["eth0", "a", "...", "net-1.5", "abcdefghijklmno"] {
            assert!(IfName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a b",
            "a\tb",
            "a\u{7f}",
            "abcdefghijklmnop",
        ] {
            assert!(IfName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_carry_the_value_and_stay_short() {
        let e = IfName::new("x".repeat(1000)).unwrap_err().to_string();
        assert!(e.contains("1000 bytes: at most 15") && e.len() < 200, "{e}");
        assert_eq!(
            IfName::new("a/b").unwrap_err().to_string(),
            "interface name \"a/b\" is not allowed: it must not contain '/', ':', white space or control characters"
        );
    }

    #[test]
    fn a_bad_name_does_not_decode() {
        assert!(serde_json::from_str::<IfName>("\"a/b\"").is_err());
        assert_eq!(serde_json::from_str::<IfName>("\"eth0\"").unwrap().as_str(), "eth0");
        assert!(NetnsPath::new("run/netns/a").is_err());
        assert!(ObjectName::new("kube-system").is_ok());
        assert!(ObjectName::new("a/b").is_err());
    }

    proptest::proptest! {
        /// Compares the rule for interface names with the kernel's (`dev_valid_name`), written independently.
        #[test]
        fn interface_names_match_dev_valid_name(text in "[a-z./: \\t\u{e4}]{0,17}") {
            let kernel = !text.is_empty()
                && text.len() < 16
                && text != "."
                && text != ".."
                && !text.bytes().any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace());
            proptest::prop_assert_eq!(IfName::new(text).is_ok(), kernel);
        }

        #[test]
        fn valid_container_ids_survive_json(text in ".{0,300}") {
            if let Ok(id) = ContainerId::new(text) {
                let json = serde_json::to_string(&id).unwrap();
                proptest::prop_assert_eq!(serde_json::from_str::<ContainerId>(&json).unwrap(), id);
            }
        }
    }
}
